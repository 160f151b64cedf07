"""Verifies the lanes' logs while the station runs: what is new every few seconds, all of it once a day.

What is archived must join on, event by event, and the log in Redis must hold the same bytes. An alteration
of what was verified before is found by the daily walk through everything.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from threading import Event

import structlog
from redis.exceptions import ResponseError
from sqlalchemy import Engine, select
from sqlalchemy.exc import SQLAlchemyError

from projections import verdicts
from projections.database import is_away
from projections.tables import archive
from projections.verdicts import Verdict
from streams.audit import verify
from streams.backoff import Backoff
from streams.chain import Joint
from streams.connection import Link, Unreachable
from streams.messages import digest, now
from streams.names import StationKeys
from streams.tail import Position

EVERY = 10.0
"""Seconds between two looks at what is new."""
WHOLE_EVERY = timedelta(days=1)
"""After which a lane is verified from its first event on again."""
WHOLE_AGAIN = timedelta(hours=1)
"""The same, where something was wrong."""
BATCH = 500
SHARE = 0.1
"""Of one processor, at most, that the daily walk takes: it sleeps for the rest."""


class _Stopped(Exception):
    """Raised in the midst of a walk when the process ends."""


class Verifier:
    """Verifies all lanes. `run` and `run_whole` are the bodies of two threads, each with its own link."""

    def __init__(
        self, engine: Engine, link: Link, whole_link: Link, keys: StationKeys, stopping: Event
    ) -> None:
        self._engine = engine
        self._link = link
        self._whole_link = whole_link
        self._keys = keys
        self._stopping = stopping
        self._told: dict[str, str | None] = {}
        self._log = structlog.get_logger("projections.verifier")

    def run(self) -> None:
        """Verify what is new until told to stop; what fails is tried again."""
        self._repeat(self._link, self.look)

    def run_whole(self) -> None:
        """Verify each lane from its first event on when that is due, until told to stop."""
        self._repeat(self._whole_link, self.walk)

    def _repeat(self, link: Link, look: Callable[[], None]) -> None:
        backoff = Backoff(self._stopping)
        while not self._stopping.is_set():
            try:
                look()
                backoff.reset()
                self._stopping.wait(EVERY)
                continue
            except _Stopped:
                break
            except (Unreachable, ResponseError) as error:
                self._fail("redis away", error, backoff)
            except SQLAlchemyError as error:
                if not is_away(error):
                    self._log.exception("verdicts cannot be kept")
                else:
                    self._fail("postgres away", error, backoff)
            except Exception:  # the verifier never dies: it says what is wrong and tries again
                self._log.exception("verifying failed")
            backoff.wait()
        link.close()

    def _fail(self, what: str, error: Exception, backoff: Backoff) -> None:
        if backoff.failures == 0:
            self._log.warning(what, detail=str(error).splitlines()[0])

    def look(self) -> None:
        """Verify what was archived since the last look. Raises Unreachable, DBAPIError."""
        with self._engine.connect() as connection:
            ends, known = verdicts.archived(connection), verdicts.kept(connection)
        for lane, end in ends.items():
            at = known[lane].joint if lane in known else Joint()
            was = known[lane].fault if lane in known else None
            while not self._stopping.is_set() and (at.seq < end.seq or was or lane not in known):
                before, (at, fault) = at, self._follow(lane, at, end)
                with self._engine.begin() as connection:
                    verdicts.note(connection, lane, before, at, fault, now())
                self._tell(lane, fault)
                if fault or at.seq >= end.seq:
                    break

    def _follow(self, lane: str, at: Joint, end: Position) -> tuple[Joint, str | None]:
        rows = self._rows(lane, at.seq)
        if not rows:
            missing = at.seq < end.seq
            return at, f"event {at.seq + 1} of the archive: it is missing" if missing else None
        log = dict(self._logged(self._link, lane, str(rows[0][0]), str(rows[-1][0])))
        return verdicts.follow(at, rows, log)

    def walk(self) -> None:
        """Verify each lane from its first event on, where that is due. Raises Unreachable, DBAPIError."""
        with self._engine.connect() as connection:
            ends, known = verdicts.archived(connection), verdicts.kept(connection)
        for lane, one in known.items():
            if lane in ends and is_due(one, now()):
                fault = self.whole(lane, ends[lane])
                with self._engine.begin() as connection:
                    verdicts.note_whole(connection, lane, fault, now())
                self._tell(f"{lane} as a whole", fault)

    def whole(self, lane: str, end: Position) -> str | None:
        """What is wrong with the lane's archive up to `end`, or with the log beside it; None if nothing."""
        found = verify(lane, self._archived(lane), end)
        if found.fault:
            return f"event {found.fault.seq} of the archive: {found.fault.problem}"
        return self._differs(lane)

    def _differs(self, lane: str) -> str | None:
        """Where the log in Redis first holds other bytes than were archived, in words; None if nowhere."""
        after = "-"
        while page := self._logged(self._whole_link, lane, after, "+", BATCH):
            began = time.monotonic()
            kept = {seq: stated for seq, _, stated in self._rows(lane, page[0][0] - 1)}
            for seq, raw in page:
                if kept.get(seq, digest(raw)) != digest(raw):
                    return f"event {seq}: its bytes in Redis are not those that were archived"
            after = str(page[-1][0] + 1)
            self._pace(began)
        return None

    def _logged(
        self, link: Link, lane: str, first: str, last: str, count: int = BATCH
    ) -> list[tuple[int, bytes]]:
        """Seq and bytes of the log's events in Redis from `first` to `last`, at most `count`."""
        found = link.call("XRANGE", self._keys.lane(lane).events, first, last, "COUNT", count)
        return [(int(entry.split(b"-")[0]), fields[1]) for entry, fields in found]

    def _rows(self, lane: str, after: int) -> list[tuple[int, bytes, str]]:
        """Seq, bytes and hash of the next archived events."""
        wanted = select(archive.c.seq, archive.c.raw, archive.c.hash)
        wanted = wanted.where(archive.c.lane == lane, archive.c.seq > after)
        with self._engine.connect() as connection:
            rows = connection.execute(wanted.order_by(archive.c.seq).limit(BATCH)).all()
        return [(row.seq, bytes(row.raw), row.hash) for row in rows]

    def _archived(self, lane: str) -> Iterator[tuple[bytes, bytes]]:
        """Bytes and hash of all archived events of the lane, read at leisure."""
        after, began = 0, time.monotonic()
        while rows := self._rows(lane, after):
            for _, raw, stated in rows:
                yield raw, stated.encode()
            after = rows[-1][0]
            self._pace(began)
            began = time.monotonic()

    def _pace(self, began: float) -> None:
        """Sleep for as long as the work since `began` (monotonic) has to be paid for. Raises _Stopped."""
        if self._stopping.wait((time.monotonic() - began) * (1 / SHARE - 1)):
            raise _Stopped

    def _tell(self, what: str, fault: str | None) -> None:
        if fault and fault != self._told.get(what):
            self._log.error("the log is not sound", lane=what, detail=fault)
        elif self._told.get(what) and not fault:
            self._log.info("the log is sound again", lane=what)
        self._told[what] = fault


def is_due(verdict: Verdict, at: datetime) -> bool:
    """Whether the lane is to be verified as a whole."""
    every = WHOLE_AGAIN if verdict.whole_fault else WHOLE_EVERY
    return verdict.whole_at is None or at - verdict.whole_at >= every
