"""Bringing the database to the tables that this version needs."""

from __future__ import annotations

from pathlib import Path

import structlog
from sqlalchemy import Connection, Engine, text

from projections.database import unhurried

MIGRATIONS = Path(__file__).parent / "migrations"
LOCK = 0x746F6373_696E0001
"""The advisory lock under which one process at a time migrates ("tocsin", 1)."""

log = structlog.get_logger(__name__)


def migrate(engine: Engine, revision: str = "head") -> None:
    """Run the migrations that are missing, in one transaction; processes that start together take turns.

    Raises SQLAlchemy's DBAPIError where Postgres is away or refuses.
    """
    with engine.begin() as connection, unhurried(connection):
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
        upgrade(connection, revision)


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Run the missing migrations inside the transaction of `connection`.

    Tables that a newer version has brought to itself are left as they are: while a station is upgraded both
    versions work on them.
    """
    # Alembic takes half a second to import and only this needs it.
    from alembic import command
    from alembic.config import Config
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    stands = MigrationContext.configure(connection).get_current_revision()
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if revision == "head" and stands is not None and stands not in known:
        log.warning("the tables are of a newer version; they are left as they are", revision=stands)
        return
    command.upgrade(config, revision)
