"""Bringing the database to the tables that this version needs."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, Engine, text

from projections.database import unhurried

MIGRATIONS = Path(__file__).parent / "migrations"
LOCK = 0x746F6373_696E0001
"""The advisory lock under which one process at a time migrates ("tocsin", 1)."""


def migrate(engine: Engine, revision: str = "head") -> None:
    """Run the migrations that are missing, in one transaction; processes that start together take turns.

    Raises SQLAlchemy's DBAPIError where Postgres is away or refuses.
    """
    with engine.begin() as connection, unhurried(connection):
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
        upgrade(connection, revision)


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Run the missing migrations inside the transaction of `connection`."""
    # Alembic takes half a second to import and only this needs it.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)
