"""Writes to the primary all the time, and keeps when that worked: how long a station takes no writes."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from itertools import pairwise

from redis.exceptions import RedisError

from streams.connection import Unreachable, connect
from streams.settings import Settings

EVERY = 0.05


class Probe:
    """`successes` are (monotonic seconds, who led) of each write that the primary took."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stop = threading.Event()
        self.successes: list[tuple[float, str]] = []
        self._thread = threading.Thread(target=self._run, name="probe", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self._stop.set()
        self._thread.join(10)

    def first_after(self, at: float, *, not_by: str) -> float | None:
        """When the first write after `at` was taken by another than `not_by`."""
        return next((when for when, who in self.successes if when > at and who != not_by), None)

    def unwritable(self, since: float, until: float) -> float:
        """The longest span without a write between the two, in seconds."""
        times = [since, *(when for when, _ in self.successes if since < when < until), until]
        return max(b - a for a, b in pairwise(times))

    def _run(self) -> None:
        link = connect(self._settings.redis, "probe")
        while not self._stop.wait(EVERY):
            with suppress(Unreachable, RedisError):
                link.call("SET", "chaos:probe", "x")
                self.successes.append((time.monotonic(), link.address.host))
