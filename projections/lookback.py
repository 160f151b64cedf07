"""Looking back: the read model of the whole station as it was after some event, or at some moment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import msgspec
import psycopg

from projections.fold_snapshots import Snapshots
from projections.past import LATEST, Past, fold
from streams.history import ArchiveAway
from streams.messages import Logged, decode_event
from streams.settings import PostgresSection
from streams.tail import Position

Tail = Callable[[str, int], Iterator[tuple[bytes, bytes]]]
"""Bytes and hash of a lane's events behind a seq, as the log in Redis has them."""


class Lookback:
    """The station's past. Close it in the end."""

    def __init__(self, postgres: PostgresSection, tail: Tail) -> None:
        self._snapshots = Snapshots(postgres)
        self._tail = tail

    def __enter__(self) -> Lookback:
        return self

    def __exit__(self, *_: object) -> None:
        self._snapshots.close()

    def state(
        self, lanes: list[str], *, at: datetime | None = None, lane: str = "", seq: int = 0
    ) -> dict[str, Any] | None:
        """The read model of these lanes and all that are archived, in plain values.

        It is that after all that was logged at the moment `at` or before; without one, that after the
        event `seq` of `lane`, other lanes as of when that was logged. None where there is no such event.
        Raises ArchiveAway, Unreachable.
        """
        try:
            archived = self._snapshots.lanes()
            event = None if at else self._event(lane, seq, archived.get(lane, 0))
            moment = event.event.logged_at if event else at
            if moment is None:
                return None
            found: dict[str, tuple[Position, Past]] = {}
            for one in sorted({*lanes, *archived}):
                upto = seq if event and one == lane else None
                position, past = self._lane(one, moment, upto, archived.get(one, 0))
                if position.seq:
                    found[one] = position, past
            return {"at": moment, **_told(found)}
        except psycopg.Error as error:
            raise ArchiveAway(f"the archive cannot be asked: {str(error).partition(chr(10))[0]}") from error

    def _lane(self, lane: str, moment: datetime, upto: int | None, archived: int) -> tuple[Position, Past]:
        """One lane up to the event `upto`, or to the last one logged at `moment` or before."""
        seq = upto if upto is not None else self._last_before(lane, moment, archived)
        at, past = self._snapshots.nearest(lane, min(seq, archived))
        at = self._snapshots.go_on(lane, at, past, min(seq, archived))
        if seq < archived or (upto is not None and upto <= archived):
            return at, past
        for raw, stated in self._tail(lane, at.seq):
            event = decode_event(raw)
            if event.seq > upto if upto is not None else event.logged_at > moment:
                break
            at = Position(event.seq, stated.decode())
            fold(past, Logged(event, raw, at.hash))
        return at, past

    def _last_before(self, lane: str, moment: datetime, archived: int) -> int:
        """The last archived event that was logged at `moment` or before, by bisection; 0 where none was."""
        low, high = 0, archived
        while low < high:
            middle = (low + high + 1) // 2
            logged = self._snapshots.event(lane, middle)
            if logged is not None and logged.event.logged_at <= moment:
                low = middle
            else:
                high = middle - 1
        return low

    def _event(self, lane: str, seq: int, archived: int) -> Logged | None:
        if seq <= archived:
            return self._snapshots.event(lane, seq)
        for raw, stated in self._tail(lane, seq - 1):
            event = decode_event(raw)
            return Logged(event, raw, stated.decode()) if event.seq == seq else None
        return None


def _told(found: dict[str, tuple[Position, Past]]) -> dict[str, Any]:
    rows = [(lane, row) for lane, (_, past) in found.items() for row in past.sources.values()]
    results = [(lane, row) for lane, (_, past) in found.items() for row in past.commands.values()]
    results.sort(key=lambda one: (one[1].finished_at, one[1].seq), reverse=True)
    counts: dict[tuple[str, str], int] = {}
    for _, past in found.values():
        for total in past.totals.values():
            counts[total.type, total.outcome] = counts.get((total.type, total.outcome), 0) + total.count
    return {
        "lanes": {lane: {"seq": at.seq, "hash": at.hash} for lane, (at, _) in found.items()},
        "sources": [_plain(lane, row) for lane, row in sorted(rows, key=lambda one: one[1].id)],
        "commands": [_plain(lane, row) for lane, row in results[:LATEST]],
        "totals": [
            {"type": type, "outcome": outcome, "count": count}
            for (type, outcome), count in sorted(counts.items())
        ],
    }


def _plain(lane: str, row: msgspec.Struct) -> dict[str, Any]:
    told: dict[str, Any] = msgspec.to_builtins(row)
    return {"lane": lane, **told}
