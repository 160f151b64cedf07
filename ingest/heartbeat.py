"""The node's heartbeat: a hash that expires by itself, so that a dead node is missed."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Mapping
from importlib import metadata

import structlog
from redis.exceptions import ResponseError

from streams.connection import Link, Unreachable
from streams.messages import now
from streams.names import StationKeys

EVERY = 5.0
"""Seconds between two beats."""
RETRY = 1.0
"""Seconds between two attempts at a beat that could not be written."""
LOOK = 1.0
"""Seconds between two looks whether the lanes are still those of the last beat."""
TIME_TO_LIVE = 60
"""Seconds after which a node that does not beat is forgotten."""

log = structlog.get_logger(__name__)


class Heartbeat:
    """Beats for one node. `run` is the body of a thread."""

    def __init__(
        self,
        link: Link,
        keys: StationKeys,
        node: str,
        *,
        lanes: Callable[[], list[str]],
        sources: Callable[[], Mapping[str, int]],
    ) -> None:
        self._link = link
        self._key = keys.node(node)
        self._lanes = lanes
        self._sources = sources
        self._address = socket.gethostname()
        self._version = _version()
        self._told: list[str] = []

    def run(self, stop: threading.Event) -> None:
        """Beat until `stop` is set; a beat that cannot be written is missed, not made up for."""
        told = False
        while not stop.is_set():
            try:
                self.beat()
                told = False
            except (Unreachable, ResponseError) as error:
                if not told:
                    log.warning("no heartbeat", detail=str(error))
                told = True
            except Exception:  # a heart does not stop for one beat
                log.exception("no heartbeat")
                told = True
            self._pause(stop, RETRY if told else EVERY)
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
            "version": self._version,
            "lanes": json.dumps(lanes),
            "sources": json.dumps(self._sources()),
            "breakers": "{}",
        }
        flat = [part for pair in fields.items() for part in pair]
        beat = ("HSET", self._key, *flat)
        for reply in self._link.batch([beat, ("EXPIRE", self._key, TIME_TO_LIVE)]):
            if isinstance(reply, ResponseError):
                raise reply
        self._told = lanes


def _version() -> str:
    try:
        return metadata.version("tocsin")
    except metadata.PackageNotFoundError:
        return "unknown"  # run from a folder that was never installed
