"""Durability `archive`: an answer is given once the result is in Postgres, and not before."""

from __future__ import annotations

import time

import msgspec
import pytest
from sqlalchemy import text

from projections.database import open_engine
from streams.settings import PostgresSection
from streams.submit import NoAnswer, Refused, Submitter
from tests.fix_archive import ArchivedHall, rows_of
from tests.fix_servers import eventually
from tests.fix_streams import Scripted, insist, working


def test_an_answer_means_that_the_result_is_archived(archived_hall: ArchivedHall) -> None:
    """Whoever has the answer finds the result's row in Postgres; asking again gives the same answer."""
    hall, handler = archived_hall, Scripted()
    with hall.yard.projections(), working(hall, handler):
        submitter = hall.submitter()
        began = time.monotonic()
        for _ in range(10):
            command = hall.command(durability="archive")
            answer = submitter.submit(command)
            assert len(rows_of(hall.yard)) >= answer.seq
            assert hall.archived() >= answer.seq
            assert hall.submitter().submit(command) == answer
        assert time.monotonic() - began < 5, "answers came by asking again, not by a reply"
    assert len(handler.executed) == 10


def test_without_postgres_there_is_no_answer_yet(archived_hall: ArchivedHall) -> None:
    """While Postgres takes no connections the command is done and not answered; others are. Back, it is."""
    hall, handler = archived_hall, Scripted()
    name = hall.settings.postgres.url.rpartition("/")[2]
    admin = open_engine(
        PostgresSection(
            url=hall.settings.postgres.url.removesuffix(name) + "postgres",
            password=hall.settings.postgres.password,
        ),
        name="admin",
    )
    with hall.yard.projections(), working(hall, handler, archive=hall.archive):
        hall.submitter().submit(hall.command(durability="archive"))
        hall.yard.engine.dispose()
        with admin.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            connection.execute(text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false"))
            connection.execute(
                text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"),
                {"name": name},
            )
        try:
            command, submitter = hall.command(durability="archive"), hall.submitter()
            with pytest.raises(NoAnswer):
                submitter.submit(command, timeout=1)
            assert hall.results()[command.command.id] == ["completed"]
            with pytest.raises(NoAnswer):
                hall.submitter().submit(command, timeout=0.5)
            assert hall.submitter().submit(hall.command(durability="replica")).outcome == "completed"
        finally:
            with admin.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
                connection.execute(text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true"))
        answer = insist(submitter, command)
        assert len(rows_of(hall.yard)) >= answer.seq
    admin.dispose()
    assert len(handler.executed) == 3


def test_a_reply_is_not_sent_for_another_event_of_the_same_number(archived_hall: ArchivedHall) -> None:
    """A result that the log lost is not taken for archived because another event with its seq is."""
    hall = archived_hall
    with working(hall, Scripted()) as worker:
        command = hall.command(durability="archive")
        with pytest.raises(NoAnswer):
            hall.submitter().submit(command, timeout=0.5)
        held = worker._log._held_replies
        assert len(held._waiting) == 1
        held._waiting[0] = msgspec.structs.replace(held._waiting[0], hash="f" * 64)
        hall.link.call("HSET", hall.keys.archived, "seq", hall.head())
        eventually(lambda: not held._waiting, "the held reply dropped")
        assert hall.link.call("KEYS", hall.station.replies("*")) == []


def test_it_is_refused_where_there_is_no_postgres(archived_hall: ArchivedHall) -> None:
    """A station without Postgres cannot keep that promise and says so; nothing is submitted."""
    hall = archived_hall
    without = msgspec.structs.replace(hall.settings, postgres=PostgresSection())
    with pytest.raises(Refused, match=r"no Postgres \(postgres\.url\)") as caught:
        Submitter(without, hall.new_link()).submit(hall.command(durability="archive"))
    assert caught.value.field == "durability"
    assert hall.waiting() == 0
