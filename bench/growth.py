"""The cost of a command by log length, number of sources and number of lanes."""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.contestants import CONTESTANTS, Running
from bench.ledger import sound
from bench.stage import Stage, worker
from control.station.folder import Folder
from streams.connection import connect
from streams.names import StationKeys
from streams.settings import load

CLIENT = next(one for one in CONTESTANTS if one.name == "tocsin-memory-hmac")
SOURCES = (1, 10, 100, 1_000, 5_000)
LANES = (1, 4, 16, 64)
IN_FLIGHT = 64
PER_LANE = 16
"""Commands in flight for each lane, where the lanes grow: what a lane has to do is to be the same."""

Curve = dict[str, dict[str, float]]
"""Size → what a command costs there."""


def measure(folder: Folder, lengths: Sequence[int], rounds: int, seconds: float) -> dict[str, Curve]:
    """Three curves; lane p0 is short, p1 … hold logs of `lengths`. Rounds go over all points of a curve.

    Raises Wrong when a log does not verify afterwards.
    """
    by_length = {0: "p0"} | {length: f"p{index + 1}" for index, length in enumerate(lengths)}
    curves: dict[str, Curve] = {}
    with worker(folder, list(by_length.values())):
        stages = {length: _stage(folder, [lane], 64) for length, lane in by_length.items()}
        curves["events in the log"] = _curve(stages, rounds, seconds)
        stages = {count: _stage(folder, ["p0"], count) for count in SOURCES}
        curves["sources in a lane"] = _curve(stages, rounds, seconds)
    found: dict[int, list[dict[str, float]]] = {}
    for _ in range(rounds):
        for count in LANES:
            lanes = [f"lane-{index}" for index in range(count)]
            with worker(folder, lanes), _client(_stage(folder, lanes, 64)) as client:
                found.setdefault(count, []).append(_turn(client, seconds, PER_LANE * count))
    link = connect(load(folder.settings, {}).redis, "bench-growth")
    for lane in [*by_length.values(), *(f"lane-{index}" for index in range(max(LANES)))]:
        sound(link, StationKeys("station").lane(lane), lane)
    link.close()
    curves["lanes of a node"] = _medians(found)
    return curves


def _stage(folder: Folder, lanes: Sequence[str], sources: int) -> Stage:
    return Stage(folder.settings, load(folder.settings, {}), tuple(lanes), sources, ())


@contextmanager
def _client(stage: Stage) -> Iterator[Running]:
    with tempfile.TemporaryDirectory(prefix="bench-logs-") as logs:
        client = Running(CLIENT, stage, 0, "", Path(logs))
        try:
            _turn(client, 0.2)
            yield client
        finally:
            client.close()


def _turn(client: Running, seconds: float, in_flight: int = IN_FLIGHT) -> dict[str, float]:
    micros = client.latency(seconds)["micros"]
    many = client.throughput(seconds, in_flight)
    return {"p50_ms": statistics.median(micros) / 1000, "micros": many["seconds"] / many["count"] * 1e6}


def _curve(stages: dict[int, Stage], rounds: int, seconds: float) -> Curve:
    found: dict[int, list[dict[str, float]]] = {size: [] for size in stages}
    for _ in range(rounds):
        for size, stage in stages.items():
            with _client(stage) as client:
                found[size].append(_turn(client, seconds))
            print(f"size {size}: {found[size][-1]}", file=sys.stderr)
    return _medians(found)


def _medians(found: dict[int, list[dict[str, Any]]]) -> Curve:
    return {
        str(max(size, 1)): {
            key: round(statistics.median(each[key] for each in rounds), 3) for key in ("p50_ms", "micros")
        }
        for size, rounds in found.items()
    }
