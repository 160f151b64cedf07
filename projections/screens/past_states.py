"""What became of a source: in which states it was, and what was wrong with it."""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec
from sqlalchemy import Connection, desc, or_, select

from projections.folds.conditions import NAME as CONDITIONS
from projections.folds.conditions import ConditionRow
from projections.folds.history import Interval
from projections.reads import Reads, folded_at
from projections.rows import columns, structs
from projections.tables import conditions, history
from projections.views import Envelope, envelope
from streams.messages import now

MOST = 500
"""States, and conditions, of one answer."""


class PastStates(msgspec.Struct, frozen=True, kw_only=True):
    """The states a source was in and the conditions it had, the latest first."""

    since: datetime
    states: list[Interval]
    conditions: list[ConditionRow]


def open_conditions(reads: Reads) -> Envelope[list[ConditionRow]]:
    """What is wrong with any source now, the latest first. Raises Away."""

    def ask(connection: Connection) -> tuple[list[ConditionRow], datetime | None]:
        wanted = select(*columns(conditions, ConditionRow)).where(conditions.c.closed_at.is_(None))
        wanted = wanted.order_by(desc(conditions.c.opened_at), desc(conditions.c.seq)).limit(MOST)
        rows = structs(conditions, ConditionRow, list(connection.execute(wanted)))
        return rows, folded_at(connection, CONDITIONS)

    rows, as_of = reads.database(ask)
    return envelope(rows, "database", as_of=as_of, at=now(), redis_away=reads.redis_away())


def past_states(reads: Reads, source: str, hours: float) -> Envelope[PastStates]:
    """What of the source lasted into the last `hours`, or began in them. Raises Away."""
    at = now()
    since = at - timedelta(hours=hours)

    def ask(connection: Connection) -> tuple[PastStates, datetime | None]:
        lasted = select(*columns(history, Interval)).where(
            history.c.source == source, or_(history.c.until.is_(None), history.c.until >= since)
        )
        episodes = select(*columns(conditions, ConditionRow)).where(
            conditions.c.source == source,
            or_(conditions.c.closed_at.is_(None), conditions.c.closed_at >= since),
        )
        lasted = lasted.order_by(desc(history.c.since), desc(history.c.seq)).limit(MOST)
        episodes = episodes.order_by(desc(conditions.c.opened_at), desc(conditions.c.seq)).limit(MOST)
        states = structs(history, Interval, list(connection.execute(lasted)))
        opened = structs(conditions, ConditionRow, list(connection.execute(episodes)))
        return PastStates(since=since, states=states, conditions=opened), folded_at(connection, CONDITIONS)

    found, as_of = reads.database(ask)
    return envelope(found, "database", as_of=as_of, at=at, redis_away=reads.redis_away())
