"""Reading events: from the archive in Postgres, and from the log's hot tail what is not there yet."""

from __future__ import annotations

from datetime import datetime
from typing import Any, cast

import msgspec
from sqlalchemy import Connection, select

from projections.reads import REDIS_AWAY, Reads, Unknown
from projections.runner import LogBroken, check_joined
from projections.tables import ARCHIVE, archive, positions
from projections.views import Envelope, EventPage, EventView, envelope
from streams.history import EventsMissing
from streams.messages import Logged, decode_event, digest, now
from streams.tail import START, Position, PositionAhead, Tail

MOST_EVENTS = 500
WINDOW = 20_000
"""Events that one page looks through at most, so that a rare filter costs no more than a plain page."""


class Filter(msgspec.Struct, frozen=True):
    """Which events are wanted; a type that ends with a dot stands for all that begin so."""

    source: str | None = None
    type: str | None = None
    command: str | None = None

    def takes(self, logged: Logged) -> bool:
        """Whether the event is wanted."""
        event = logged.event
        if self.type is not None and self.type.endswith("."):
            typed = event.type.startswith(self.type)
        else:
            typed = self.type in (None, event.type)
        return typed and self.source in (None, event.source) and self.command in (None, event.command)


class _Kept(msgspec.Struct, frozen=True):
    """What the archive has of a page: `through` is the last seq looked at, `end` where the archive ends."""

    events: list[Logged]
    through: int
    end: Position | None
    as_of: datetime | None


def page(reads: Reads, lane: str, *, after: int, limit: int, wanted: Filter) -> Envelope[EventPage]:
    """Up to `limit` events of the lane after seq `after`. Raises Unknown (lane), Away."""
    kept = reads.database(lambda connection: _kept(connection, lane, after, limit, wanted))
    if kept is None:
        raise Unknown("lane", lane)
    views = [view(lane, logged) for logged in kept.events]
    if kept.end is not None and kept.through < kept.end.seq:
        # The past does not grow old.
        return envelope(
            EventPage(events=views, next=kept.through, more=True), "database", as_of=now(), at=now()
        )
    try:
        fresh, more = _hot(reads, lane, kept.end or START, limit - len(views), after)
    except (*REDIS_AWAY, PositionAhead, EventsMissing, LogBroken):
        done = EventPage(events=views, next=kept.through, more=False)
        return envelope(done, "database", as_of=kept.as_of, at=now(), redis_away=True)
    views += [view(lane, logged) for logged in fresh if wanted.takes(logged)]
    through = max([kept.through, *(logged.event.seq for logged in fresh)])
    return envelope(EventPage(events=views, next=through, more=more), "database", as_of=now(), at=now())


def view(lane: str, logged: Logged) -> EventView:
    """The event as readers are given it."""
    return EventView(lane=lane, hash=logged.hash, **msgspec.structs.asdict(logged.event))


def _kept(connection: Connection, lane: str, after: int, limit: int, wanted: Filter) -> _Kept | None:
    """What the archive has; None where nobody follows such a lane."""
    stands = connection.execute(
        select(positions.c.projection, positions.c.seq, positions.c.hash).where(positions.c.lane == lane)
    ).all()
    if not stands:
        return None
    end = next((Position(row.seq, row.hash) for row in stands if row.projection == ARCHIVE), None)
    window = (archive.c.lane == lane, archive.c.seq > after, archive.c.seq <= after + WINDOW)
    rows = connection.execute(
        select(archive.c.seq, archive.c.raw)
        .where(*window, *_where(wanted))
        .order_by(archive.c.seq)
        .limit(limit)
    ).all()
    last = 0 if end is None else end.seq
    through = rows[-1].seq if len(rows) == limit else max(after, min(after + WINDOW, last))
    return _Kept([_logged(row.raw) for row in rows], through, end, _archived_at(connection, lane))


def _where(wanted: Filter) -> list[Any]:
    found: list[Any] = []
    if wanted.source is not None:
        found.append(archive.c.source == wanted.source)
    if wanted.command is not None:
        found.append(archive.c.command == wanted.command)
    if wanted.type is not None and wanted.type.endswith("."):
        found.append(archive.c.type.startswith(wanted.type, autoescape=True))
    elif wanted.type is not None:
        found.append(archive.c.type == wanted.type)
    return found


def _hot(reads: Reads, lane: str, end: Position, limit: int, after: int) -> tuple[list[Logged], bool]:
    """Up to `limit` events beyond the archive's end and `after`, up to the watermark; whether there are more.

    Raises Unreachable, ResponseError, PositionAhead, LogBroken.
    """
    found: list[Logged] = []
    with reads.links.borrow() as link:
        tail = Tail(link, reads.keys.lane(lane), end)
        while len(found) <= limit:
            before = tail.after
            batch = tail.read(MOST_EVENTS, block=0)
            check_joined(before, batch)
            found += [logged for logged in batch if logged.event.seq > after]
            if len(batch) < MOST_EVENTS:
                break
    return found[:limit], len(found) > limit


def _archived_at(connection: Connection, lane: str) -> datetime | None:
    """The moment up to which the archive is known to have everything of the lane; None: unknown.

    Where the archive is as far as the folds, that is when these were last seen to have everything.
    """
    wanted = select(
        positions.c.projection, positions.c.seq, positions.c.updated_at, positions.c.checked_at
    ).where(positions.c.lane == lane, positions.c.failure.is_(None) | (positions.c.projection == ARCHIVE))
    rows = connection.execute(wanted).all()
    kept = next((row for row in rows if row.projection == ARCHIVE), None)
    folds = [row for row in rows if row.projection != ARCHIVE]
    if kept is None:
        return None
    if not folds or any(kept.seq < row.seq for row in folds):
        return cast(datetime, kept.updated_at)
    checked = [row.checked_at for row in folds]
    return None if None in checked else min(checked)


def _logged(raw: bytes) -> Logged:
    # The bytes are what was hashed.
    return Logged(decode_event(bytes(raw)), bytes(raw), digest(bytes(raw)))
