"""How long to wait between attempts, with a wait that a stop cuts short.

A sleep of the usual retry libraries (stamina, tenacity) cannot be interrupted, and a process has three
seconds to stop.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from threading import Event

FIRST = 0.2
"""Seconds before the second attempt, at most."""
LONGEST = 2.0
"""Seconds between attempts, at most."""


class Backoff:
    """Doubling waits with full jitter; `reset` once things work again."""

    def __init__(self, stopping: Event, draw: Callable[[float, float], float] = random.uniform) -> None:
        self._stopping = stopping
        self._draw = draw
        self.failures = 0

    def wait(self) -> None:
        """Wait before the next attempt; returns at once when asked to stop."""
        self.failures += 1
        longest = ceiling(self.failures)
        self._stopping.wait(self._draw(longest / 2, longest))

    def reset(self) -> None:
        self.failures = 0


def ceiling(failures: int) -> float:
    """The longest wait, in seconds, after so many failures in a row."""
    return min(LONGEST, FIRST * 2.0 ** min(failures - 1, 16))
