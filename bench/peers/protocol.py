"""How `bench.roundtrip` talks to a client process: one JSON line in, one out, over its pipes.

Standard library only: it runs in the environment of the peers too.

    → {"do": "latency", "seconds": 2.0}
    ← {"count": 2850, "seconds": 2.0004, "micros": [612.1, …]}
    → {"do": "throughput", "seconds": 2.0, "in_flight": 256}
    ← {"count": 7012, "seconds": 2.031}

`count` is how many commands were confirmed as done, `seconds` from the first sent to the last
confirmed. Before all else the client confirms one command and says {"ready": versions}.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Any

PATIENCE = 30.0
"""Seconds to wait for one answer before the measurement fails."""

One = Callable[[], None]
OneAsync = Callable[[], Awaitable[None]]
Many = Callable[[float, int], int]
"""Keep so many commands in flight for so many seconds; return how many were confirmed."""


def redis_url() -> str:
    """The server and database of this peer, from the environment, where a password is not seen by `ps`."""
    return os.environ["BENCH_REDIS_URL"]


def serve(one: One, many: Many, *packages: str) -> None:
    """Answer the driver until its pipe closes."""
    one()
    _say({"ready": _versions(packages)})
    for line in sys.stdin:
        request = json.loads(line)
        started = time.perf_counter()
        if request["do"] == "latency":
            micros = []
            while time.perf_counter() - started < request["seconds"]:
                sent = time.perf_counter_ns()
                one()
                micros.append((time.perf_counter_ns() - sent) / 1000)
            _say({"count": len(micros), "seconds": time.perf_counter() - started, "micros": micros})
        else:
            count = many(request["seconds"], request["in_flight"])
            _say({"count": count, "seconds": time.perf_counter() - started})


async def serve_async(one: OneAsync, *packages: str) -> None:
    """The same for a peer of asyncio; many in flight are as many coroutines."""
    await _within(one)
    _say({"ready": _versions(packages)})
    while line := await asyncio.to_thread(sys.stdin.readline):
        request = json.loads(line)
        started = time.perf_counter()
        if request["do"] == "latency":
            micros = []
            while time.perf_counter() - started < request["seconds"]:
                sent = time.perf_counter_ns()
                await one()
                micros.append((time.perf_counter_ns() - sent) / 1000)
            _say({"count": len(micros), "seconds": time.perf_counter() - started, "micros": micros})
        else:
            count = await _many(one, started + request["seconds"], request["in_flight"])
            _say({"count": count, "seconds": time.perf_counter() - started})


async def _many(one: OneAsync, until: float, in_flight: int) -> int:
    async def go_on() -> int:
        count = 0
        while time.perf_counter() < until:
            await one()
            count += 1
        return count

    return sum(await asyncio.gather(*(go_on() for _ in range(in_flight))))


async def _within(one: OneAsync) -> None:
    async with asyncio.timeout(PATIENCE):
        await one()


def _versions(packages: tuple[str, ...]) -> dict[str, str]:
    return {package: version(package) for package in packages}


def _say(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)
