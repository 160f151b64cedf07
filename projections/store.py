"""Rows and positions in Postgres. Everything here runs inside the caller's transaction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, and_, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert

from projections.projection import Positioned, Projection
from projections.rows import columns, structs
from projections.tables import ARCHIVE, positions
from streams.tail import START, Position


class PositionLost(Exception):
    """Raised when another runner moved the position first; nothing of this transaction may stay."""


class NewerVersion(Exception):
    """Raised when the rows were folded by a newer version of the fold, which this one must not touch."""


def read_position(connection: Connection, projection: Projection, lane: str) -> Position:
    """Where the projection stands in the lane, entering it at the start if it is new there.

    Rows folded by an older version of the fold are dropped with their position, so that they are
    folded again. Raises NewerVersion.
    """
    stands = _at(projection, lane)
    _enter(connection, projection, lane)
    row = connection.execute(
        select(positions.c.version, positions.c.seq, positions.c.hash).where(stands)
    ).one()
    if row.version == projection.version:
        return Position(row.seq, row.hash)
    if row.version > projection.version:
        raise NewerVersion(
            f"{projection.name} is folded by version {row.version}, this is {projection.version}"
        )
    connection.execute(delete(positions).where(stands))
    connection.execute(delete(projection.table).where(projection.table.c.lane == lane))
    _enter(connection, projection, lane)
    return START


def _enter(connection: Connection, projection: Projection, lane: str) -> None:
    enter(connection, projection, lane, START)


def enter(connection: Connection, projection: Positioned, lane: str, at: Position) -> None:
    """Give the projection a position in the lane where it has none yet."""
    connection.execute(
        insert(positions)
        .values(
            projection=projection.name,
            lane=lane,
            version=projection.version,
            seq=at.seq,
            hash=at.hash,
            updated_at=func.now(),
        )
        .on_conflict_do_nothing()
    )


def advance(
    connection: Connection, projection: Positioned, lane: str, before: Position, after: Position
) -> None:
    """Move the position from `before` to `after`, by compare-and-set; raises PositionLost.

    The position's row stays locked until the transaction ends, so rows that are read after this
    are those that belong to `before`.
    """
    moved = connection.execute(
        update(positions)
        .where(
            _at(projection, lane),
            positions.c.version == projection.version,
            positions.c.seq == before.seq,
            positions.c.hash == before.hash,
        )
        .values(seq=after.seq, hash=after.hash, updated_at=func.now(), trouble=None)
    )
    if moved.rowcount != 1:
        raise PositionLost(f"{projection.name} in {lane} no longer stands at {before.seq}")


def note_trouble(connection: Connection, projection: Positioned, lane: str, trouble: str | None) -> None:
    """Keep why the projection cannot go on in the lane (None: it can), for whoever asks for its status."""
    connection.execute(
        update(positions)
        .where(_at(projection, lane), positions.c.trouble.is_distinct_from(trouble))
        .values(trouble=trouble)
    )


def last_checked(connection: Connection, lane: str) -> datetime | None:
    """When the lane was last known to be folded to its end by all projections; None: never."""
    folded = (positions.c.lane == lane, positions.c.projection != ARCHIVE)
    times = connection.scalars(select(positions.c.checked_at).where(*folded)).all()
    return None if None in times else min(times, default=None)


def load_rows(
    connection: Connection, projection: Projection, lane: str, ids: Iterable[str]
) -> dict[str, Any]:
    """The lane's rows with these ids, as the projection's row type."""
    table = projection.table
    wanted = select(*columns(table, projection.row)).where(table.c.lane == lane, table.c.id.in_(sorted(ids)))
    found = list(connection.execute(wanted))
    return {row.id: row for row in structs(table, projection.row, found)}


def write_rows(connection: Connection, projection: Projection, lane: str, rows: Mapping[str, Any]) -> None:
    """Put the lane's rows by id; None deletes."""
    table = projection.table
    gone = sorted(key for key, row in rows.items() if row is None)
    if gone:
        connection.execute(delete(table).where(table.c.lane == lane, table.c.id.in_(gone)))
    kept = [
        {"lane": lane, **msgspec.structs.asdict(rows[key])} for key in sorted(rows) if rows[key] is not None
    ]
    if kept:
        put = insert(table)
        fields = {column.name: put.excluded[column.name] for column in table.c if not column.primary_key}
        connection.execute(put.on_conflict_do_update(index_elements=["id", "lane"], set_=fields), kept)


def _at(projection: Positioned, lane: str) -> Any:
    return and_(positions.c.projection == projection.name, positions.c.lane == lane)
