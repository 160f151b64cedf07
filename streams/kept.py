"""What the owner of a lane wrote and keeps until it is archived, to put it back where a failover loses it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

import structlog

from streams.history import Entry

MOST = 16 * 1024 * 1024
"""Bytes kept of one lane: about 20,000 events."""
BESIDE = 250
"""Bytes that an event takes in memory beside its own."""

log = structlog.get_logger(__name__)


class Kept:
    """A chain of events that ends at the lane's head. Not thread-safe."""

    def __init__(self, lane: str) -> None:
        self._lane = lane
        self._entries: deque[Entry] = deque()
        self._size = 0
        self._said = False

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def extend(self, entries: Iterable[Entry]) -> None:
        """Keep these too; where that is too much, the oldest go, and that is said once."""
        for entry in entries:
            self._entries.append(entry)
            self._size += len(entry[0]) + BESIDE
        if self._size > MOST:
            self._say()
        while self._size > MOST:
            self._drop()

    def _say(self) -> None:
        if not self._said:
            self._said = True
            log.error(
                "events are not archived: the oldest leave the owner's memory",
                lane=self._lane,
                kept=len(self._entries),
                detail="a failover of Redis that loses them could not put them back;"
                " tocsin doctor says what is wrong with the archive",
            )

    def forget(self, archived: int, head: int) -> None:
        """Let go of what is archived up to this seq, where the last event is that with the seq `head`."""
        while self._entries and head - len(self._entries) < archived:
            self._drop()
        if self._size < MOST / 2:
            # Archiving goes on: should it stop again, that is said again.
            self._said = False

    def _drop(self) -> None:
        raw, _ = self._entries.popleft()
        self._size -= len(raw) + BESIDE

    def clear(self) -> None:
        """Let go of all."""
        self._entries.clear()
        self._size = 0
