"""Breakers: after five failures in a row nobody waits for a server that is away; they are told at once.

A breaker stands around what people wait for (a submit, a read). Loops that try again by themselves are
not held back by it: they only tell it what they find, and the first success closes it for everybody.
Why it is our own: docs/decisions/breakers.md.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Literal

import msgspec
import structlog

from streams.connection import Unreachable
from streams.messages import now
from streams.settings import BreakerSection

Dependency = Literal["redis", "postgres"]
State = Literal["closed", "open", "half_open"]

log = structlog.get_logger(__name__)


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """How a breaker stands. `since` is when it opened; `retry_in`, in seconds, when one call may try again.

    `failures` counts those in a row, `opened` how often it has opened since the process started.
    """

    state: State = "closed"
    failures: int = 0
    opened: int = 0
    since: datetime | None = None
    retry_in: float | None = None
    detail: str | None = None


def described(standing: Standing) -> str:
    """How a breaker stands, in words."""
    if standing.state == "closed":
        return "closed"
    since = f"open since {standing.since:%Y-%m-%d %H:%M:%S} UTC" if standing.since else "open"
    again = f"in {math.ceil(standing.retry_in)} s at the latest" if standing.retry_in else "now"
    return f"{since} ({standing.failures} failures: {standing.detail}); it is tried again {again}"


class BreakerOpen(Unreachable):
    """Raised at once, and without trying, while a breaker is open; `retry_in` says when one may try again."""

    def __init__(self, dependency: Dependency, standing: Standing, by: str = "") -> None:
        super().__init__(f"the {dependency} breaker{by} is {described(standing)}", sent=False)
        self.dependency = dependency
        self.retry_in = standing.retry_in or 0.0


class Breaker:
    """The breaker around one dependency of one process, for all its threads.

    No lock is held while somebody waits for the server, and time is that of a clock that nobody sets.
    """

    def __init__(
        self,
        dependency: Dependency,
        section: BreakerSection | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.dependency = dependency
        self._section = section or BreakerSection()
        self._clock = clock
        self._lock = threading.Lock()
        self._failures = self._opened = 0
        self._again_at: float | None = None
        """When one call may try; None while closed."""
        self._probing = False
        self._since: datetime | None = None
        self._detail: str | None = None

    @contextmanager
    def guard(self, is_failure: Callable[[BaseException], bool]) -> Iterator[None]:
        """Around something that people wait for. Raises BreakerOpen, and what the block raises.

        An error for which `is_failure` is false says nothing about the server.
        """
        probing = self._admit()
        try:
            yield
        except BaseException as error:
            if is_failure(error):
                self.failed(str(error))
            elif probing:
                self._return_probe()
            raise
        self.succeeded()

    def _admit(self) -> bool:
        """Let the caller try; whether it does so as the one probe of a half-open breaker."""
        with self._lock:
            if self._again_at is None:
                return False
            if self._probing or self._clock() < self._again_at:
                raise BreakerOpen(self.dependency, self._standing())
            self._probing = True
            return True

    def _return_probe(self) -> None:
        with self._lock:
            self._probing = False

    def failed(self, detail: str) -> None:
        """Note that the server could not be reached, or could not serve.

        Where a try is due again, this was it, whoever made it.
        """
        with self._lock:
            self._failures += 1
            self._detail = detail.partition("\n")[0]
            opens = self._again_at is None and self._failures >= self._section.failures
            if opens:
                self._opened += 1
                self._since = now()
            due = self._again_at is not None and self._clock() >= self._again_at
            if opens or due:
                self._probing = False
                self._again_at = self._clock() + self._section.seconds
        if opens:
            log.warning("breaker open", dependency=self.dependency, detail=self._detail)

    def succeeded(self) -> None:
        """Note that the server did what it was asked; this closes the breaker at once."""
        if not self._failures:
            return
        with self._lock:
            was_open = self._again_at is not None
            self._failures, self._probing = 0, False
            self._again_at = self._since = self._detail = None
        if was_open:
            log.warning("breaker closed", dependency=self.dependency)

    def standing(self) -> Standing:
        """How it stands now."""
        with self._lock:
            return self._standing()

    def _standing(self) -> Standing:
        if self._again_at is None:
            return Standing(failures=self._failures, opened=self._opened, detail=self._detail)
        left = max(0.0, self._again_at - self._clock())
        return Standing(
            state="open" if left else "half_open",
            failures=self._failures,
            opened=self._opened,
            since=self._since,
            retry_in=round(left, 3),
            detail=self._detail,
        )


class Breakers:
    """The breakers of one process."""

    def __init__(self, section: BreakerSection | None = None) -> None:
        self.redis = Breaker("redis", section)
        self.postgres = Breaker("postgres", section)

    def standings(self) -> dict[Dependency, Standing]:
        """How each stands now, by dependency: for metrics, heartbeat and health."""
        return {"redis": self.redis.standing(), "postgres": self.postgres.standing()}


def is_unreachable(error: BaseException) -> bool:
    """Whether `error` says that Redis could not be reached or could not serve."""
    return isinstance(error, Unreachable) and not isinstance(error, BreakerOpen)
