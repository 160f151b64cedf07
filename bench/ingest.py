"""What listening costs: `python -m bench ingest`.

The whole path of an ingest process: files decoded, metered, listened to for alerts, their levels in Redis;
each source with audio of its own, the CPU of every process counted. And the meters alone, beside FFmpeg's
`ebur128=peak=true` on the same audio.
"""

from __future__ import annotations

import argparse
import contextlib
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
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
RING = 60 * RATE * 2 / 1e6
"""Megabytes of a source's ring buffer."""

_levels = msgspec.json.Decoder(list[Level]).decode


def programme(number: int, seconds: float = SECONDS) -> Block:
    """Audio like no other source's: tones and noise that come and go."""
    generator = np.random.default_rng(number)
    times = np.arange(round(seconds * RATE)) / RATE
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
        self._settings, self._key = settings, key
        self._submitter = Submitter(settings, connect(settings.redis, "bench-submit"))
        self.lane = node_lane(settings.ingest.node)

    def do(self, type: str, source: str, **params: Any) -> float:
        """Submit and wait for the outcome; the seconds that took."""
        command = new_command(
            station=self._settings.station.id, lane=self.lane, source=source, type=type, params=params,
            key=self._key.id,
        )  # fmt: skip
        begun = time.monotonic()
        answer = self._submitter.submit(signed(command, self._key), timeout=60)
        if answer.outcome != "completed":
            raise SystemExit(f"{type} of {source}: {answer}")
        return time.monotonic() - begun


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
    """Megabytes that it and its children hold."""
    return sum(one.memory_info().rss for one in (process, *process.children(recursive=True))) / 1e6


def heard(link: Link, keys: StationKeys, lane: str, since: str) -> tuple[list[Level], list[float]]:
    """The levels since a stream id, and how many seconds after its measurement each was in Redis."""
    levels: list[Level] = []
    delays: list[float] = []
    while entries := link.call("XRANGE", keys.lane(lane).telemetry, f"({since}", "+", "COUNT", 500):
        for id, fields in entries:
            written = int(id.split(b"-")[0]) / 1000
            found = _levels(fields[1])
            levels += found
            delays += [written - level.at.timestamp() for level in found]
        since = entries[-1][0].decode()
    return levels, delays


def capacity(path: Path, count: int, seconds: float) -> dict[str, float]:
    """One measurement with so many sources at once."""
    with servers(path / "station", replicas=0) as (folder, pids):
        settings = load(folder.settings, {})
        files = path / "audio"
        files.mkdir()
        for number in range(count):
            soundfile.write(files / f"{number}.flac", programme(number), RATE, subtype="PCM_16")
        client = Client(settings, load_key(folder.keys, HMAC))
        load_library(client.link)
        keys = StationKeys(settings.station.id)
        with ingest(folder) as process:
            every = [process, *(psutil.Process(pid) for pid in pids)]
            client.do("source.add", "idle", settings={"kind": "file", "path": str(files / "0.flac")})
            empty = memory(process)
            for number in range(count):
                file = {"kind": "file", "path": str(files / f"{number}.flac"), "loop": True}
                client.do("source.add", f"s{number}", settings=file)
                client.do("source.start", f"s{number}")
            time.sleep(5)  # what starting has left to do
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
                found, late = heard(client.link, keys, client.lane, since)
                levels, delays = levels + found, delays + late
                since = entries[0][0].decode() if entries else since
            took, used = time.monotonic() - begun, cpu(every) - before
            full = memory(process)
        return judged(levels, delays, answers, count=count, took=took, used=used, grown=full - empty)


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
    delays.sort()
    return {
        "sources": count,
        "cores": used / took,
        "sources_per_core": count * statistics.mean(speeds) / (used / took),
        "slowest": min(speeds),
        "undecoded_seconds": undecoded,
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
    "sources", "cores used", "sources per core", "slowest, × real time", "MB a source, ring included",
    "level in Redis, p50 / p99", "command, p50 / most",
)  # fmt: skip


def main(arguments: Sequence[str]) -> int:
    """Measure, print, and write what was found."""
    parser = argparse.ArgumentParser(prog="python -m bench ingest", description=__doc__)
    parser.add_argument("--sources", type=int, nargs="+", default=list(COUNTS))
    parser.add_argument(
        "--seconds", type=float, default=30.0, help="how long each is measured; 600 is a soak"
    )
    parser.add_argument("--quick", action="store_true", help="1 and 10 sources, ten seconds each")
    parser.add_argument("--reference", action="store_true", help="write the table in docs/performance.md")
    options = parser.parse_args(arguments)
    counts = (1, 10) if options.quick else tuple(options.sources)
    seconds = 10.0 if options.quick else options.seconds
    alone = metered()
    print("  ".join(f"{name} {value:.1f}" for name, value in alone.items()), flush=True)
    found = []
    told: dict[str, Any] = {}
    for count in counts:
        with tempfile.TemporaryDirectory(prefix="tocsin-bench-") as folder:
            found.append(capacity(Path(folder), count, seconds))
            print("  ".join(f"{name} {value:.2f}" for name, value in found[-1].items()), flush=True)
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


def row(one: dict[str, float]) -> tuple[str, ...]:
    """A row of the table."""
    return (
        f"{one['sources']:.0f}", f"{one['cores']:.2f}", f"{one['sources_per_core']:.0f}",
        f"{one['slowest']:.3f}",
        f"{one['megabytes']:.1f}", f"{one['level_p50_ms']:.0f} / {one['level_p99_ms']:.0f} ms",
        f"{one['command_p50_ms']:.1f} / {one['command_most_ms']:.1f} ms",
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
