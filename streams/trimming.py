"""Trimming a lane's log in Redis: the owner lets go of what is archived, folded and old enough.

What the owner itself needs to know of those events is kept in their place, in the same step: a lane
can then be taken over while the archive is away, and at the same cost however long its past is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import msgspec
import structlog
from redis.exceptions import ResponseError

from streams.connection import Link, Unreachable
from streams.handler import Summary
from streams.history import Archive, ArchiveAway, EventsMissing, replayed
from streams.lease import Lease
from streams.messages import decode_event, now
from streams.names import LaneKeys
from streams.steps import step
from streams.tail import START, Position

LOOK_EVERY = 5.0
"""Seconds between two looks for events to let go of."""
STEP = 5000
"""Events let go of in one step: the server does nothing else meanwhile."""
INTERRUPTIONS = (Unreachable, ResponseError, ArchiveAway, EventsMissing, msgspec.MsgspecError)

log = structlog.get_logger(__name__)


class Known(msgspec.Struct, frozen=True):
    """What an owner knows of a lane's events up to a position, as its summary tells it."""

    at: Position = START
    data: bytes = b""


def recall(link: Link, keys: LaneKeys, summary: Summary | None) -> Known:
    """What was kept at the last trimming; nothing where that is of another kind, or not of this log."""
    if summary is None:
        return Known()
    seq, hash, kind, data = link.call("HMGET", keys.state, "seq", "hash", "kind", "known")
    if seq is None or kind.decode() != summary.kind:
        return Known()
    stands = link.call("XRANGE", keys.events, seq, seq)
    if not stands or stands[0][1][3] != hash:
        return Known()
    return Known(Position(int(seq), hash.decode()), data)


class Trimmer:
    """Trims one lane for its owner, over a link of its own."""

    def __init__(
        self, link: Link, keys: LaneKeys, archive: Archive | None, summary: Summary | None, keep: float
    ) -> None:
        self._link = link
        self._keys = keys
        self._archive = archive
        self._summary = summary
        self._keep = timedelta(seconds=keep)
        self._said = ""

    def run(self, lease: Callable[[], Lease | None], stop: threading.Event) -> None:
        """Trim every few seconds while there is a lease, until `stop` is set; the body of a thread."""
        while not stop.wait(LOOK_EVERY):
            held = lease()
            if held is not None:
                self.attempt(held)
        self._link.close()

    def attempt(self, lease: Lease, most: int | None = None) -> None:
        """Trim what may be trimmed, `most` events of it; what fails is said once and tried again later."""
        try:
            self.trim(lease, most)
            self._said = ""
        except INTERRUPTIONS as error:
            if str(error) != self._said:
                log.warning("log not trimmed", lane=self._keys.lane, detail=str(error))
            self._said = str(error)
            if isinstance(error, Unreachable):
                self._link.close()
        except Exception:  # a summary that fails must end neither this thread nor the lane
            log.exception("log not trimmed", lane=self._keys.lane)

    def trim(self, lease: Lease, most: int | None = None) -> int:
        """Let go of what may be let go of; return how many events. Raises INTERRUPTIONS."""
        keys, gone = self._keys, 0
        archived, folded = self._link.call("HMGET", keys.archived, "seq", "folded")
        stands = self._link.call("XRANGE", keys.events, "-", "+", "COUNT", 1)
        if not stands or archived is None or folded is None:
            return 0
        first = _seq(stands[0])
        last = self._old_enough(first, min(int(archived), int(folded)))
        last = last if most is None else min(last, first + most)
        if last <= first:
            return 0
        known = recall(self._link, keys, self._summary)
        while first < last:
            first = min(first + STEP, last)
            known = self._known_at(first, known)
            kind = self._summary.kind if self._summary else ""
            step("trimming")
            status, *rest = self._link.call(
                "FCALL", "tocsin_trim", 5, keys.lease, keys.head, keys.events, keys.state, keys.archived,
                lease.fence, known.at.seq, known.at.hash, kind, known.data,
            )  # fmt: skip
            step("trimmed")
            if status != b"ok":
                break
            gone += rest[0]
        if gone:
            log.info("log trimmed", lane=keys.lane, events=gone, upto=first - 1)
        return gone

    def _old_enough(self, first: int, last: int) -> int:
        """The last event in [first, last] that is older than events are kept; below `first` where none is."""
        before = now() - self._keep
        if last < first or self._logged_at(last) <= before:
            return last
        low, high = first - 1, last
        while high - low > 1:
            middle = (low + high) // 2
            if self._logged_at(middle) <= before:
                low = middle
            else:
                high = middle
        return low

    def _logged_at(self, seq: int) -> datetime:
        return decode_event(self._standing(seq)[1]).logged_at

    def _standing(self, seq: int) -> list[bytes]:
        stands = self._link.call("XRANGE", self._keys.events, seq, seq)
        if not stands:
            raise EventsMissing(self._keys.lane, seq, seq, archive=False)
        fields: list[bytes] = stands[0][1]
        return fields

    def _known_at(self, seq: int, known: Known) -> Known:
        """What is known at `seq`, by what was known before it."""
        at = Position(seq, self._standing(seq)[3].decode())
        if self._summary is None:
            return Known(at)
        events = replayed(self._link, self._keys, self._archive, after=known.at.seq, upto=seq)
        return Known(at, self._summary.fold(known.data, events))


def _seq(entry: Any) -> int:
    return int(entry[0].partition(b"-")[0])
