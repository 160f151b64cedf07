"""All tables of a station in one file, and from it: COPY as Postgres writes it, in one snapshot."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime
from hashlib import sha256
from typing import Any
from zipfile import ZipFile

import msgspec
from psycopg import Cursor, sql
from sqlalchemy import Connection, text

from projections import partitions
from projections.database import open_engine, unhurried
from projections.lasting import make_lasting
from projections.schema import migrate
from streams.settings import PostgresSection

CHUNK = 1 << 20
"""Bytes read at once."""
MOST_MONTHS = 1200
"""Partitions made for a restored archive at most; a span that is longer comes from a wrong clock."""


class NotEmpty(ValueError):
    """Raised when the database to restore into holds events already."""


class Damaged(ValueError):
    """Raised when a backup is not what its manifest says."""


class Table(msgspec.Struct, frozen=True):
    """A table in a backup."""

    columns: tuple[str, ...]
    rows: int
    sha256: str


class Head(msgspec.Struct, frozen=True):
    """Where the archive of a lane ends."""

    seq: int
    hash: str


class Tables(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup says of the database: the revision of its tables, and each of them."""

    revision: str
    first: datetime | None
    last: datetime | None
    """When the first and the last event of the archive were logged."""
    lanes: dict[str, Head]
    tables: dict[str, Table]


def dump(postgres: PostgresSection, file: ZipFile) -> Tables:
    """Write all tables to `file`, as they are at one moment. Raises SQLAlchemyError, psycopg.Error."""
    engine = open_engine(postgres, name="backup", connections=1)
    try:
        with engine.connect() as connection, connection.begin(), unhurried(connection):
            connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"))
            first, last = connection.execute(text("SELECT min(logged_at), max(logged_at) FROM archive")).one()
            heads = connection.execute(
                text("SELECT lane, seq, hash FROM positions WHERE projection = 'archive'")
            )
            return Tables(
                revision=connection.scalar(text("SELECT version_num FROM alembic_version")),
                first=first,
                last=last,
                lanes={row.lane: Head(row.seq, row.hash) for row in heads if row.seq},
                tables={name: _dumped(connection, file, name) for name in _names(connection)},
            )
    finally:
        engine.dispose()


def load(postgres: PostgresSection, file: ZipFile, told: bytes) -> Tables:
    """Fill an empty database with the tables in `file`, all or nothing; `told` is what `dump` said, as JSON.

    Raises NotEmpty, Damaged, SQLAlchemyError, psycopg.Error.
    """
    said = msgspec.json.decode(told, type=Tables)
    engine = open_engine(postgres, name="restore", connections=1)
    try:
        migrate(engine, said.revision)
        with engine.begin() as connection, unhurried(connection):
            if connection.scalar(text("SELECT EXISTS (SELECT FROM archive)")):
                raise NotEmpty("the database holds events already: restore into a new one")
            make_lasting(connection)
            partitions.make_ahead(connection, _months(said))
            for name, table in said.tables.items():
                _loaded(connection, file, name, table)
        migrate(engine)
        return said
    finally:
        engine.dispose()


def _names(connection: Connection) -> list[str]:
    """All tables; partitions are read through theirs."""
    query = (
        "SELECT relname FROM pg_class WHERE relnamespace = current_schema()::regnamespace"
        " AND relkind IN ('r', 'p') AND NOT relispartition AND relname <> 'alembic_version' ORDER BY relname"
    )
    return list(connection.scalars(text(query)))


def _columns(connection: Connection, name: str) -> tuple[str, ...]:
    query = (
        "SELECT attname FROM pg_attribute WHERE attrelid = CAST(:name AS regclass) AND attnum > 0"
        " AND NOT attisdropped AND attgenerated = '' ORDER BY attnum"
    )
    return tuple(connection.scalars(text(query), {"name": f'"{name}"'}))


def _dumped(connection: Connection, file: ZipFile, name: str) -> Table:
    columns, digest = _columns(connection, name), sha256()
    statement = sql.SQL("COPY (SELECT {} FROM {}) TO STDOUT (FORMAT binary)").format(
        sql.SQL(", ").join(map(sql.Identifier, columns)), sql.Identifier(name)
    )
    with file.open(_place(name), "w", force_zip64=True) as member, _cursor(connection) as cursor:
        with cursor.copy(statement) as copy:
            for chunk in copy:
                digest.update(chunk)
                member.write(chunk)
        return Table(columns, cursor.rowcount, digest.hexdigest())


def _loaded(connection: Connection, file: ZipFile, name: str, table: Table) -> None:
    if _columns(connection, name) and set(table.columns) - set(_columns(connection, name)):
        raise Damaged(f"the table {name!r} has other columns than the backup says")
    digest = sha256()
    with _cursor(connection) as cursor:
        cursor.execute(sql.SQL("TRUNCATE {}").format(sql.Identifier(name)))
        statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT binary)").format(
            sql.Identifier(name), sql.SQL(", ").join(map(sql.Identifier, table.columns))
        )
        with cursor.copy(statement) as copy:
            for chunk in _chunks(file, name):
                digest.update(chunk)
                copy.write(chunk)
        if digest.hexdigest() != table.sha256 or cursor.rowcount != table.rows:
            raise Damaged(f"the rows of the table {name!r} are not those that were backed up")
        for column in table.columns:
            _go_on(cursor, name, column)


def _go_on(cursor: Cursor[tuple[Any, ...]], name: str, column: str) -> None:
    """Have the numbers that the database gives out itself go on behind the last one."""
    found = cursor.execute("SELECT pg_get_serial_sequence(%s, %s)", (f'"{name}"', column)).fetchone()
    if found and found[0]:
        last = sql.SQL("SELECT setval(%s, max({})) FROM {} HAVING count(*) > 0")
        cursor.execute(last.format(sql.Identifier(column), sql.Identifier(name)), found)


def _chunks(file: ZipFile, name: str) -> Iterator[bytes]:
    try:
        with file.open(_place(name)) as member:
            while chunk := member.read(CHUNK):
                yield chunk
    except KeyError:
        raise Damaged(f"the backup lacks the table {name!r}") from None


def _place(name: str) -> str:
    return f"tables/{name}.copy"


def _cursor(connection: Connection) -> Cursor[tuple[Any, ...]]:
    cursor: Cursor[tuple[Any, ...]] = connection.connection.cursor()  # type: ignore[assignment]  # psycopg's
    return cursor


def _months(said: Tables) -> list[date]:
    """The months that the archive's events are of, and those to come."""
    months = partitions.wanted(datetime.now(UTC).date())
    if said.first is None or said.last is None:
        return months
    day, last = partitions.month(said.first.date()), partitions.month(said.last.date())
    past: list[date] = []
    while day <= last and len(past) < MOST_MONTHS:
        past.append(day)
        day = partitions.following(day)
    return sorted({*past, *months})
