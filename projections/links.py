"""Redis for readers: links to borrow, and no waiting for a Redis that was away a moment ago.

A reader has Postgres to turn to, so after one failure already the others do without Redis for a moment;
the breaker, which opens after several, is what this process's submitters heed too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock

from streams.breaker import Breaker, is_unreachable
from streams.connection import Link, Unreachable

HOLD_OFF = 2.0
"""Seconds after a failure during which one reader at a time tries Redis and the others do not."""


class Links:
    """Links that threads borrow, one at a time each."""

    def __init__(self, make: Callable[[], Link], breaker: Breaker) -> None:
        self._make = make
        self._breaker = breaker
        self._idle: list[Link] = []
        self._lock = Lock()
        self._again_at: float | None = None

    @contextmanager
    def borrow(self) -> Iterator[Link]:
        """A link for the block. Raises Unreachable, at once while Redis is known to be away."""
        self._admit()
        with self._breaker.guard(is_unreachable), self._one() as link:
            yield link

    @contextmanager
    def _one(self) -> Iterator[Link]:
        with self._lock:
            link = self._idle.pop() if self._idle else self._make()
        try:
            yield link
        except Unreachable:
            with self._lock:
                self._again_at = time.monotonic() + HOLD_OFF
            link.close()
            raise
        except BaseException:
            link.close()
            raise
        with self._lock:
            self._again_at = None
            self._idle.append(link)

    def _admit(self) -> None:
        with self._lock:
            if self._again_at is None:
                return
            if time.monotonic() < self._again_at:
                raise Unreachable("Redis was away a moment ago", sent=False)
            # This reader tries; the others hold off until it knows.
            self._again_at = time.monotonic() + HOLD_OFF

    def close(self) -> None:
        """Close the links that nobody has borrowed."""
        with self._lock:
            idle, self._idle = self._idle, []
        for link in idle:
            link.close()
