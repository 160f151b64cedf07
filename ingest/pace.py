"""When the next block of a source is due, and how often its level is told."""

from __future__ import annotations

import time
from typing import Protocol

from ingest.audio import Pace
from ingest.file_source import BLOCK_SECONDS

BEHIND = 1.0
"""Seconds a paced source may be behind and catch up; what is more is not made up for."""
PERIOD = BLOCK_SECONDS
"""Seconds between two levels."""
SHARE = 0.5
"""How much of its time a source that is read as fast as possible reads; the rest is for the others."""
BURST = 60.0
"""Seconds of audio that a live source may be ahead: servers send what they have in store to begin with,
and what a network held up comes all at once."""
LEEWAY = 1.02
"""How much faster than ours a live source's clock may run before that counts as being ahead."""
HELD_AFTER = 5.0
"""Seconds a source must have been held back without a pause to count as faster than real time."""


class Clock(Protocol):
    """Tells how long to wait after what was played."""

    @property
    def held(self) -> bool:
        """Whether the source would be faster than real time, and is held back."""

    def pause(self, played: float) -> float:
        """Seconds to wait before the next block, `played` seconds in all having been played."""


def clock(pace: Pace) -> Clock:
    """The clock for audio of that pace, beginning now."""
    match pace:
        case "clock":
            return RealTime()
        case "fast":
            return Turn()
        case "live":
            return Live()


class RealTime:
    """Our clock: a block is due when what was played before it has been."""

    held = False

    def __init__(self) -> None:
        self._begun = time.monotonic()

    def pause(self, played: float) -> float:
        """Seconds until what was played is over."""
        ahead = self._begun + played - time.monotonic()
        if ahead < -BEHIND:
            self._begun -= ahead
        return max(ahead, 0.0)


class Turn:
    """As fast as possible, for SHARE of the time: a level each PERIOD, of what was read in it."""

    held = False

    def __init__(self) -> None:
        self._begun = time.monotonic()

    def pause(self, played: float) -> float:
        """The others' share, after each PERIOD."""
        spent = time.monotonic() - self._begun
        if spent < PERIOD * SHARE:
            return 0.0
        # No longer than a period, where a slow read or a stopped process took the time.
        pause = min(spent / SHARE - spent, PERIOD)
        self._begun += spent + pause
        return pause


class Live:
    """The source's own clock; who sends more than BURST seconds too much is read no faster than it plays."""

    def __init__(self) -> None:
        self._at = time.monotonic()
        self._played = 0.0
        self._allowed = BURST
        self._held_since: float | None = None

    @property
    def held(self) -> bool:
        """Whether it has been held back for a while now."""
        return self._held_since is not None and time.monotonic() - self._held_since >= HELD_AFTER

    def pause(self, played: float) -> float:
        """Nothing, as long as it is not too far ahead."""
        now = time.monotonic()
        self._allowed = min(self._allowed + LEEWAY * (now - self._at), BURST) - (played - self._played)
        self._at, self._played = now, played
        if self._allowed < 0:
            self._held_since = self._held_since or now
            return -self._allowed
        if self._allowed > BLOCK_SECONDS * 3:
            self._held_since = None
        return 0.0
