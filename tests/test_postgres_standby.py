"""Postgres with a standby: who is asked, how long anybody waits, and what counts as lasting."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import msgspec
import psycopg
import pytest

from control.checks import postgres as checks
from projections import pulse
from projections.after import After
from projections.archive import Archiver
from projections.database import is_away, open_engine
from projections.lasting import NotLasting, history, lasting
from projections.reads import Away, Reads
from projections.wire import connect_to
from streams.connection import connect
from streams.messages import now
from streams.settings import InvalidSettings, PostgresSection, load
from tests.fix_archive import archive_trouble, rows_of
from tests.fix_postgres import Pair
from tests.fix_projections import LANE, Scribe, Yard
from tests.fix_servers import eventually


@contextmanager
def reading(yard: Yard, **more: Any) -> Iterator[Reads]:
    """The read side, with these settings of Postgres."""
    postgres = msgspec.structs.replace(yard.settings.postgres, **more)
    reader = Reads(msgspec.structs.replace(yard.settings, postgres=postgres))
    try:
        yield reader
    finally:
        reader.close()


@contextmanager
def archiving(yard: Yard, answer_within: float = 10.0, standbys: int = 0) -> Iterator[Archiver]:
    """An archiver of the lane, whose commits wait so long for a standby."""
    stopping = threading.Event()
    engine = open_engine(yard.settings.postgres, name="archiver", answer_within=answer_within)
    link = connect(yard.settings.redis, "archiver")
    archiver = Archiver(engine, link, LANE, yard.keys.lane(LANE), stopping, standbys=standbys)
    thread = threading.Thread(target=archiver.run)
    thread.start()
    try:
        yield archiver
    finally:
        stopping.set()
        thread.join(20)
        assert not thread.is_alive()
        engine.dispose()


def archived(yard: Yard) -> int:
    return int(yard.link.call("HGET", yard.keys.lane(LANE).archived, "seq") or 0)


def seen(reader: Reads) -> set[str]:
    """The commands that a reader is told of."""
    return {view.id for view in reader.commands().data}


@pytest.fixture
def folded(pair_yard: Yard, pair: Pair) -> Yard:
    """A station with one result, on both servers."""
    with pair_yard.projections():
        pair_yard.scribe().settle("c-1", "mic")
        with reading(pair_yard) as reader:
            eventually(lambda: seen(reader) == {"c-1"}, "the result folded")
    beat(pair_yard)
    pair.caught_up()
    return pair_yard


def beat(yard: Yard) -> None:
    """What the projections do every five seconds."""
    pulse.beat(yard.engine, yard.link, yard.keys, dict.fromkeys(["station", "p0", LANE], now()), [])


def add(yard: Yard, id: str) -> None:
    """A result that the primary has from now on."""
    with yard.engine.begin() as connection:
        columns = "lane, source, type, key, sequence, outcome, finished_at, seq"
        connection.exec_driver_sql(
            f"INSERT INTO commands (id, {columns}) SELECT '{id}', {columns} FROM commands LIMIT 1"
        )


def test_whichever_host_is_the_primary_is_written_to(pair: Pair, paired: PostgresSection) -> None:
    """The URL's order does not matter; the same engine goes on at the standby once that is promoted."""
    user, _, rest = paired.url.partition("@")
    hosts, _, name = rest.partition("/")
    backwards = ",".join(reversed(hosts.split(",")))
    mirrored = msgspec.structs.replace(paired, url=f"{user}@{backwards}/{name}")
    engines = [open_engine(section, name="test") for section in (paired, mirrored)]
    histories = []
    for _ in range(2):
        for engine in engines:
            with engine.begin() as connection:
                connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS written (by text)")
                histories.append(history(connection))
        pair.caught_up()
        if len(histories) == 2:
            pair.kill(pair.leader)
            pair.promote()
            pair.mend()
    assert histories[0] == histories[1] != histories[2] == histories[3]
    for engine in engines:
        engine.dispose()


def test_reads_go_to_a_standby_while_it_is_fresh_enough(folded: Yard, pair: Pair) -> None:
    """Within the bound an older answer is given, and its age said; beyond it the primary is asked."""
    with (
        reading(folded, reads="standby", max_staleness=60) as patient,
        reading(folded, reads="standby", max_staleness=0.3) as strict,
    ):
        assert seen(patient) == {"c-1"}
        pair.ask(pair.standby, "SELECT pg_wal_replay_pause()")
        add(folded, "c-2")
        time.sleep(0.5)
        beat(folded)
        old, new = patient.commands(), strict.commands()
        assert [view.id for view in old.data] == ["c-1"]
        assert sorted(view.id for view in new.data) == ["c-1", "c-2"]
        assert old.age_seconds is not None
        assert new.age_seconds is not None
        assert old.age_seconds > new.age_seconds + 0.4
        pair.ask(pair.standby, "SELECT pg_wal_replay_resume()")
        eventually(lambda: seen(patient) == {"c-1", "c-2"}, "the standby caught up")


def test_what_a_standby_has_not_got_yet_is_read_at_the_primary(folded: Yard, pair: Pair) -> None:
    """Within the permitted staleness a standby may lack an event: who asks for it does not wait in vain."""
    with reading(folded, reads="standby", max_staleness=60.0) as reader:
        assert [view.id for view in reader.commands(after=After(LANE, 1, 0)).data] == ["c-1"]
        pair.ask(pair.standby, "SELECT pg_wal_replay_pause()")
        with folded.engine.begin() as connection:
            connection.exec_driver_sql(f"UPDATE positions SET seq = 2 WHERE lane = '{LANE}'")
        add(folded, "c-2")
        assert seen(reader) == {"c-1"}, "the standby is believed where nobody asks for more"
        found = reader.commands(after=After(LANE, 2, 0)).data
        assert {view.id for view in found} == {"c-1", "c-2"}


def test_a_standby_that_dies_or_hangs_is_passed_over(
    folded: Yard, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readers get the primary's answer soon, the next ones at once; back, the standby is read again."""
    monkeypatch.setattr("projections.standby.HOLD_OFF", 1.0)
    monkeypatch.setattr("projections.standby.ANSWER_WITHIN", 0.5)
    with reading(folded, reads="standby", max_staleness=3600) as reader:
        assert seen(reader) == {"c-1"}
        pair.pause(pair.standby)
        add(folded, "c-2")
        began = time.monotonic()
        assert seen(reader) == {"c-1", "c-2"}
        assert time.monotonic() - began < 10
        began = time.monotonic()
        assert seen(reader) == {"c-1", "c-2"}
        assert time.monotonic() - began < 0.9
        pair.kill(pair.standby)
        assert seen(reader) == {"c-1", "c-2"}
        pair.mend()
        beat(folded)
        pair.caught_up()
        pair.ask(pair.standby, "SELECT pg_wal_replay_pause()")
        add(folded, "c-3")
        eventually(lambda: seen(reader) == {"c-1", "c-2"}, "the standby read again")


def test_with_the_primary_frozen_readers_do_not_hang(
    folded: Yard, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fresh standby answers at once, one that is behind soon, with its age; without one: Away, soon."""
    monkeypatch.setattr("projections.standby.ANSWER_WITHIN", 0.5)
    with (
        reading(folded) as plain,
        reading(folded, reads="standby", max_staleness=60) as patient,
        reading(folded, reads="standby", max_staleness=0) as strict,
    ):
        assert seen(plain) == seen(patient) == seen(strict) == {"c-1"}
        pair.pause(pair.leader)
        began = time.monotonic()
        with ThreadPoolExecutor() as threads:
            asked = [threads.submit(reader.commands) for reader in (patient, strict, plain)]
            fresh = asked[0].result()
            assert time.monotonic() - began < 1
            behind = asked[1].result()
            with pytest.raises(Away, match="neither from Redis nor from Postgres"):
                asked[2].result()
        assert time.monotonic() - began < 8
        for read in (fresh, behind):
            assert [view.id for view in read.data] == ["c-1"]
            assert read.age_seconds is not None
            assert read.age_seconds > 0
        pair.resume(pair.leader)
        add(folded, "c-2")
        assert seen(plain) == {"c-1", "c-2"}


def test_a_commit_without_its_standby_is_not_called_lasting(pair: Pair, paired: PostgresSection) -> None:
    """It ends in bounded time, is there, holds no lock, and the next lasting one vouches for it."""
    engine = open_engine(paired, name="test", answer_within=0.2)
    pair.synchronous(pair.standby)
    with lasting(engine) as connection:
        connection.exec_driver_sql("CREATE TABLE facts (id int PRIMARY KEY)")
    pair.pause(pair.standby)
    with pytest.raises(NotLasting, match="committed here alone"), lasting(engine) as connection:
        connection.exec_driver_sql("INSERT INTO facts VALUES (1)")
    with engine.begin() as connection:  # what is no archive does not wait
        assert connection.exec_driver_sql("UPDATE facts SET id = 2").rowcount == 1
    pair.resume(pair.standby)
    with lasting(engine) as connection:
        connection.exec_driver_sql("INSERT INTO facts VALUES (3)")
    pair.kill(pair.leader)
    pair.promote()
    with engine.connect() as connection:
        rows = connection.exec_driver_sql("SELECT id FROM facts ORDER BY id").scalars().all()
    assert rows == [2, 3]
    engine.dispose()


def test_as_many_standbys_as_are_asked_for_must_have_it(
    pair: Pair, paired: PostgresSection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the server waits for nobody, they are looked at; a user who may not look is told so."""
    monkeypatch.setattr("projections.lasting.WITHIN", 0.3)
    engine = open_engine(paired, name="test")
    with lasting(engine, 1) as connection:
        connection.exec_driver_sql("CREATE TABLE facts (id int)")
    with pytest.raises(NotLasting, match="1 of 2 standbys"), lasting(engine, 2) as connection:
        connection.exec_driver_sql("INSERT INTO facts VALUES (1)")
    pair.pause(pair.standby)
    with pytest.raises(NotLasting, match="0 of 1 standbys"), lasting(engine, 1) as connection:
        connection.exec_driver_sql("INSERT INTO facts VALUES (2)")
    pair.resume(pair.standby)
    pair.ask(pair.leader, "CREATE ROLE nobody_special")
    try:
        with pytest.raises(NotLasting, match="GRANT pg_read_all_stats"), lasting(engine, 1) as connection:
            connection.exec_driver_sql("SET ROLE nobody_special")
    finally:
        engine.dispose()
        pair.ask(pair.leader, "DROP ROLE nobody_special")


def test_a_logical_subscriber_is_no_standby(
    pair: Pair, paired: PostgresSection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has all that is written and can never be promoted: neither the archive nor the doctor counts it."""
    monkeypatch.setattr("projections.lasting.WITHIN", 1.0)
    engine = open_engine(paired, name="test")
    section = msgspec.structs.replace(paired, standbys=1)
    flushed = "SELECT flush_lsn >= '{}' FROM pg_stat_replication WHERE application_name = 'pg_recvlogical'"
    with pair.subscriber():
        with lasting(engine, 1) as connection:
            connection.exec_driver_sql("CREATE TABLE facts (id int)")
        pair.kill(pair.standby)
        with engine.begin() as connection:
            connection.exec_driver_sql("INSERT INTO facts VALUES (1)")
        written = pair.ask(pair.leader, "SELECT pg_current_wal_flush_lsn()")
        eventually(lambda: pair.ask(pair.leader, flushed.format(written)), "the subscriber has all")
        with pytest.raises(NotLasting, match="0 of 1 standbys"), lasting(engine, 1) as connection:
            connection.exec_driver_sql("INSERT INTO facts VALUES (2)")
        found = [one for one in checks.postgres(section) if one.part == "postgres standbys"]
        assert found[0].told == "0 of 1 connected"
    engine.dispose()


@pytest.mark.parametrize("server_waits", [True, False])
def test_nobody_is_told_archived_before_the_standby_has_it(
    pair_yard: Yard, pair: Pair, monkeypatch: pytest.MonkeyPatch, server_waits: bool
) -> None:
    """With the standby frozen rows are there and the owner is told nothing, loudly; then it goes on."""
    monkeypatch.setattr("projections.lasting.WITHIN", 0.3)
    scribe = pair_yard.scribe()
    scribe.add("mic")
    if server_waits:
        pair.synchronous(pair.standby)
    with archiving(pair_yard, 0.3, standbys=0 if server_waits else 1) as archiver:
        eventually(lambda: archived(pair_yard) == 1, "the first event archived")
        pair.pause(pair.standby)
        scribe.write("source.starting", "mic", desired="running")
        eventually(lambda: len(rows_of(pair_yard, LANE)) == 2, "the row, which it has")
        eventually(lambda: "NotLasting" in (archive_trouble(pair_yard, LANE) or ""), "the trouble noted")
        assert archiver.trouble is not None
        assert archived(pair_yard) == 1
        pair.resume(pair.standby)
        eventually(lambda: archived(pair_yard) == 2, "gone on")
        eventually(lambda: archive_trouble(pair_yard, LANE) is None, "the trouble gone")
    assert rows_of(pair_yard, LANE) == logged(scribe)


def logged(scribe: Scribe) -> list[tuple[bytes, str]]:
    return [(event.raw, event.hash) for event in scribe.chain.events]


def test_a_server_that_freezes_is_given_up(pair: Pair, paired: PostgresSection) -> None:
    """No wait is for ever: a statement ends with an error that says so, and the connection with it."""
    with connect_to(paired, name="test", answer_within=0.2) as wire:
        pair.pause(pair.leader)
        began = time.monotonic()
        with pytest.raises(psycopg.OperationalError, match="did not answer within") as caught:
            wire.execute("SELECT 1")
        assert time.monotonic() - began < 5
        assert is_away(caught.value)
        assert wire.closed


def test_a_statement_that_takes_too_long_is_ended_by_the_server(paired: PostgresSection) -> None:
    """A slow server is not a dead one: the statement is cancelled and the connection goes on."""
    with connect_to(paired, name="test", answer_within=0.2, autocommit=True) as wire:
        with pytest.raises(psycopg.errors.QueryCanceled):
            wire.execute("SELECT pg_sleep(5)")
        assert wire.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://tocsin@db-1:5432,db-2:5433/tocsin",
        "postgresql://db-1,db-2/tocsin?target_session_attrs=read-write",
        "postgresql://tocsin@[::1]:5432,db-2/tocsin?sslmode=disable",
        "postgresql:///tocsin?host=/run/postgresql",
    ],
)
def test_several_hosts_are_taken_as_libpq_writes_them(url: str) -> None:
    """What libpq takes is a valid setting."""
    assert load(None, {"TOCSIN_POSTGRES_URL": url}).postgres.url.startswith(url)


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        (
            "URL",
            "postgresql://tocsin@db-1;db-2:5433/tocsin?x= y",
            "like postgresql://user@host:port,host:port",
        ),
        ("URL", "postgresql://tocsin@db-1:five/tocsin", "like postgresql://user@host:port,host:port"),
        ("URL", "host=db-1 dbname=tocsin", "like postgresql://user@host:port,host:port"),
        ("URL", "postgresql://a,b/tocsin?target_session_attrs=standby", "set postgres.reads"),
        ("READS", "replica", "replica"),
        ("MAX_STALENESS", "-1", ">= 0"),
        ("STANDBYS", "-1", ">= 0"),
        ("RETRIES", "0", ">= 1"),
    ],
)
def test_a_setting_that_cannot_be_is_named(name: str, value: str, problem: str) -> None:
    """Whoever reads the message knows which key to change, and how."""
    with pytest.raises(InvalidSettings) as caught:
        load(None, {f"TOCSIN_POSTGRES_{name}": value})
    assert caught.value.field == f"postgres.{name.lower()}"
    assert problem in str(caught.value)


def test_without_a_url_it_says_what_to_set() -> None:
    """No process takes whatever database libpq would find by itself."""
    with pytest.raises(InvalidSettings, match=r"postgres\.url: is empty"):
        connect_to(PostgresSection(), name="test")
    with pytest.raises(InvalidSettings, match=r"postgres\.url: is empty"):
        open_engine(PostgresSection(), name="test")


def test_the_doctor_says_how_the_standbys_are(pair: Pair, paired: PostgresSection) -> None:
    """Both are named; one that is missing is a warning, one that commits wait for is trouble."""
    section = msgspec.structs.replace(paired, standbys=1)

    def told(*of: str) -> set[tuple[str, str]]:
        findings = [*checks.postgres(section), *checks.hosts(section)]
        return {(found.verdict, found.told) for found in findings if not of or found.part in of}

    assert {("ok", "primary"), ("ok", "standby")} <= told()
    assert ("ok", f"1 connected: {pair.standby}") in told("postgres standbys")
    name = pair.standby
    pair.synchronous(name)
    pair.kill(name)
    eventually(
        lambda: ("trouble", f"commits wait for {name}, and none of them is connected") in told(),
        "the trouble told",
    )
    assert "standby" not in {said for _, said in told()}


def test_the_doctor_names_a_synchronous_standby_that_hangs(pair: Pair, paired: PostgresSection) -> None:
    """It is connected and counts as synchronous, and nothing reaches its disk: commits wait for it."""
    pair.synchronous(pair.standby)

    def standbys() -> list[tuple[str, str]]:
        found = checks.postgres(paired)
        return [(one.verdict, one.told) for one in found if one.part.startswith("postgres standby")]

    assert standbys() == [("ok", f"1 connected: {pair.standby}")]
    pair.pause(pair.standby)
    pair.ask(
        pair.leader, "SET synchronous_commit = local; SELECT pg_logical_emit_message(true, 'tests', 'x')"
    )
    assert (
        "trouble",
        f"commits wait for {pair.standby}, which is connected and does not answer",
    ) in standbys()
    pair.resume(pair.standby)
    eventually(lambda: standbys() == [("ok", f"1 connected: {pair.standby}")], "it answers again")
