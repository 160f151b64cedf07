"""Reading a lane's log as it grows, no further than what is known to be durable."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice

import msgspec

from streams.backoff import Waits
from streams.connection import Link
from streams.history import Archive, EventsMissing
from streams.messages import GENESIS, Logged, decode_event
from streams.names import LaneKeys

CATCH_UP = Waits(first=0.002, longest=0.05)
"""Between two looks while the log is ahead of its watermark: a moment, but after a failover seconds."""


class Position(msgspec.Struct, frozen=True):
    """Where a reader stands in a lane: the last event it has, by seq *and* hash."""

    seq: int
    hash: str


START = Position(0, GENESIS)


class PositionAhead(Exception):
    """Raised when the log does not contain the reader's position: it was rolled back or rewritten."""

    def __init__(self, position: Position, head_seq: int, head_hash: str) -> None:
        super().__init__(
            f"position {position.seq} ({position.hash[:12]}…) is not in the log, whose head is "
            f"{head_seq} ({head_hash[:12]}…)"
        )
        self.position = position
        self.head = Position(head_seq, head_hash)


class Tail:
    """Follows one lane from a position; `after` moves along with what was read.

    What is no longer in Redis is read from `archive`.
    """

    def __init__(
        self, link: Link, keys: LaneKeys, after: Position = START, archive: Archive | None = None
    ) -> None:
        self._link = link
        self._keys = keys
        self._archive = archive
        self._archived: Iterator[Logged] = iter(())
        self.after = after
        self.head_seq = after.seq
        """The last seq in the log as of the latest read: its distance to `after` is the lag."""

    def read(self, count: int = 500, block: float = 1.0) -> list[Logged]:
        """The next events up to the watermark, at most `count`; empty when `block` seconds brought none.

        Raises PositionAhead, EventsMissing (trimmed, and not archived), ArchiveAway, Unreachable.
        """
        deadline = time.monotonic() + block
        looks = 0
        while True:
            batch = self._next(count)
            left = deadline - time.monotonic()
            if batch or left <= 0:
                return batch
            if self.head_seq > self.after.seq:
                looks += 1
                time.sleep(min(CATCH_UP.ceiling(looks), left))
            else:
                last = f"{self.after.seq}-18446744073709551615"
                milliseconds = max(1, int(left * 1000))
                wake = ("XREAD", "COUNT", 1, "BLOCK", milliseconds, "STREAMS", self._keys.events, last)
                self._link.call(*wake, timeout=left)

    def _next(self, count: int) -> list[Logged]:
        batch = list(islice(self._archived, count)) or self._hot(count)
        if batch:
            self.after = Position(batch[-1].event.seq, batch[-1].hash)
        return batch

    def _hot(self, count: int) -> list[Logged]:
        keys, after = self._keys, self.after
        status, head_seq, rest = self._link.call(
            "FCALL_RO", "tocsin_tail", 2, keys.head, keys.events, after.seq, after.hash, count
        )
        self.head_seq = int(head_seq)
        if status == b"ahead":
            raise PositionAhead(self.after, self.head_seq, rest.decode())
        batch = [Logged(decode_event(raw), raw, stated.decode()) for raw, stated in rest]
        if batch and batch[0].event.seq > after.seq + 1:
            return self._trimmed(batch[0].event.seq - 1, count)
        return batch

    def _trimmed(self, last: int, count: int) -> list[Logged]:
        """The first `count` of what stands between the position and the log; the rest is read next."""
        lane, first = self._keys.lane, self.after.seq + 1
        entries = self._archive.after(lane, first - 1, last) if self._archive else ()
        self._archived = (Logged(decode_event(raw), raw, stated) for raw, stated in entries)
        batch = list(islice(self._archived, count))
        if not batch:
            raise EventsMissing(lane, first, last, archive=self._archive is not None)
        return batch
