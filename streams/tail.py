"""Reading a lane's log as it grows, no further than what is known to be durable."""

from __future__ import annotations

import time

import msgspec

from streams.connection import Link
from streams.messages import GENESIS, Logged, decode_event
from streams.names import LaneKeys

CATCH_UP = 0.002
"""Seconds between two looks while the log is ahead of its watermark."""


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
    """Follows one lane from a position; `after` moves along with what was read."""

    def __init__(self, link: Link, keys: LaneKeys, after: Position = START) -> None:
        self._link = link
        self._keys = keys
        self.after = after
        self.head_seq = after.seq
        """The last seq in the log as of the latest read: its distance to `after` is the lag."""

    def read(self, count: int = 500, block: float = 1.0) -> list[Logged]:
        """The next events up to the watermark, at most `count`; empty when `block` seconds brought none.

        Raises PositionAhead, Unreachable.
        """
        deadline = time.monotonic() + block
        while True:
            batch = self._next(count)
            left = deadline - time.monotonic()
            if batch or left <= 0:
                return batch
            if self.head_seq > self.after.seq:
                time.sleep(min(CATCH_UP, left))
            else:
                last = f"{self.after.seq}-18446744073709551615"
                milliseconds = max(1, int(left * 1000))
                wake = ("XREAD", "COUNT", 1, "BLOCK", milliseconds, "STREAMS", self._keys.events, last)
                self._link.call(*wake, timeout=left)

    def _next(self, count: int) -> list[Logged]:
        keys, after = self._keys, self.after
        status, head_seq, rest = self._link.call(
            "FCALL_RO", "tocsin_tail", 2, keys.head, keys.events, after.seq, after.hash, count
        )
        self.head_seq = int(head_seq)
        if status == b"ahead":
            raise PositionAhead(self.after, self.head_seq, rest.decode())
        batch = [Logged(decode_event(raw), raw, stated.decode()) for raw, stated in rest]
        if batch:
            self.after = Position(batch[-1].event.seq, batch[-1].hash)
        return batch
