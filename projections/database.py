"""Engines for Postgres, and telling "it is away" from "we did something wrong"."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import psycopg
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from projections.wire import ANSWER_WITHIN, Session, Wire, connect_to, require_url
from streams.settings import PostgresSection

HOURS = 4 * 3600.0
"""Seconds that a migration may take."""
QUEUE_WITHIN = 5.0
"""Seconds that a thread waits for one of the engine's connections."""

AWAY_CODES = ("08", "53", "57", "25006")
"""SQLSTATE classes that pass: connection lost, no resources, shutting down; and a server gone read-only."""


def open_engine(
    postgres: PostgresSection,
    *,
    name: str,
    session: Session = "read-write",
    connections: int = 5,
    answer_within: float = ANSWER_WITHIN,
    queue_within: float = QUEUE_WITHIN,
) -> Engine:
    """An engine for up to `connections` connections, shown in pg_stat_activity as `tocsin-NAME`.

    A pooled connection is checked before it is used, so one that died while idle harms nobody, and
    after a change of primary the next transaction is at the new one.
    """
    require_url(postgres)
    return create_engine(
        # SQLAlchemy does not take several hosts as libpq writes them, so libpq gets the URL itself.
        "postgresql+psycopg://",
        creator=lambda: connect_to(postgres, name=name, session=session, answer_within=answer_within),
        pool_size=connections,
        max_overflow=0,
        pool_timeout=queue_within,
        pool_pre_ping=True,
        json_serializer=lambda value: msgspec.json.encode(value).decode(),
        json_deserializer=msgspec.json.decode,
    )


def wire_of(connection: Connection) -> Wire:
    """What `connection` talks over."""
    wire = connection.connection.driver_connection
    assert isinstance(wire, Wire)  # noqa: S101  # every engine is from open_engine
    return wire


@contextmanager
def unhurried(connection: Connection) -> Iterator[None]:
    """Let a statement take its time meanwhile, here and in the server."""
    wire = wire_of(connection)
    hurried, wire.answer_within = wire.answer_within, HOURS
    connection.execute(text("SET LOCAL statement_timeout = 0"))
    try:
        yield
    finally:
        wire.answer_within = hurried


def is_away(error: BaseException) -> bool:
    """Whether `error` says that Postgres cannot be reached or serve now, so that trying again is right."""
    if isinstance(error, PoolTimeout):
        return True
    if isinstance(error, DBAPIError):
        if error.connection_invalidated:
            return True
        # As it was before SQLAlchemy wrapped it; COPY, which it does not know, raises it bare.
        error = error.orig or error
    if not isinstance(error, psycopg.Error):
        return False
    code = error.sqlstate
    if code is None:
        return isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError))
    # 40…: a deadlock or serialisation failure, of which Postgres itself says to try again.
    return str(code).startswith((*AWAY_CODES, "40"))
