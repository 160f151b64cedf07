"""What listening costs: `python -m bench ingest`.

The whole path of an ingest process: streams of MP3 fetched, decoded and resampled (or files decoded),
metered, listened to for alerts, their levels in Redis; each source with audio of its own, the CPU of every
process counted but that which sends. And the meters alone, beside FFmpeg's `ebur128=peak=true` on the same
audio.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psutil
import soundfile

from bench.report import circumstances, document, write
from bench.stage import HMAC, servers
from control.station.folder import Folder
from ingest.meters import Block, Meters
from streams.connection import Link, connect
from streams.library import load_library
from streams.messages import Level, new_command
from streams.names import StationKeys, node_lane
from streams.settings import Settings, load
from streams.signing import Key, load_key
from streams.submit import Submitter, signed

RATE = 24_000
COUNTS = (1, 10, 100, 500)
SECONDS = 12.0
"""Of audio in a source's recording, which is played over and over."""
TARGETS = {"sources_per_core": 200.0, "megabytes": 5.0}
METERED = 200
"""Sources that the meters are measured with."""
RING = 60.0
"""Seconds that a source's ring buffer holds, of two bytes a sample."""
KINDS = ("stream", "file")
SENT = 44_100
"""Hz of what is streamed: it is resampled."""
STARTED = 16
"""Sources that are started at once."""
SHARE = 0.8
"""Of the last number, or of what all cores would carry: how many sources `--soak` has."""
SOAK = 600.0

_levels = msgspec.json.Decoder(list[Level]).decode


def programme(number: int, seconds: float = SECONDS, rate: int = RATE) -> Block:
    """Audio like no other source's: tones and noise that come and go."""
    generator = np.random.default_rng(number)
    times = np.arange(round(seconds * rate)) / rate
    sound = generator.normal(0, 0.02, len(times))
    for hertz in generator.uniform(120, 4000, 5):
        sound += (
            0.08 * np.sin(2 * np.pi * hertz * times) * np.sin(2 * np.pi * generator.uniform(0.1, 3) * times)
        )
    return sound.astype(np.float32)[:, np.newaxis]


@contextmanager
def ingest(folder: Folder) -> Iterator[psutil.Process]:
    """The ingest process, as `tocsin run ingest` starts it."""
    command = [sys.executable, "-m", "control.composition", "run", "ingest", "--station", str(folder.path)]
    with (folder.path / "ingest.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()


class Client:
    """Sends the commands of a measurement, one after the other."""

    def __init__(self, settings: Settings, key: Key) -> None:
        self.link = connect(settings.redis, "bench-ingest")
        self._settings, self.key = settings, key
        self._submitter = Submitter(settings, connect(settings.redis, "bench-submit"))
        self.lane = node_lane(settings.ingest.node)

    def do(self, type: str, source: str, **params: Any) -> float:
        """Submit and wait for the outcome; the seconds that took."""
        command = new_command(
            station=self._settings.station.id, lane=self.lane, source=source, type=type, params=params,
            key=self.key.id,
        )  # fmt: skip
        begun = time.monotonic()
        answer = self._submitter.submit(signed(command, self.key), timeout=60)
        if answer.outcome != "completed":
            raise SystemExit(f"{type} of {source}: {answer}")
        return time.monotonic() - begun


def begin(settings: Settings, key: Key, wanted: Sequence[dict[str, Any]]) -> None:
    """Add and start the sources, several at once: a stream has started once it is heard, a second later."""
    local = threading.local()

    def one(number: int) -> None:
        if not hasattr(local, "client"):
            local.client = Client(settings, key)
        local.client.do("source.add", f"s{number}", settings=wanted[number])
        local.client.do("source.start", f"s{number}")

    with ThreadPoolExecutor(STARTED) as pool:
        list(pool.map(one, range(len(wanted))))


def cpu(processes: Sequence[psutil.Process]) -> float:
    """Seconds of CPU that these and all their children have used."""
    used = 0.0
    for process in processes:
        for one in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                times = one.cpu_times()
                used += times.user + times.system
    return used


def memory(process: psutil.Process) -> float:
    """Megabytes that it and its children hold; what several share counts once."""
    held = 0
    for one in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            held += one.memory_full_info().pss
    return held / 1e6


def heard(
    link: Link, keys: StationKeys, lane: str, since: str, begun: dict[str, float]
) -> tuple[list[Level], list[float]]:
    """The levels since a stream id, and how many seconds after it was heard or sent each was in Redis.

    `begun` is when each stream began to be sent; a file's levels count from their measurement.
    """
    levels: list[Level] = []
    delays: list[float] = []
    while entries := link.call("XRANGE", keys.lane(lane).telemetry, f"({since}", "+", "COUNT", 500):
        for id, fields in entries:
            written = int(id.split(b"-")[0]) / 1000
            found = _levels(fields[1])
            levels += found
            for level in found:
                sent = begun.get(level.source)
                delays.append(written - (level.at.timestamp() if sent is None else sent + level.seconds))
        since = entries[-1][0].decode()
    return levels, delays


@contextmanager
def sources(kind: str, files: Path, count: int) -> Iterator[list[dict[str, Any]]]:
    """So many sources' settings; what they play is there meanwhile."""
    files.mkdir()
    if kind == "file":
        for number in range(count):
            soundfile.write(files / f"{number}.flac", programme(number), RATE, subtype="PCM_16")
        yield [{"kind": "file", "path": str(files / f"{n}.flac"), "loop": True} for n in range(count)]
        return
    for number in range(count):
        with (files / f"{number}.mp3").open("wb") as file:
            sound = programme(number, rate=SENT)
            soundfile.write(file, sound, SENT, format="MP3", bitrate_mode="CONSTANT", compression_level=0.8)
    argv = [sys.executable, "-m", "bench.transmitter", str(files)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        try:
            url = f"http://127.0.0.1:{port}"
            yield [{"kind": "stream", "url": f"{url}/{n}", "rate": RATE} for n in range(count)]
        finally:
            process.terminate()


def capacity(path: Path, kind: str, count: int, seconds: float) -> dict[str, Any]:
    """One measurement with so many sources of a kind at once."""
    files = path / "audio"
    with servers(path / "station", replicas=0) as (folder, pids), sources(kind, files, count) as wanted:
        with folder.settings.open("a") as file:
            file.write('\n[fetch]\nprivate = ["127.0.0.1/32"]\n')
        settings = load(folder.settings, {})
        client = Client(settings, load_key(folder.keys, HMAC))
        load_library(client.link)
        keys = StationKeys(settings.station.id)
        with ingest(folder) as process:
            every = [process, *(psutil.Process(pid) for pid in pids)]
            client.do("source.add", "idle", settings=wanted[0])
            empty, started = memory(process), time.monotonic()
            begin(settings, client.key, wanted)
            time.sleep(5)  # what starting has left to do
            began = {f"s{path.stem}": float(path.read_text()) for path in files.glob("*.begun")}
            before, begun = cpu(every), time.monotonic()
            id = client.link.call("XREVRANGE", keys.lane(client.lane).telemetry, "+", "-", "COUNT", 1)
            since = id[0][0].decode() if id else "0-0"
            answers, levels, delays = [], list[Level](), list[float]()
            while time.monotonic() - begun < seconds:
                answers.append(client.do("source.update", "idle", name=f"at {len(answers)}"))
                time.sleep(0.5)
                # Read as it comes: a stream keeps about a hundred thousand levels.
                entries = client.link.call(
                    "XREVRANGE", keys.lane(client.lane).telemetry, "+", "-", "COUNT", 1
                )
                found, late = heard(client.link, keys, client.lane, since, began)
                levels, delays = levels + found, delays + late
                since = entries[0][0].decode() if entries else since
            took, used = time.monotonic() - begun, cpu(every) - before
            full = memory(process)
            ring = min(RING, time.monotonic() - started) * RATE * 2 / 1e6
        found_out = judged(levels, delays, answers, count=count, took=took, used=used, grown=full - empty)
        return {"kind": kind, **found_out, "beside_ring": found_out["megabytes"] - ring}


def judged(
    levels: list[Level], delays: list[float], answers: list[float], *, count: int, took: float, used: float,
    grown: float,
) -> dict[str, float]:  # fmt: skip
    """What a measurement comes to."""
    by_source: dict[str, list[Level]] = {}
    for level in levels:
        by_source.setdefault(level.source, []).append(level)
    if len(by_source) < count:
        raise SystemExit(f"only {len(by_source)} of {count} sources were heard")
    speeds = [
        (of[-1].seconds - of[0].seconds) / (of[-1].at - of[0].at).total_seconds() for of in by_source.values()
    ]
    undecoded = max(of[-1].seconds - (of[-1].decoded or 0.0) for of in by_source.values())
    dropped = max(level.readings.dropped_seconds for level in levels if level.readings is not None)
    # A level tells a tenth of a second: those that are missing were dropped on their way.
    told = {source: of[-1].seconds - of[0].seconds for source, of in by_source.items()}
    missing = sum(max(0.0, told[source] * 10 - (len(of) - 1)) for source, of in by_source.items())
    delays.sort()
    return {
        "sources": count,
        "cores": used / took,
        "sources_per_core": count * statistics.mean(speeds) / (used / took),
        "slowest": min(speeds),
        "undecoded_seconds": undecoded,
        "dropped_seconds": dropped,
        "missing_levels": missing,
        "megabytes": grown / count,
        "level_p50_ms": delays[len(delays) // 2] * 1000,
        "level_p99_ms": delays[int(len(delays) * 0.99)] * 1000,
        "command_p50_ms": statistics.median(answers) * 1000,
        "command_most_ms": max(answers) * 1000,
    }


def metered(seconds: float = 10.0) -> dict[str, float]:
    """What the meters cost for a sample, in nanoseconds of CPU, and what FFmpeg's ebur128 does."""
    meters = Meters()
    gauges = [meters.gauge(str(number), RATE, 1, put=lambda level: None) for number in range(METERED)]
    audio = [programme(number, 1.0) for number in range(METERED)]
    chunk = RATE // 10
    begun = time.process_time()
    for turn in range(round(seconds * 10)):
        at = turn % 10 * chunk
        for gauge, sound in zip(gauges, audio, strict=True):
            gauge.add(sound[at : at + chunk])
        meters.step()
    samples = METERED * round(seconds * 10) * chunk
    found = {"meters_ns": (time.process_time() - begun) / samples * 1e9}
    if (program := shutil.which("ffmpeg")) is not None:
        with tempfile.NamedTemporaryFile(suffix=".wav") as file:
            soundfile.write(file.name, np.tile(programme(1, 60.0), (5, 1)), RATE, subtype="PCM_16")
            plain, filtered = (
                _ffmpeg(program, file.name, more) for more in ((), ("-af", "ebur128=peak=true"))
            )
        found["ffmpeg_ns"] = (filtered - plain) / (300 * RATE) * 1e9
    return found


def _ffmpeg(program: str, path: str, more: Sequence[str]) -> float:
    """Seconds of CPU for reading a file, with a filter or none."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [
        program,
        "-nostats",
        "-loglevel",
        "error",
        "-threads",
        "1",
        "-i",
        path,
        *more,
        "-f",
        "null",
        "-",
    ]
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


HEADINGS = (
    "sources", "cores used", "sources per core", "slowest, × real time", "dropped",
    "MB a source, and beside its ring", "level in Redis, p50 / p99", "command, p50 / most",
)  # fmt: skip


def main(arguments: Sequence[str]) -> int:
    """Measure, print, and write what was found."""
    parser = argparse.ArgumentParser(prog="python -m bench ingest", description=__doc__)
    parser.add_argument("--sources", type=int, nargs="+", default=list(COUNTS))
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--seconds", type=float, default=30.0, help="how long each is measured")
    parser.add_argument(
        "--soak",
        action="store_true",
        help="then ten minutes with 80 %% of the last number, or of what all cores would carry, if less",
    )
    parser.add_argument("--quick", action="store_true", help="1 and 10 sources, ten seconds each")
    parser.add_argument("--reference", action="store_true", help="write the table in docs/performance.md")
    options = parser.parse_args(arguments)
    counts = (1, 10) if options.quick else tuple(options.sources)
    seconds = 10.0 if options.quick else options.seconds
    alone = metered()
    print("  ".join(f"{name} {value:.1f}" for name, value in alone.items()), flush=True)
    found: list[dict[str, Any]] = []
    told: dict[str, Any] = {}
    for kind in options.kinds:
        turns = [(count, seconds) for count in counts] + [(0, SOAK)] * options.soak
        for count, length in turns:
            if not count:
                most = min(found[-1]["sources"], found[-1]["sources_per_core"] * (os.cpu_count() or 1))
                count = max(1, int(SHARE * most))
            with tempfile.TemporaryDirectory(prefix="tocsin-bench-") as folder:
                found.append({**capacity(Path(folder), kind, count, length), "seconds": length})
            print("  ".join(f"{name} {value}" for name, value in rounded(found[-1]).items()), flush=True)
    with (
        tempfile.TemporaryDirectory(prefix="tocsin-bench-") as folder,
        servers(Path(folder) / "s", replicas=0) as (made, _),
    ):
        link = connect(load(made.settings, {}).redis, "bench-ingest")
        told = circumstances(link)
        link.close()
    result = {"circumstances": told, "rounds": 1, "seconds": seconds, "alone": alone, "capacity": found}
    print(write("ingest", result, reference=options.reference))
    if options.reference:
        document("ingest", result, HEADINGS, [row(one) for one in found])
    return 0


def rounded(one: dict[str, Any]) -> dict[str, Any]:
    """The same for people."""
    return {name: round(value, 2) if isinstance(value, float) else value for name, value in one.items()}


def row(one: dict[str, Any]) -> tuple[str, ...]:
    """A row of the table."""
    soak = f", {one['seconds'] / 60:.0f} minutes" if one["seconds"] == SOAK else ""
    name = one["kind"] if one["sources"] == 1 else f"{one['kind']}s"
    return (
        f"{one['sources']:.0f} {name}{soak}", f"{one['cores']:.2f}", f"{one['sources_per_core']:.0f}",
        f"{one['slowest']:.3f}", f"{one['dropped_seconds']:.1f} s, {one['missing_levels']:.0f} levels",
        f"{one['megabytes']:.1f}, {one['beside_ring']:.1f}",
        f"{one['level_p50_ms']:.0f} / {one['level_p99_ms']:.0f} ms",
        f"{one['command_p50_ms']:.1f} / {one['command_most_ms']:.1f} ms",
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
