"""The database's tables: made once, whoever comes first, and as the code wants them."""

from __future__ import annotations

import threading

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, inspect
from sqlalchemy.exc import OperationalError

from projections.database import is_away, open_engine
from projections.partitions import PARTITION
from projections.schema import migrate
from projections.tables import metadata
from streams.settings import PostgresSection
from tests.fix_servers import PASSWORD


@pytest.fixture
def engine(postgres: PostgresSection) -> Engine:
    return open_engine(postgres, name="schema")


def _is_no_partition(name: str | None, kind: str, _: object) -> bool:
    return kind != "table" or not PARTITION.fullmatch(name or "")


def test_migrations_make_the_tables_that_the_code_uses(engine: Engine) -> None:
    """After all migrations nothing differs between the database and the tables in the code."""
    migrate(engine)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"include_name": _is_no_partition})
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def test_processes_that_start_together_take_turns(engine: Engine) -> None:
    """Several migrations at once end with one set of tables and no error."""
    failed: list[BaseException] = []

    def attempt() -> None:
        try:
            migrate(engine)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=attempt) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert set(inspect(engine).get_table_names()) >= set(metadata.tables)
    engine.dispose()


def test_the_password_is_not_in_what_is_shown() -> None:
    """Neither an engine nor the error of a connection that fails tells the password."""
    engine = open_engine(
        PostgresSection(url="postgresql://tocsin@127.0.0.1:1/tocsin", password=PASSWORD), name="gone"
    )
    with pytest.raises(OperationalError) as caught, engine.connect():
        pass
    for shown in (repr(engine), repr(engine.url), str(caught.value), repr(caught.value.orig)):
        assert PASSWORD not in shown


def test_a_wrong_statement_is_not_taken_for_an_absent_server(engine: Engine) -> None:
    """Only what passes by itself is tried again; a fault of ours is told as one."""
    with pytest.raises(Exception, match="nothing_of_the_kind") as caught, engine.connect() as connection:
        connection.exec_driver_sql("SELECT * FROM nothing_of_the_kind")
    assert not is_away(caught.value)
    engine.dispose()
    gone = open_engine(PostgresSection(url="postgresql://tocsin@127.0.0.1:1/tocsin"), name="gone")
    with pytest.raises(Exception, match="onnection") as caught, gone.connect():
        pass
    assert is_away(caught.value)
