"""The projections' pulse: every 5 s Postgres is told what Redis says now, for the time when it is away.

Without it nobody could tell a station in which nothing happens from one that is no longer followed.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import Engine, bindparam, or_, update

from projections.heartbeats import keep_heartbeats, read_heartbeats
from projections.lanes import nodes_of
from projections.tables import ARCHIVE, positions
from streams.connection import Link
from streams.names import StationKeys

EVERY = 5.0
"""Seconds."""


def beat(
    engine: Engine, link: Link, keys: StationKeys, checked: Mapping[str, datetime | None], nodes: list[str]
) -> None:
    """Keep the nodes' heartbeats and when each lane was last known to be folded to its end.

    Raises Unreachable, DBAPIError.
    """
    beats = read_heartbeats(link, keys, sorted({*nodes, *nodes_of(list(checked))}))
    times = [{"of": lane, "time": at} for lane, at in sorted(checked.items()) if at is not None]
    with engine.begin() as connection:
        keep_heartbeats(connection, beats)
        if times:
            connection.execute(_CHECKED, times)


_CHECKED = (
    update(positions)
    .where(
        positions.c.lane == bindparam("of"),
        positions.c.projection != ARCHIVE,
        # What was set aside is not known to be folded, though the lane is.
        positions.c.failure.is_(None),
        or_(positions.c.checked_at.is_(None), positions.c.checked_at < bindparam("time")),
    )
    .values(checked_at=bindparam("time"))
)
