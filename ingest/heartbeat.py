"""The node's heartbeat: a hash that expires by itself, so that a dead node is missed."""

from __future__ import annotations

import json
import shutil
import socket
import threading
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path

import msgspec
import structlog
from redis.exceptions import ResponseError

from streams.backoff import Backoff, Waits
from streams.breaker import Breakers, Dependency, Standing, is_unreachable
from streams.connection import Link, Unreachable
from streams.messages import now
from streams.names import StationKeys

EVERY = 5.0
"""Seconds between two beats."""
RETRY = Waits(first=2.0, longest=4.0)
"""Between two attempts at a beat that could not be written: a failover is over before five have failed,
which open the breaker."""
LOOK = 1.0
"""Seconds between two looks whether the lanes are still those of the last beat."""
CLOCK_MAY_DIFFER = 1.0
"""Seconds: what is signed with a clock further ahead is refused, and what a node hears is dated by it."""
TIME_TO_LIVE = 60
"""Seconds after which a node that does not beat is forgotten."""

log = structlog.get_logger(__name__)


class Heartbeat:
    """Beats for one node. `run` is the body of a thread.

    `sound` is where its recordings are served, and the pass that the web process needs there.
    """

    def __init__(
        self,
        link: Link,
        keys: StationKeys,
        node: str,
        *,
        lanes: Callable[[], list[str]],
        sources: Callable[[], Mapping[str, int]],
        breakers: Breakers | None = None,
        folder: Path | None = None,
        sound: tuple[str, str] | None = None,
    ) -> None:
        self._link = link
        self._key = keys.node(node)
        self._lanes = lanes
        self._sources = sources
        self._breakers = breakers or Breakers()
        self._folder = folder
        self._address, self._pass = sound or (socket.gethostname(), "")
        self._version = _version()
        self._told: list[str] = []
        self._clock_is_off = False

    def run(self, stop: threading.Event) -> None:
        """Beat until `stop` is set; a beat that cannot be written is missed, not made up for."""
        backoff = Backoff(stop, RETRY)
        while not stop.is_set():
            try:
                self.beat()
                backoff.reset()
                self._pause(stop, EVERY)
                continue
            except (Unreachable, ResponseError) as error:
                if is_unreachable(error):
                    self._breakers.redis.failed(str(error))
                if backoff.failures == 0:
                    log.warning("no heartbeat", detail=str(error))
            except Exception:  # a heart does not stop for one beat
                log.exception("no heartbeat")
            backoff.wait()
        self._link.close()

    def _pause(self, stop: threading.Event, seconds: float) -> None:
        """Wait for the next beat, which comes soon after a lane was won or lost."""
        until, lanes = time.monotonic() + seconds, self._told
        while not stop.wait(min(LOOK, seconds)) and time.monotonic() < until and self._lanes() == lanes:
            pass

    def beat(self) -> None:
        """Write one heartbeat. Raises Unreachable, ResponseError."""
        lanes = self._lanes()
        fields = {
            "time": now().isoformat(timespec="microseconds"),
            "address": self._address,
            "pass": self._pass,
            "version": self._version,
            "lanes": json.dumps(lanes),
            "sources": json.dumps(self._sources()),
            "clock": f"{self._clock():.3f}",
            "breakers": msgspec.json.encode(self._standings()),
            "disk": json.dumps(_disk(self._folder)),
        }
        flat = [part for pair in fields.items() for part in pair]
        beat = ("HSET", self._key, *flat)
        replies = self._link.batch([beat, ("EXPIRE", self._key, TIME_TO_LIVE)])
        self._breakers.redis.succeeded()
        for reply in replies:
            if isinstance(reply, ResponseError):
                raise reply
        self._told = lanes

    def _clock(self) -> float:
        """How far this node's clock is ahead of the server's, in seconds, give or take half a round trip."""
        before = time.time()
        seconds, microseconds = self._link.call("TIME")
        offset = (before + time.time()) / 2 - (int(seconds) + int(microseconds) / 1e6)
        if (abs(offset) > CLOCK_MAY_DIFFER) != self._clock_is_off:
            self._clock_is_off = not self._clock_is_off
            if self._clock_is_off:
                log.warning(
                    "this node's clock is off: alerts are dated by it", ahead_seconds=round(offset, 3)
                )
            else:
                log.info("this node's clock is right again", ahead_seconds=round(offset, 3))
        return offset

    def _standings(self) -> dict[Dependency, Standing]:
        """How the breakers stand once this beat is written, which closes the one around Redis."""
        found = self._breakers.standings()
        return {**found, "redis": Standing(opened=found["redis"].opened)}


def _disk(folder: Path | None) -> dict[str, int] | None:
    """Free and whole size, in bytes, of the file system that `folder` is on; None where nobody knows."""
    if folder is None:
        return None
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return None
    return {"free": usage.free, "size": usage.total}


def _version() -> str:
    try:
        return metadata.version("tocsin")
    except metadata.PackageNotFoundError:
        return "unknown"  # run from a folder that was never installed
