"""The archive: every event of a lane in Postgres, as it stands in the log, once."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import text

from projections.archive import Archiver
from projections.archive_reader import ArchiveReader
from projections.database import open_engine
from projections.lasting import make_lasting
from streams.connection import connect
from streams.history import ArchiveAway
from streams.settings import PostgresSection
from streams.tail import Position
from tests.fix_archive import NOWHERE, archive_trouble, rows_of
from tests.fix_projections import LANE, Scribe, Yard
from tests.fix_servers import eventually

SLOW = Path(__file__).parent / "programs" / "slow_archiver.py"


def archived(yard: Yard) -> int:
    return int(yard.link.call("HGET", yard.keys.lane(LANE).archived, "seq") or 0)


def logged(scribe: Scribe) -> list[tuple[bytes, str]]:
    return [(event.raw, event.hash) for event in scribe.chain.events]


@contextmanager
def archiving(yard: Yard, count: int = 1) -> Iterator[list[Archiver]]:
    """So many archivers of the lane at once, meanwhile, each with connections of its own."""
    stopping = threading.Event()
    engines = [open_engine(yard.settings.postgres, name="cut", connections=2) for _ in range(count)]
    archivers = [
        Archiver(engine, connect(yard.settings.redis, "archiver"), LANE, yard.keys.lane(LANE), stopping)
        for engine in engines
    ]
    threads = [threading.Thread(target=archiver.run) for archiver in archivers]
    for thread in threads:
        thread.start()
    try:
        yield archivers
    finally:
        stopping.set()
        for thread in threads:
            thread.join(10)
            assert not thread.is_alive()
        for engine in engines:
            engine.dispose()


def test_archived_rows_are_the_very_bytes_of_the_log(yard: Yard) -> None:
    """Bytes and hash of every event stand in the archive; what Postgres cannot hold as text harms nothing."""
    scribe = yard.scribe()
    with archiving(yard):
        scribe.write("source.failed", "mic", reason="NUL \x00, quote ' and bell \a")
        scribe.write("odd\x00type", "mic\x00", "command\x00")
        scribe.append([scribe.chain.event("source.running", f"s{n}", n=n) for n in range(1200)])
        eventually(lambda: archived(yard) == 1202, "everything archived")
    assert rows_of(yard, LANE) == logged(scribe)
    with yard.engine.connect() as connection:
        row = connection.execute(text("SELECT * FROM archive WHERE seq = 1")).one()
    event = scribe.chain.events[0].event
    assert (row.lane, row.token, row.type, row.source, row.command) == (
        LANE,
        1,
        "source.failed",
        "mic",
        None,
    )
    assert (row.at, row.logged_at) == (event.at, event.logged_at)


def test_killed_between_rows_and_commit_it_keeps_nothing_and_misses_nothing(yard: Yard) -> None:
    """SIGKILL between rows and commit: nothing is there; the next one has everything, once."""
    scribe = yard.scribe()
    scribe.add("mic", running=True)
    for _ in range(2):
        process = subprocess.Popen(
            [sys.executable, str(SLOW), LANE],
            env={**os.environ, **yard.environment(), "PYTHONPATH": str(SLOW.parent.parent.parent)},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "rows\n"
        process.kill()
        process.wait()
        process.stdout.close()
        assert rows_of(yard, LANE) == []
        assert archived(yard) == 0
    with archiving(yard):
        eventually(lambda: archived(yard) == 3, "everything archived")
    assert rows_of(yard, LANE) == logged(scribe)


def test_several_side_by_side_are_harmless(yard: Yard) -> None:
    """Three archivers of one lane, whose connections are cut again and again, leave each event there once."""
    scribe = yard.scribe()
    cut = text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'tocsin-cut'")
    with archiving(yard, count=3):
        for n in range(10):
            scribe.append([scribe.chain.event("source.running", f"s{n}") for _ in range(20)])
            with yard.engine.connect() as connection:
                connection.execute(cut)
        eventually(lambda: archived(yard) == 200, "everything archived")
    assert rows_of(yard, LANE) == logged(scribe)


def test_a_fold_that_stands_still_does_not_hold_it_back(yard: Yard) -> None:
    """Where a projection cannot go on in the lane, the lane is archived all the same."""
    scribe = yard.scribe()
    scribe.add("mic")
    with yard.projections() as service:
        eventually(lambda: archived(yard) == 1, "the first event archived")
        newer = text("UPDATE positions SET version = 99 WHERE projection = 'sources'")

        def raised() -> int:
            with yard.engine.begin() as connection:
                return connection.execute(newer).rowcount

        # A lane may be archived before it is folded for the first time.
        eventually(raised, "the fold's position raised")
        scribe.write("source.starting", "mic", desired="running")
        eventually(lambda: service.runners[LANE].trouble, "the projection standing still")
        eventually(lambda: archived(yard) == 2, "the lane archived")
    assert rows_of(yard, LANE) == logged(scribe)


def test_a_log_that_was_rolled_back_is_never_skipped_over(yard: Yard) -> None:
    """Where the log lacks the archive's last event, the archive stands still, loudly, and keeps its own.

    Once the log has it again, it goes on by itself.
    """
    scribe, keys = yard.scribe(), yard.keys.lane(LANE)
    scribe.add("mic", running=True)
    with archiving(yard) as (archiver,):
        eventually(lambda: archived(yard) == 3, "everything archived")
        yard.link.call("DEL", keys.events, keys.head, keys.archived)
        other = yard.scribe()
        for name in "abcde":
            other.add(name)
        eventually(lambda: archive_trouble(yard, LANE), "the trouble noted")
        assert "PositionAhead: position 3" in (archiver.trouble or "")
        assert archived(yard) == 0
        assert rows_of(yard, LANE) == logged(scribe)

        yard.link.call("DEL", keys.events, keys.head, keys.archived)
        scribe.append(scribe.chain.events)
        scribe.write("source.stopped", "mic")
        eventually(lambda: archived(yard) == 4, "gone on")
        eventually(lambda: archive_trouble(yard, LANE) is None, "the trouble gone")
    assert rows_of(yard, LANE) == logged(scribe)


def test_what_the_owner_was_told_is_told_again_after_it_was_lost(yard: Yard) -> None:
    """What the lane was told comes back without news, where a failover lost it."""
    scribe = yard.scribe()
    scribe.add("mic")
    with archiving(yard):
        eventually(lambda: archived(yard) == 1, "everything archived")
        yard.link.call("HDEL", yard.keys.lane(LANE).archived, "seq")
        eventually(lambda: archived(yard) == 1, "told again")


def test_a_lost_position_is_found_from_the_rows(yard: Yard) -> None:
    """Without its position the archive goes on after its last event, and writes none again."""
    scribe = yard.scribe()
    scribe.add("mic", running=True)
    with archiving(yard):
        eventually(lambda: archived(yard) == 3, "everything archived")
    with yard.engine.begin() as connection:
        connection.execute(text("DELETE FROM positions"))
    scribe.write("source.stopped", "mic")
    with archiving(yard):
        eventually(lambda: archived(yard) == 4, "gone on")
    assert rows_of(yard, LANE) == logged(scribe)


def test_a_commit_waits_for_the_disk_whatever_the_server_is_set_to(yard: Yard) -> None:
    """Where the server commits asynchronously, the archive does not; and it waits for no replay either."""
    for given in ("off", "local", "remote_apply"):
        with yard.engine.begin() as connection:
            connection.execute(text(f"SET LOCAL synchronous_commit = {given}"))
            make_lasting(connection)
            assert connection.execute(text("SHOW synchronous_commit")).scalar_one() == "on"


def test_the_reader_answers_what_owners_ask(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    """Head, hash and what follows, in order over several batches; of an unknown lane, nothing."""
    monkeypatch.setattr("projections.archive_reader.BATCH", 4)
    scribe, reader = yard.scribe(), ArchiveReader(yard.settings.postgres)
    scribe.append([scribe.chain.event("source.running", "mic") for _ in range(10)])
    with archiving(yard):
        eventually(lambda: archived(yard) == 10, "everything archived")
    assert reader.head(LANE) == Position(10, scribe.chain.hash)
    assert reader.hash_at(LANE, 7) == scribe.chain.events[6].hash
    assert list(reader.after(LANE, 3)) == logged(scribe)[3:]
    assert (reader.head("p9"), reader.hash_at(LANE, 11), list(reader.after(LANE, 10))) == (None, None, [])
    assert list(reader.after(LANE, 0, 9)) == logged(scribe)[:9]
    assert list(reader.after(LANE, 0, 99)) == logged(scribe)


def test_the_reader_skips_a_hole_and_survives_its_connections(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it asked for ahead is asked for anew where its connection ends or waits too long for us."""
    monkeypatch.setattr("projections.archive_reader.BATCH", 4)
    scribe, reader = yard.scribe(), ArchiveReader(yard.settings.postgres)
    scribe.append([scribe.chain.event("source.running", "mic") for _ in range(40)])
    with archiving(yard):
        eventually(lambda: archived(yard) == 40, "everything archived")
    ended = text(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = :name"
    )
    reading, found = reader.after(LANE, 0), []
    for number, one in enumerate(reading):
        found.append(one)
        if number in (9, 10, 25):
            with yard.engine.begin() as connection:
                connection.execute(ended, {"name": "tocsin-archive-reader"})
    assert found == logged(scribe)
    with yard.engine.begin() as connection:
        connection.execute(text("DELETE FROM archive WHERE seq BETWEEN 11 AND 22 OR seq = 31"))
    assert list(reader.after(LANE, 0)) == [*logged(scribe)[:10], *logged(scribe)[22:30], *logged(scribe)[31:]]


def test_a_database_without_the_table_has_archived_nothing(postgres: PostgresSection) -> None:
    """A station that was never projected has an empty archive, not one that is away."""
    assert ArchiveReader(postgres).head(LANE) is None


def test_the_reader_gives_up_soon(yard: Yard) -> None:
    """A server that is not there, one that stays silent, and one that hangs in a query: ArchiveAway."""
    with pytest.raises(ArchiveAway):
        ArchiveReader(NOWHERE).head(LANE)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        mute = PostgresSection(url=f"postgresql://tocsin@127.0.0.1:{silent.getsockname()[1]}/tocsin")
        asked = time.monotonic()
        with pytest.raises(ArchiveAway):
            ArchiveReader(mute).head(LANE)
        assert time.monotonic() - asked < 3
    with yard.engine.begin() as connection:
        connection.execute(text("LOCK TABLE archive IN ACCESS EXCLUSIVE MODE"))
        asked = time.monotonic()
        with pytest.raises(ArchiveAway):
            ArchiveReader(yard.settings.postgres).head(LANE)
        assert time.monotonic() - asked < 3
