"""How often and after how long something that failed is tried again, by whatever tries by itself.

Doubling waits with full jitter, bounded
(https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/). The sleeps of the usual
retry libraries (stamina, tenacity) cannot be interrupted; here a stop ends the wait, because a process
has three seconds to end, and so does the news of another primary, because readers have one to go on.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from threading import Event

import msgspec

JITTER = random.SystemRandom()
"""Draws of its own: no thread of ours moves the generator that others, such as tests, may have seeded."""
LOOK = 0.05
"""Seconds between two looks whether there is news."""

_switches = 0


def switched() -> None:
    """Cut short all that is being waited in this process: there is another primary to try."""
    global _switches
    _switches += 1


class Waits(msgspec.Struct, frozen=True):
    """The waits between attempts, in seconds; after `retries` of them it is said aloud that it goes on."""

    first: float = 0.1
    longest: float = 1.0
    retries: int = 5

    def ceiling(self, failures: int) -> float:
        """The longest wait after so many failures in a row."""
        return min(self.longest, self.first * 2.0 ** min(failures - 1, 16))


REDIS = Waits()
"""Between attempts to reach Redis: short, because a failover is."""


class Backoff:
    """Counts failures in a row and waits accordingly; `reset` once things work again."""

    def __init__(
        self,
        stopping: Event | None = None,
        waits: Waits = REDIS,
        draw: Callable[[float, float], float] = JITTER.uniform,
    ) -> None:
        self._stopping = stopping or Event()
        self._waits = waits
        self._draw = draw
        self._steps = 0
        self.failures = 0

    @property
    def exhausted(self) -> bool:
        """Whether it has just failed as often as it is tried again before somebody should be told."""
        return self.failures == self._waits.retries

    def wait(self, waits: Waits | None = None, *, within: float = math.inf) -> None:
        """Wait before the next attempt, at most `within` seconds.

        Returns early when asked to stop, or at the news of another primary, with which the waits
        begin with the shortest again.
        """
        self.failures += 1
        self._steps += 1
        before = _switches
        drawn = self._draw(0.0, (waits or self._waits).ceiling(self._steps))
        until = time.monotonic() + min(drawn, within)
        while (left := until - time.monotonic()) > 0 and not self._stopping.wait(min(left, LOOK)):
            if _switches != before:
                self._steps = 0
                return

    def reset(self) -> None:
        """Begin with the shortest wait again."""
        self.failures = self._steps = 0
