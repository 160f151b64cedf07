"""Reading the archive for the hall: what the owner of a lane asks when it takes the lane over."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from typing import Any

import psycopg
from psycopg import Cursor
from psycopg.errors import UndefinedTable

from projections.wire import GRACE, Wire, connect_to
from streams.breaker import Breaker
from streams.history import ArchiveAway, Entry
from streams.lookout import Lookout
from streams.settings import PostgresSection
from streams.tail import Position

ANSWER_WITHIN = 2.0
"""Seconds that one question may take; its answer is at most BATCH events."""
BATCH = 2000
LAST = 2**63 - 1
"""No seq is higher."""
AWAY = (psycopg.Error, OSError)
_FOLLOWING = (
    "SELECT seq, raw, hash FROM archive WHERE lane = %s AND seq > %s AND seq <= %s ORDER BY seq LIMIT %s"
)
_PAGE = b"SELECT raw, hash FROM archive WHERE lane = %s AND seq > %s AND seq <= %s ORDER BY seq"


class ArchiveReader:
    """The archive of a station, as `streams.history.Catalogue`: a connection per question, none kept open.

    Any number of threads may ask. A database without the table has archived nothing yet.
    """

    def __init__(self, postgres: PostgresSection, breaker: Breaker | None = None) -> None:
        self._postgres = postgres
        self._breaker = breaker or Breaker("postgres")

    def head(self, lane: str) -> Position | None:
        """The last event archived of the lane; None where there is none. Raises ArchiveAway."""
        last = "SELECT seq, hash FROM archive WHERE lane = %s ORDER BY seq DESC LIMIT 1"
        rows = self._ask(last, (lane,))
        return Position(*rows[0]) if rows else None

    def after(self, lane: str, seq: int, upto: int | None = None) -> Iterator[Entry]:
        """The events archived with seq in (seq, upto], oldest first. Raises ArchiveAway."""
        last = LAST if upto is None else upto
        while rows := self._ask(_FOLLOWING, (lane, seq, last, BATCH)):
            for _, raw, stated in rows:
                yield raw, stated
            seq = rows[-1][0]
            if len(rows) < BATCH:
                return
            seq = yield from self._onwards(lane, seq, last)
            if seq >= last:
                return

    def _onwards(self, lane: str, seq: int, last: int) -> Generator[Entry, None, int]:
        """Read on, each page being asked for before the one ahead of it is used; the seq reached.

        It ends with `last`, or before a page that is not full (a hole, or no more) or not to be had.
        """

        def ask(begin: int) -> Cursor[Any]:
            return wire.cursor(binary=True).execute(_PAGE, (lane, begin, min(begin + BATCH, last)))

        # What was asked for and not fetched in time is given up by the server: it is asked for anew.
        with suppress(*AWAY), self._connected() as wire, wire.pipeline():
            asked = ask(seq)
            while seq < last:
                ahead = ask(seq + BATCH)
                rows = asked.fetchall()
                if len(rows) < min(BATCH, last - seq):
                    break
                yield from rows
                asked, seq = ahead, min(seq + BATCH, last)
        return seq

    def before(self, lane: str, seq: int | None) -> Iterator[Entry]:
        """The events archived with a lower seq (None: all), newest first. Raises ArchiveAway."""
        preceding = (
            "SELECT seq, raw, hash FROM archive WHERE lane = %s AND seq < %s ORDER BY seq DESC LIMIT %s"
        )
        end = LAST if seq is None else seq
        while rows := self._ask(preceding, (lane, end, BATCH)):
            for _, raw, stated in rows:
                yield raw, stated
            if len(rows) < BATCH:
                return
            end = rows[-1][0]

    def hash_at(self, lane: str, seq: int) -> str | None:
        """The hash of the archived event with this seq; None where it is not there. Raises ArchiveAway."""
        rows = self._ask("SELECT hash FROM archive WHERE lane = %s AND seq = %s", (lane, seq))
        return str(rows[0][0]) if rows else None

    def lanes(self) -> list[str]:
        """The lanes of which events are archived. Raises ArchiveAway."""
        known = "SELECT lane FROM positions WHERE projection = 'archive' AND seq > 0 ORDER BY lane"
        return [lane for (lane,) in self._ask(known, ())]

    def sources(self, lane: str) -> list[str]:
        """The ids of the sources that the lane has, by what is archived. Raises ArchiveAway."""
        latest = (
            "SELECT source FROM (SELECT DISTINCT ON (source) source, type FROM archive WHERE lane = %s"
            " AND type IN ('source.added', 'source.removed') ORDER BY source, seq DESC) AS latest"
            " WHERE type = 'source.added' ORDER BY source"
        )
        return [source for (source,) in self._ask(latest, (lane,))]

    def lookout(self) -> Lookout:
        """Who closes the breaker once Postgres is back: until the next take-over nobody else asks."""
        return Lookout(self._breaker, self._look, lambda error: isinstance(error, AWAY))

    def _look(self) -> None:
        """Ask whether Postgres is there, where it was not when last asked. Raises psycopg.Error, OSError."""
        if self._breaker.standing().failures:
            with self._connected() as connection:
                connection.execute(b"SELECT 1")

    def _ask(self, query: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        try:
            with self._connected() as connection:
                rows = connection.execute(query.encode(), values, binary=True).fetchall()
            self._breaker.succeeded()
            return rows
        except UndefinedTable:
            self._breaker.succeeded()
            return []
        except AWAY as error:
            said = str(error).strip().partition("\n")[0]
            # Only told, not heeded: a lane that is taken over has nobody else to ask.
            self._breaker.failed(said)
            raise ArchiveAway(f"the archive cannot be asked: {said}") from error

    def _connected(self) -> Wire:
        # The primary: a standby may not have the latest yet, and a lane must not be begun again over it.
        return connect_to(
            self._postgres, name="archive-reader", answer_within=ANSWER_WITHIN - GRACE, autocommit=True
        )
