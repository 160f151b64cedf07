"""Rejections, so that nobody fills a lane's log with them: the first are told each, a flood is counted.

Each lane has an allowance for what cannot be trusted (unsigned, by an unknown key, altered, replayed), and
one for each key whose signature is good but that may not do this. Beyond it, commands are answered as
before, but those of SPAN seconds share one event, `rejections.counted`, which their answers name.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime

import msgspec

from streams.admission import UNSIGNED, Refusal
from streams.drafts import Draft, Settlement
from streams.steps import step
from streams.vocabulary import plain

BURST = 50
"""Rejections that are told each, in a row."""
EVERY = 2.0
"""Seconds after which one more is."""
SPAN = 2.0
"""Seconds of which counted rejections share an event: so long is an answer held back, in a flood."""
MOST = 500
"""Rejections that share an event."""
MOST_KEYS = 1000
"""Keys with an allowance of their own; those of others share one."""


class RejectionsCounted(msgspec.Struct, frozen=True, kw_only=True):
    """`data` of `rejections.counted`: how many, since when (the server's time of submit), and why.

    `keys` are those that were named, rightly or not: the first few.
    """

    count: int
    since: datetime
    until: datetime
    reasons: dict[str, int]
    keys: tuple[str, ...]


class _Allowance:
    """A bucket of BURST that gains one every EVERY seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._left, self._at = float(BURST), clock()

    def take(self) -> bool:
        now = self._clock()
        self._left, self._at = min(float(BURST), self._left + (now - self._at) / EVERY), now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Counted(msgspec.Struct, frozen=True):
    """Rejections that share the event `draft`."""

    draft: Draft
    settlements: tuple[Settlement, ...]


class Rejections:
    """The allowances of one lane, and what waits to be counted; only its owner's thread asks."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._allowances: dict[str, _Allowance] = {}
        self._waiting: list[tuple[Refusal, Settlement, datetime]] = []
        self._due = float("inf")

    def tells(self, refusal: Refusal) -> bool:
        """Whether this one gets an event of its own."""
        if refusal.outcome != "rejected":
            return True
        # What is not signed may name any key: it is charged to nobody's.
        key = "" if refusal.reason in UNSIGNED or refusal.command is None else refusal.command.key
        if key not in self._allowances:
            key = key if len(self._allowances) < MOST_KEYS else ""
        return self._allowances.setdefault(key, _Allowance(self._clock)).take()

    def count(self, refusal: Refusal, settlement: Settlement, at: datetime) -> None:
        """Keep it to be counted; `at` is the server's time of its submit."""
        if not self._waiting:
            self._due = self._clock() + SPAN
        self._waiting.append((refusal, settlement, at))

    def due(self) -> Counted | None:
        """Those whose time has come, if any."""
        if self._clock() >= self._due or len(self._waiting) >= MOST:
            return self.rest()
        return None

    def rest(self) -> Counted | None:
        """All that wait."""
        some, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
        self._due = self._clock() if self._waiting else float("inf")
        if not some:
            return None
        named = {refusal.command.key: None for refusal, _, _ in some if refusal.command}
        told = RejectionsCounted(
            count=len(some),
            since=min(at for _, _, at in some),
            until=max(at for _, _, at in some),
            reasons=dict(Counter(refusal.reason for refusal, _, _ in some)),
            keys=tuple(key[:64] for key in list(named)[:10]),
        )
        step("counted")
        return Counted(Draft(type="rejections.counted", data=plain(told)), tuple(one for _, one, _ in some))

    def clear(self) -> None:
        """Forget what waits: it is delivered again, here or elsewhere."""
        self._waiting.clear()
        self._due = float("inf")
