"""What a control room costs: `python -m bench dashboard`.

200 sources on one page in headless Chromium: the frames a second in which all 200 meters were repainted from
data at most 200 ms old. Then 500 pages' feeds open at once on one web process: how old levels are on arrival.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from bench.report import circumstances, document, write
from control.station.ports import free_port
from projections.database import open_engine
from projections.schema import migrate
from streams.connection import connect
from streams.library import load_library
from streams.settings import load
from tests.fix_browser import ARGUMENTS
from tests.fix_cli import made_folder
from tests.fix_projections import Yard
from tests.fix_room import Calendar, Talk
from tests.fix_servers import eventually, running_postgres, running_valkey
from tests.fix_web import Web, running_web

OLD = 200
"""Milliseconds that data may be old."""
WATCH = """async ([seconds, wanted, old]) => {
  const { painted } = await import("/page/meter.js");
  const began = performance.now();
  const found = { frames: 0, whole: 0, ages: [], gaps: [] };
  let before = began;
  await new Promise((done) => {
    const look = (now) => {
      found.frames += 1;
      found.gaps.push(now - before);
      before = now;
      found.ages.push(painted.oldest);
      if (painted.meters >= wanted && painted.oldest <= old) found.whole += 1;
      if (performance.now() - began < seconds * 1000) requestAnimationFrame(look);
      else done();
    };
    requestAnimationFrame(look);
  });
  found.seconds = (performance.now() - began) / 1000;
  found.meters = painted.meters;
  return found;
}"""


@contextmanager
def station(sources: int) -> Iterator[tuple[Web, Yard]]:
    """A station whose sources are all measured ten times a second, with its web process."""
    with tempfile.TemporaryDirectory(prefix="tocsin-bench-") as name:
        folder = Path(name)
        with running_valkey(folder / "valkey") as redis, running_postgres(folder / "pg") as postgres:
            made = made_folder(folder / "station", redis, postgres.url, free_port())
            (made.secrets / "postgres.password").write_text(postgres.password, "utf-8")
            settings = load(made.settings)
            engine = open_engine(settings.postgres, name="bench")
            migrate(engine)
            engine.dispose()
            link = connect(settings.redis, "bench")
            load_library(link)
            link.close()
            yard = Yard(settings)
            scribe = yard.scribe(chain=Calendar())
            ids = [f"source-{number:03}" for number in range(sources)]
            for number, id in enumerate(ids):
                scribe.add(id, running=True, name=f"Receiver {number:03}")
            yard.beat()
            sounds = {id: (-24.0 - number % 9, 6.0) for number, id in enumerate(ids)}
            with Talk(yard, sounds), yard.projections(), running_web(made) as web:
                yield web, yard
            yard.close()


def painting(web: Web, yard: Yard, sources: int, seconds: float) -> dict[str, Any]:
    """How often all meters of one page are repainted from fresh data."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or shutil.which("chromium-browser")
    assert path, "chromium is needed (Debian: apt-get install chromium)"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        page = browser.new_page(viewport={"width": 2560, "height": 1600})
        page.goto(web.url)
        eventually(lambda: page.locator(".tile").count() == sources, "all tiles are there")
        yard.beat()
        eventually(lambda: page.locator(".meter.unheard").count() == 0, "all are heard")
        found: dict[str, Any] = page.evaluate(WATCH, [seconds, sources, OLD])
        browser.close()
    ages, gaps = sorted(found["ages"]), sorted(found["gaps"])
    return {
        "sources": sources,
        "seconds": round(found["seconds"], 1),
        "frames_per_second": round(found["frames"] / found["seconds"], 1),
        "whole_frames_per_second": round(found["whole"] / found["seconds"], 1),
        "oldest_ms_p50": round(statistics.median(ages)),
        "oldest_ms_p99": round(ages[int(len(ages) * 0.99)]),
        "frame_ms_p99": round(gaps[int(len(gaps) * 0.99)], 1),
    }


async def reading(
    url: str, ages: list[float], counts: list[int], ready: list[int], ended: asyncio.Event
) -> None:
    """One page's feed: the age of each frame of levels when it arrives, and how many there were."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=2**20)
    writer.write(
        f"GET /api/audio/live HTTP/1.1\r\nHost: {host}\r\nAccept: text/event-stream\r\n\r\n".encode()
    )
    count, levels = 0, False
    ready.append(1)
    while not ended.is_set():
        try:
            line = await asyncio.wait_for(reader.readline(), 5)
        except TimeoutError:
            break
        if not line:
            break
        if line.startswith(b"event: "):
            levels = line.startswith(b"event: levels")
        elif levels and line.startswith(b"data: "):
            at = line[line.index(b'"at":"') + 6 :].partition(b'"')[0].decode()
            ages.append(time.time() - datetime.fromisoformat(at).timestamp())
            count += 1
    counts.append(count)
    writer.close()


def listening(web: Web, pages: int, sources: int, seconds: float) -> dict[str, Any]:
    """How a web process serves so many feeds at once."""

    async def all_of_them() -> tuple[list[float], list[int], float, float]:
        ages: list[float] = []
        counts: list[int] = []
        ready: list[int] = []
        ended = asyncio.Event()
        tasks = []
        for _ in range(pages):
            tasks.append(asyncio.create_task(reading(web.url, ages, counts, ready, ended)))
            await asyncio.sleep(0.005)
        while len(ready) < pages:
            await asyncio.sleep(0.05)
        await asyncio.sleep(2)
        ages.clear()
        process = psutil.Process(web.process.pid)
        before, began = sum(process.cpu_times()[:2]), time.time()
        await asyncio.sleep(seconds)
        cpu = (sum(process.cpu_times()[:2]) - before) / (time.time() - began)
        measured = time.time() - began
        taken = list(ages)
        ended.set()
        await asyncio.gather(*tasks)
        return taken, counts, cpu, measured

    ages, counts, cpu, measured = asyncio.run(all_of_them())
    ages.sort()
    return {
        "pages": pages,
        "pages_served": sum(count > 0 for count in counts),
        "sources": sources,
        "seconds": round(measured, 1),
        "level_frames_per_page_and_second": round(len(ages) / pages / measured, 1),
        "frame_age_ms_p50": round(statistics.median(ages) * 1000),
        "frame_age_ms_p99": round(ages[int(len(ages) * 0.99)] * 1000),
        "web_cpus": round(cpu, 2),
        "web_rss_mb": round(psutil.Process(web.process.pid).memory_info().rss / 1e6),
    }


def main(arguments: list[str]) -> int:
    """Measure, write the result, and put it into docs/performance.md with --reference."""
    parser = argparse.ArgumentParser(prog="python -m bench dashboard", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few seconds of each")
    parser.add_argument("--reference", action="store_true", help="keep it as the one that docs show")
    asked = parser.parse_args(arguments)
    seconds = 3.0 if asked.quick else 15.0
    with station(200) as (web, yard):
        link = connect(yard.settings.redis, "bench")
        result: dict[str, Any] = {"circumstances": circumstances(link), "rounds": 1}
        link.close()
        result["painting"] = painting(web, yard, 200, seconds)
        print(json.dumps(result["painting"]))
    with station(20) as (web, _):
        result["listening"] = listening(web, 500, 20, seconds)
        print(json.dumps(result["listening"]))
    print(write("dashboard", result, reference=asked.reference))
    if asked.reference:
        document("dashboard", result, ("what", "measured"), told(result["painting"], result["listening"]))
    return 0


def told(page: dict[str, Any], pages: dict[str, Any]) -> list[tuple[str, str]]:
    """The rows of the table in docs/performance.md."""
    return [
        ("200 sources on a page: frames a second in which every meter was painted from data ≤ 200 ms old",
         str(page["whole_frames_per_second"])),
        ("… frames a second in all", str(page["frames_per_second"])),
        ("… age of the oldest level in a frame, p50 / p99",
         f"{page['oldest_ms_p50']} / {page['oldest_ms_p99']} ms"),
        ("500 pages open on one web process (20 sources): pages that are served", str(pages["pages_served"])),
        ("… frames of levels for each page a second", str(pages["level_frames_per_page_and_second"])),
        ("… age of a frame on arrival, p50 / p99",
         f"{pages['frame_age_ms_p50']} / {pages['frame_age_ms_p99']} ms"),
        ("… CPUs and memory of the web process", f"{pages['web_cpus']}, {pages['web_rss_mb']} MB"),
    ]  # fmt: skip
