"""The connection to Postgres, and telling "it is away" from "we did something wrong"."""

from __future__ import annotations

import msgspec
from sqlalchemy import URL, Engine, create_engine, make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from streams.settings import PostgresSection

CONNECT_TIMEOUT = 2
"""Seconds to wait for a connection."""
STATEMENT_TIMEOUT = 10_000
"""Milliseconds after which Postgres gives a statement up."""

AWAY_CODES = ("08", "53", "57", "25006")
"""SQLSTATE classes that pass: connection lost, no resources, shutting down; and a server gone read-only."""


def database_url(postgres: PostgresSection) -> URL:
    """The URL for SQLAlchemy with psycopg 3; the password comes from the settings, not from the URL."""
    url = make_url(postgres.url).set(drivername="postgresql+psycopg")
    return url.set(password=postgres.password) if postgres.password else url


def open_engine(postgres: PostgresSection, *, name: str, connections: int = 5) -> Engine:
    """An engine for up to `connections` connections, shown in pg_stat_activity as `tocsin-NAME`.

    A pooled connection is checked before it is used, so one that died while idle harms nobody.
    """
    return create_engine(
        database_url(postgres),
        pool_size=connections,
        max_overflow=0,
        pool_timeout=5,
        pool_pre_ping=True,
        json_serializer=lambda value: msgspec.json.encode(value).decode(),
        json_deserializer=msgspec.json.decode,
        connect_args={
            "connect_timeout": CONNECT_TIMEOUT,
            "application_name": f"tocsin-{name}",
            "options": f"-c statement_timeout={STATEMENT_TIMEOUT} -c timezone=UTC",
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 3,
            "tcp_user_timeout": 10_000,
        },
    )


def is_away(error: BaseException) -> bool:
    """Whether `error` says that Postgres cannot be reached or serve now, so that trying again is right."""
    if isinstance(error, PoolTimeout):
        return True
    if not isinstance(error, DBAPIError):
        return False
    if error.connection_invalidated or isinstance(error, InterfaceError):
        return True
    code = getattr(error.orig, "sqlstate", None)
    if code is None:
        return isinstance(error, OperationalError)
    # 40…: a deadlock or serialisation failure, of which Postgres itself says to try again.
    return str(code).startswith((*AWAY_CODES, "40"))
