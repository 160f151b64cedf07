"""The database's tables: made once, whoever comes first, and as the code wants them."""

from __future__ import annotations

import threading

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, inspect

from projections.database import database_url, is_away, open_engine
from projections.schema import migrate
from projections.tables import metadata
from streams.settings import PostgresSection
from tests.fix_servers import PASSWORD


@pytest.fixture
def engine(postgres: PostgresSection) -> Engine:
    return open_engine(postgres, name="schema")


def test_migrations_make_the_tables_that_the_code_uses(engine: Engine) -> None:
    """After all migrations nothing differs between the database and the tables in the code."""
    migrate(engine)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
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
    """A URL as it is logged hides the password, however it is spelt."""
    section = PostgresSection(url="postgresql://tocsin@db:5432/tocsin", password=PASSWORD)
    assert PASSWORD not in str(database_url(section))
    assert database_url(section).password == PASSWORD


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
