"""What the audit page asks: up to where the log is verified, and how the station was at some moment."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, select

from projections.archive_reader import ArchiveReader
from projections.lanes import claimed_lanes, settled_lanes
from projections.lookback import Lookback
from projections.reads import REDIS_AWAY, Away, Reads
from projections.tables import archive
from projections.verdicts import archived, kept
from projections.views import Envelope, envelope
from streams.connection import connect
from streams.history import ArchiveAway, EventsMissing, history
from streams.messages import now
from streams.names import StationKeys
from streams.settings import Settings

AT_ONCE = 2
"""Looks into the past at the same time: one may fold thousands of events."""
WAIT = 5.0
"""Seconds that another look waits for a place."""


class LaneAudit(msgspec.Struct, frozen=True, kw_only=True):
    """How far a lane's log is archived and verified. Times are UTC.

    It is sound up to `verified`, as seen at `checked_at`; `fault` is what is wrong behind that. `whole_at`
    is when all of it was last verified from the first event on. `began_at`: when its first event was logged.
    """

    lane: str
    began_at: datetime | None
    archived: int
    verified: int
    hash: str
    checked_at: datetime | None
    fault: str | None
    whole_at: datetime | None


class PastState(msgspec.Struct, frozen=True, kw_only=True):
    """The station after all that was logged at `at` or before, in the shape of `tocsin audit state`."""

    at: datetime
    lanes: dict[str, Any]
    sources: list[dict[str, Any]]
    commands: list[dict[str, Any]]
    totals: list[dict[str, Any]]


def read_lanes(reads: Reads) -> Envelope[list[LaneAudit]]:
    """How far each lane is verified. Raises Away."""

    def ask(connection: Connection) -> list[LaneAudit]:
        verdicts, ends = kept(connection), archived(connection)
        first = select(archive.c.lane, archive.c.logged_at).where(
            archive.c.seq == 1, archive.c.lane.in_(sorted(ends))
        )
        began = {row.lane: row.logged_at for row in connection.execute(first)} if ends else {}
        found = []
        for lane in sorted({*verdicts, *ends}):
            verdict = verdicts.get(lane)
            found.append(
                LaneAudit(
                    lane=lane,
                    began_at=began.get(lane),
                    archived=ends[lane].seq if lane in ends else 0,
                    verified=verdict.seq if verdict else 0,
                    hash=verdict.hash if verdict else "",
                    checked_at=verdict.checked_at if verdict else None,
                    fault=verdict.wrong if verdict else None,
                    whole_at=verdict.whole_at if verdict else None,
                )
            )
        return found

    lanes = reads.database(ask)
    at = now()
    return envelope(lanes, "database", as_of=at, at=at)


class PastReader:
    """Looks into the station's past. Any number of threads may ask; few are answered at once."""

    def __init__(self, settings: Settings, reads: Reads) -> None:
        self._settings = settings
        self._reads = reads
        self._keys = StationKeys(settings.station.id)
        self._archive = ArchiveReader(settings.postgres, reads.breakers.postgres)
        self._places = threading.BoundedSemaphore(AT_ONCE)

    def state(self, at: datetime) -> Envelope[PastState]:
        """How the station was at that moment. Raises Away."""
        if not self._places.acquire(timeout=WAIT):
            raise Away("others are looking into the past; ask again")
        try:
            return self._state(at)
        except (ArchiveAway, EventsMissing) as error:
            raise Away(str(error)) from error
        finally:
            self._places.release()

    def _state(self, at: datetime) -> Envelope[PastState]:
        redis_away = False
        lanes = settled_lanes(self._settings)
        link = None
        try:
            link = connect(self._settings.redis, "past")
            lanes = sorted({*lanes, *claimed_lanes(link, self._keys)})
        except REDIS_AWAY:
            redis_away = True

        def tail(lane: str, seq: int) -> Iterator[tuple[bytes, bytes]]:
            if link is None or redis_away:
                return iter(())
            return history(link, self._keys.lane(lane), self._archive, seq)

        try:
            with Lookback(self._settings.postgres, tail) as past:
                found = past.state([] if redis_away else lanes, at=at)
        except REDIS_AWAY as error:
            raise Away(f"the log in Redis cannot be read: {error}") from error
        finally:
            if link is not None:
                link.close()
        state = msgspec.convert(
            found or {"at": at, "lanes": {}, "sources": [], "commands": [], "totals": []}, PastState
        )
        asked = now()
        return envelope(state, "database", as_of=asked, at=asked, redis_away=redis_away)
