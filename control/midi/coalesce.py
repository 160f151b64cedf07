"""Many moves of a fader as few wishes. Pure: times come from whoever moves and asks."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

import msgspec

Fader = TypeVar("Fader", bound=Hashable)

SETTLED = 0.15
"""Seconds without a move after which a fader stands where it is meant to."""
AT_MOST_EVERY = 0.5
"""Seconds between two wishes of a fader that goes on moving."""


class _Moving(msgspec.Struct):
    value: int
    last: float


class Coalescer(Generic[Fader]):
    """Holds the latest position of each fader until it is due."""

    def __init__(self) -> None:
        self._moving: dict[Fader, _Moving] = {}
        self._told: dict[Fader, float] = {}

    def move(self, fader: Fader, value: int, at: float) -> None:
        """It was moved to `value`."""
        self._moving[fader] = _Moving(value, at)
        self._told.setdefault(fader, at)

    def due(self, at: float) -> list[tuple[Fader, int]]:
        """Positions to be wished for now: of faders that came to rest, or have been moving for long."""
        due = []
        for fader, moving in list(self._moving.items()):
            long = at - self._told[fader] >= AT_MOST_EVERY
            if moving.last + SETTLED <= at or long:
                due.append((fader, moving.value))
                del self._moving[fader]
                self._told[fader] = at
        for fader, told in list(self._told.items()):
            # It rested for long: the next sweep begins anew.
            if fader not in self._moving and at - told >= AT_MOST_EVERY:
                del self._told[fader]
        return due

    def forget(self) -> None:
        """Whoever moved is gone: nothing of it is wished for any more."""
        self._moving.clear()
        self._told.clear()
