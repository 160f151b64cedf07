"""Rows and positions in Postgres. Everything here runs inside the caller's transaction."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from operator import attrgetter
from typing import Any

import msgspec
from psycopg import Cursor
from psycopg.types.json import Jsonb
from sqlalchemy import (
    BigInteger,
    Boolean,
    Connection,
    DateTime,
    Double,
    Integer,
    Table,
    Text,
    and_,
    bindparam,
    delete,
    func,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, insert

from projections.failures import Failure
from projections.projection import Positioned, Projection
from projections.rows import columns, structs
from projections.tables import ARCHIVE, positions
from streams.tail import START, Position

MANY = 20
"""New rows from which on they are copied."""


class PositionLost(Exception):
    """Raised when another runner moved the position first; nothing of this transaction may stay."""


class NewerVersion(Exception):
    """Raised when the rows were folded by a newer version of the fold, which this one must not touch."""


class OlderVersion(Exception):
    """Raised when the rows were folded by an older version of the fold: they are shown until rebuilt."""


class Standing(msgspec.Struct, frozen=True):
    """Where a projection stands in a lane, folded by which version, and why it does not go on, if so."""

    version: int
    at: Position
    failure: str | None
    trouble: str | None


def standings(connection: Connection, projections: Iterable[Positioned], lane: str) -> dict[str, Standing]:
    """Where each of the projections stands in the lane, by its name; one new there is at the start."""
    wanted = {projection.name: projection for projection in projections}
    found = _standings(connection, lane, wanted)
    missing = [projection for name, projection in wanted.items() if name not in found]
    if not missing:
        return found
    for projection in missing:
        enter(connection, projection, lane, START)
    return _standings(connection, lane, wanted)


def _standings(connection: Connection, lane: str, names: Collection[str]) -> dict[str, Standing]:
    rows = connection.execute(_STANDINGS, {"lane": lane}).all()
    return {
        row.projection: Standing(row.version, Position(row.seq, row.hash), row.failure, row.trouble)
        for row in rows
        if row.projection in names
    }


_STANDINGS = text("SELECT projection, version, seq, hash, failure, trouble FROM positions WHERE lane = :lane")


def check_version(projection: Positioned, version: int) -> None:
    """Raise OlderVersion, NewerVersion where its rows were folded by another version of the fold."""
    if version != projection.version:
        told = f"{projection.name} is folded by version {version}, this is {projection.version}"
        raise (NewerVersion if version > projection.version else OlderVersion)(told)


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


def advance_all(
    connection: Connection, lane: str, before: Mapping[str, tuple[int, Position]], after: Position
) -> None:
    """Move the positions of several projections, given as (version, position) by name; all or none.

    As `advance`; raises PositionLost.
    """
    moved = connection.execute(
        _ADVANCE,
        {
            "seq": after.seq,
            "hash": after.hash,
            "lane": lane,
            "names": list(before),
            "versions": [version for version, _ in before.values()],
            "seqs": [position.seq for _, position in before.values()],
            "hashes": [position.hash for _, position in before.values()],
        },
    )
    if moved.rowcount != len(before):
        raise PositionLost(f"{', '.join(before)}: not all stand in {lane} where they stood")


_ADVANCE = text(
    "UPDATE positions SET seq = :seq, hash = :hash, updated_at = now(), trouble = NULL, failure = NULL"
    " FROM unnest(CAST(:names AS text[]), CAST(:versions AS int[]), CAST(:seqs AS bigint[]),"
    " CAST(:hashes AS text[])) AS was (projection, version, seq, hash)"
    " WHERE positions.lane = :lane AND positions.projection = was.projection"
    " AND positions.version = was.version AND positions.seq = was.seq AND positions.hash = was.hash"
)


def put_position(connection: Connection, projection: Positioned, lane: str, at: Position) -> None:
    """Set the position, where the caller holds it locked."""
    connection.execute(update(positions).where(_at(projection, lane)).values(seq=at.seq, hash=at.hash))


def note_trouble(
    connection: Connection,
    projection: Positioned,
    lane: str,
    trouble: str | None,
    failure: Failure | None = None,
) -> None:
    """Keep why the projection cannot go on in the lane (None: it can), for whoever asks for its status."""
    connection.execute(
        update(positions)
        .where(
            _at(projection, lane),
            or_(positions.c.trouble.is_distinct_from(trouble), positions.c.failure.is_distinct_from(failure)),
        )
        .values(trouble=trouble, failure=failure)
    )


def last_checked(connection: Connection, lane: str) -> datetime | None:
    """When the lane was last known to be folded to its end by all projections; None: never."""
    folded = (
        positions.c.lane == lane,
        positions.c.projection != ARCHIVE,
        positions.c.failure.is_(None),
    )
    times = connection.scalars(select(positions.c.checked_at).where(*folded)).all()
    return None if None in times else min(times, default=None)


def load_rows(
    connection: Connection, projection: Projection, lane: str, ids: Iterable[str]
) -> dict[str, Any]:
    """The lane's rows with these ids, as the projection's row type."""
    table = projection.table
    wanted = select(*columns(table, projection.row)).where(table.c.lane == bindparam("of"), _AMONG)
    found = list(connection.execute(wanted, {"of": lane, "ids": _listed(ids)}))
    return {row.id: row for row in structs(table, projection.row, found)}


def write_rows(
    connection: Connection,
    projection: Projection,
    lane: str,
    before: Mapping[str, Any],
    after: Mapping[str, Any],
) -> None:
    """Put the lane's rows by id, where they differ from those of `before`; None deletes.

    Only the holder of the position writes a lane's rows, so a row that was not there before is not
    there now, and many of them are copied.
    """
    table = projection.table
    gone = [key for key, row in after.items() if row is None and key in before]
    if gone:
        connection.execute(
            delete(table).where(table.c.lane == bindparam("of"), _AMONG),
            {"of": lane, "ids": _listed(gone)},
        )
    new = [row for key, row in after.items() if row is not None and key not in before]
    changed = [row for key, row in after.items() if row is not None and key in before and row != before[key]]
    if len(new) >= MANY:
        copy_rows(connection, table, lane, new)
    else:
        changed += new
    if changed:
        put = insert(table)
        fields = {column.name: put.excluded[column.name] for column in table.c if not column.primary_key}
        rows = [{"lane": lane, **msgspec.structs.asdict(row)} for row in sorted(changed, key=_id)]
        connection.execute(put.on_conflict_do_update(index_elements=["id", "lane"], set_=fields), rows)


def copy_rows(connection: Connection, table: Table, lane: str, rows: Sequence[Any]) -> None:
    """Add new rows by COPY, in Postgres' own binary form: about ten times as fast as inserting them."""
    names = [name for name in rows[0].__struct_fields__ if name in table.c]
    kinds = [_kind(table.c[name].type) for name in names]
    jsons = [index for index, kind in enumerate(kinds) if kind == "jsonb"]
    target = ", ".join(f'"{name}"' for name in ("lane", *names))
    cursor: Cursor[tuple[object, ...]] = connection.connection.cursor()  # type: ignore[assignment]  # psycopg's
    with cursor, cursor.copy(f'COPY "{table.name}" ({target}) FROM STDIN (FORMAT BINARY)'.encode()) as copy:
        copy.set_types(["text", *kinds])
        values = attrgetter(*names)
        for row in rows:
            line = [lane, *values(row)]
            for index in jsons:
                line[index + 1] = Jsonb(line[index + 1], dumps=msgspec.json.encode)
            copy.write_row(line)


KINDS: dict[type[Any], str] = {
    Text: "text",
    BigInteger: "int8",
    Integer: "int4",
    Double: "float8",
    Boolean: "bool",
    DateTime: "timestamptz",
    JSONB: "jsonb",
}
"""Postgres' names of the columns' types."""


def _kind(type_: Any) -> str:
    return f"{KINDS[type(type_.item_type)]}[]" if isinstance(type_, ARRAY) else KINDS[type(type_)]


def _id(row: Any) -> str:
    return str(row.id)


def _at(projection: Positioned, lane: str) -> Any:
    return and_(positions.c.projection == projection.name, positions.c.lane == lane)


_AMONG = text("id = ANY (ARRAY(SELECT json_array_elements_text(CAST(:ids AS json))))")
"""Whether a row's id is one of the parameter `ids`, as `_listed` gives them."""


def _listed(ids: Iterable[str]) -> str:
    """Ids as one value: an array of thousands of texts takes psycopg longer than all of them Postgres."""
    return msgspec.json.encode(sorted(ids)).decode()
