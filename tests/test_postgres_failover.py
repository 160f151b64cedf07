"""A station that goes on when its Postgres primary is lost and the standby is promoted."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import msgspec
import pytest

from projections.archive_reader import ArchiveReader
from projections.database import open_engine
from streams.settings import PostgresSection, RedisSection
from streams.submit import NoAnswer
from tests.fix_archive import ArchivedHall, archive_trouble, rows_of
from tests.fix_postgres import Pair
from tests.fix_projections import LANE, Scribe, Yard, folded
from tests.fix_servers import eventually
from tests.fix_streams import LANE as HALLS_LANE
from tests.fix_streams import Scripted, insist, working


def archived(yard: Yard) -> int:
    return int(yard.link.call("HGET", yard.keys.lane(LANE).archived, "seq") or 0)


def logged(scribe: Scribe) -> list[tuple[bytes, str]]:
    return [(event.raw, event.hash) for event in scribe.chain.events]


@contextmanager
def writing(scribe: Scribe) -> Iterator[None]:
    """Sources come, run and fail meanwhile, some hundred events a second."""
    stopping = threading.Event()

    def write() -> None:
        number = 0
        while not stopping.wait(0.005):
            number += 1
            scribe.add(f"s{number % 50}", running=True)
            scribe.settle(f"c-{number}", f"s{number % 50}")

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()


def whole(yard: Yard, scribe: Scribe) -> bool:
    """Whether rows and archive are what a replay of the log gives, and the owner has been told."""
    return (
        archived(yard) == scribe.chain.seq
        and rows_of(yard, LANE) == logged(scribe)
        and yard.all_rows() == folded(scribe.chain.events)
    )


def test_the_primary_killed_under_load(pair_yard: Yard, pair: Pair) -> None:
    """The standby has all that was told archived; by themselves all go on there, rows equal a replay."""
    scribe = pair_yard.scribe()
    pair.synchronous(pair.standby)
    with pair_yard.projections(), writing(scribe):
        eventually(lambda: archived(pair_yard) > 200, "a good deal archived")
        pair.kill(pair.leader)
        told = archived(pair_yard)
        pair.promote()
        database = pair_yard.settings.postgres.url.rpartition("/")[2]
        count = f"SELECT count(*) FROM archive WHERE lane = '{LANE}' AND seq <= {told}"
        assert pair.ask(pair.leader, count, database) == told
        eventually(lambda: archived(pair_yard) > told + 100, "gone on at the other one")
    with pair_yard.projections():
        eventually(lambda: whole(pair_yard, scribe), "everything there, once")


def test_the_primary_frozen(pair_yard: Yard, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """A primary that keeps its connections and answers nothing is given up for the one that is promoted."""
    monkeypatch.setattr("projections.service.open_engine", partial(open_engine, answer_within=0.5))
    scribe = pair_yard.scribe()
    pair.synchronous(pair.standby)
    with pair_yard.projections():
        with writing(scribe):
            eventually(lambda: archived(pair_yard) > 20, "something archived")
            pair.pause(pair.leader)
            told = archived(pair_yard)
            pair.promote()
            eventually(lambda: archived(pair_yard) > told + 100, "gone on at the other one")
            began = time.monotonic()
            head = ArchiveReader(pair_yard.settings.postgres).head(LANE)
            assert head is not None
            assert head.seq > told
            assert time.monotonic() - began < 4
        pair.kill(pair.standby)  # fenced, as whoever promotes must see to
        pair_yard.engine.dispose()
        eventually(lambda: whole(pair_yard, scribe), "everything there, once")


def test_a_promoted_standby_that_lacks_the_latest_gets_it_again(pair_yard: Yard, pair: Pair) -> None:
    """Where nobody waited for the standby, its positions are read again and it is given what it lacks.

    That happens by itself, without anything new in the log.
    """
    scribe = pair_yard.scribe()
    with pair_yard.projections():
        scribe.add("mic", running=True)
        eventually(lambda: archived(pair_yard) == 3, "everything archived")
        pair.caught_up()
        pair.ask(pair.standby, "ALTER SYSTEM SET primary_conninfo = ''")
        pair.ask(pair.standby, "SELECT pg_reload_conf()")
        attached = "SELECT count(*) FROM pg_stat_replication"
        eventually(lambda: pair.ask(pair.leader, attached) == 0, "the standby cut off")
        scribe.write("source.failed", "mic", reason="unheard of at the standby")
        scribe.settle("c-1", "mic")
        eventually(lambda: whole(pair_yard, scribe), "everything there")
        pair.kill(pair.leader)
        pair.promote()
        eventually(lambda: whole(pair_yard, scribe), "everything there again")


@pytest.fixture
def paired_hall(
    valkey: RedisSection, paired: PostgresSection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ArchivedHall]:
    """A station whose archive has a standby."""
    monkeypatch.setattr("streams.worker.IDLE", 0.2)
    monkeypatch.setattr("streams.submit.ASK_AGAIN", 0.2)
    made = ArchivedHall(valkey, paired, tmp_path)
    yield made
    made.close()


def test_an_answer_at_archive_means_the_standby_has_it(paired_hall: ArchivedHall, pair: Pair) -> None:
    """With the standby frozen a command is done and not answered; once it is back, it is.

    What was answered is there when the primary is lost in that moment.
    """
    hall, handler = paired_hall, Scripted()
    pair.synchronous(pair.standby)
    with hall.yard.projections(), working(hall, handler, archive=hall.archive):
        hall.submitter().submit(hall.command(durability="archive"))
        pair.pause(pair.standby)
        command, submitter = hall.command(durability="archive"), hall.submitter()
        with pytest.raises(NoAnswer):
            submitter.submit(command, timeout=1)
        assert hall.results()[command.command.id] == ["completed"]
        assert hall.archived() < hall.head()
        pair.resume(pair.standby)
        answer = insist(submitter, command)
        pair.kill(pair.leader)
        pair.promote()
        hashes = [hash for _, hash in rows_of(hall.yard, HALLS_LANE)]
        assert len(hashes) >= answer.seq
        again = insist(hall.submitter(), hall.command(durability="archive"))
        assert again.outcome == "completed"
    assert len(handler.executed) == 3


def test_without_as_many_standbys_as_are_set_nothing_is_called_archived(
    paired_hall: ArchivedHall, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the server waits for nobody: after a promotion the archive goes on and tells nobody.

    That ends once there is a standby again.
    """
    monkeypatch.setattr("projections.lasting.WITHIN", 0.3)
    hall, handler = paired_hall, Scripted()
    postgres = msgspec.structs.replace(hall.settings.postgres, standbys=1)
    hall.yard.settings = msgspec.structs.replace(hall.yard.settings, postgres=postgres)
    with hall.yard.projections(), working(hall, handler, archive=hall.archive):
        hall.submitter().submit(hall.command(durability="archive"))
        pair.caught_up()
        pair.kill(pair.leader)
        pair.promote()
        command, submitter = hall.command(durability="archive"), hall.submitter()
        with pytest.raises(NoAnswer):
            submitter.submit(command, timeout=1)
        eventually(lambda: len(rows_of(hall.yard, HALLS_LANE)) == hall.head(), "the rows at the new primary")
        eventually(lambda: archive_trouble(hall.yard, HALLS_LANE), "the trouble noted")
        assert hall.archived() < hall.head()
        pair.mend()
        assert insist(submitter, command).outcome == "completed"
    assert len(handler.executed) == 2
