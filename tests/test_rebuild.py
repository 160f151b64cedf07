"""Rebuilds: the same rows again, from the archive, while readers go on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import pytest
from sqlalchemy import inspect, text

from projections import rebuild
from projections.projection import ALL, COMMANDS, SOURCES
from projections.rebuild import NotYet, Rebuilder, Work
from projections.rebuilds import want
from projections.runner import Runner
from projections.schema import migrate
from projections.swap import NEXT
from projections.tables import metadata
from streams.connection import connect
from tests.fix_projections import LANE, Yard, folded
from tests.fix_rebuild import ask_for, busy, named, parked_in, position_of, rebuild_of, rebuilt, refusing
from tests.fix_servers import eventually

TABLES = tuple(projection.table.name for projection in ALL)


def caught_up(yard: Yard, seq: int) -> bool:
    query = text("SELECT min(seq), count(*) FROM positions WHERE lane = :lane")
    with yard.engine.connect() as connection:
        return tuple(connection.execute(query, {"lane": LANE}).one()) == (seq, len(ALL) + 1)


@contextmanager
def reading(yard: Yard) -> Iterator[list[dict[str, int]]]:
    """Someone who counts each table's rows again and again meanwhile."""
    seen: list[dict[str, int]] = []
    ended = threading.Event()

    def read() -> None:
        with yard.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            while not ended.is_set():
                seen.append(
                    {
                        name: connection.exec_driver_sql(f'SELECT count(*) FROM "{name}"').scalar_one()
                        for name in TABLES
                    }
                )

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield seen
    finally:
        ended.set()
        reader.join(timeout=10)
        assert not reader.is_alive()


def test_readers_never_see_fewer_rows(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    """All projections are rebuilt while events come; who reads meanwhile sees no row missing at any time."""
    monkeypatch.setattr(rebuild, "BATCH", 50)
    scribe = yard.scribe()
    busy(scribe, 300)
    with yard.projections():
        eventually(lambda: caught_up(yard, scribe.chain.seq), "all events folded and archived")
        with reading(yard) as seen:
            ask_for(yard, *ALL)
            for seed in range(2, 6):
                busy(scribe, 40, seed)
            eventually(rebuilt(yard), "all rebuilt")
            eventually(lambda: caught_up(yard, scribe.chain.seq), "all events folded")
    assert len(seen) > 5
    for before, after in pairwise(seen):
        assert all(after[name] >= before[name] for name in TABLES)
    assert yard.all_rows() == folded(scribe.chain.events)


def test_the_tables_are_as_the_migrations_made_them(yard: Yard) -> None:
    """After a rebuild names, indexes and keys of the tables are what they were, and nothing is left over."""

    def shape() -> dict[str, object]:
        found = inspect(yard.engine)
        return {
            name: (
                found.get_pk_constraint(name),
                sorted(found.get_indexes(name), key=lambda i: i["name"] or ""),
            )
            for name in found.get_table_names()
        }

    before = shape()
    with yard.engine.begin() as connection:
        connection.exec_driver_sql("CREATE ROLE onlooker_of_rows")
        connection.exec_driver_sql("GRANT SELECT ON sources TO onlooker_of_rows")
    try:
        busy(yard.scribe(), 10)
        with yard.projections():
            ask_for(yard, *ALL)
            eventually(rebuilt(yard), "all rebuilt")
        assert shape() == before
        assert set(before) >= set(metadata.tables)
        with yard.engine.connect() as connection:
            asked = "SELECT has_table_privilege('onlooker_of_rows', 'sources', 'SELECT')"
            assert connection.exec_driver_sql(asked).scalar_one()
    finally:
        with yard.engine.begin() as connection:
            connection.exec_driver_sql("DROP OWNED BY onlooker_of_rows; DROP ROLE onlooker_of_rows")


def test_a_fold_whose_version_changed_rebuilds_by_itself(yard: Yard) -> None:
    """Rows of an older version are shown until the new ones take their place, without anyone asking."""
    scribe = yard.scribe()
    busy(scribe, 40)
    with yard.projections():
        eventually(lambda: caught_up(yard, scribe.chain.seq), "all events folded and archived")
    with yard.engine.begin() as connection:
        connection.execute(text("UPDATE positions SET version = 0 WHERE projection = 'sources'"))
        connection.execute(text("UPDATE sources SET name = 'folded by an old version', state = 'stopped'"))
    with reading(yard) as seen, yard.projections():
        scribe.write("source.failed", "mic", reason="while it is rebuilt")
        eventually(lambda: yard.all_rows() == folded(scribe.chain.events), "rebuilt, and folded on")
    assert min(count["sources"] for count in seen) == 3
    assert position_of(yard) == (scribe.chain.seq, None)


def archived(yard: Yard, count: int) -> None:
    """A lane that was folded and archived."""
    scribe = yard.scribe()
    busy(scribe, count)
    with yard.projections():
        eventually(lambda: caught_up(yard, scribe.chain.seq), "all events folded and archived")


def test_a_rebuild_goes_on_where_it_was_interrupted(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was folded before the process died is not folded again, and the rows come out the same."""
    monkeypatch.setattr(rebuild, "BATCH", 30)
    archived(yard, 90)
    rows = yard.all_rows()
    ask_for(yard, COMMANDS, SOURCES)
    with yard.engine.connect() as connection:
        first = Work(connection, [COMMANDS, SOURCES], "park")
        next(first.catch_up())
    with yard.engine.connect() as connection:
        assert Work(connection, [COMMANDS, SOURCES], "park").done == 30
    Rebuilder(yard.engine, threading.Event()).look()
    found = rebuild_of(yard)
    assert found is not None
    assert (found.state, found.done) == ("done", 99)
    assert yard.all_rows() == rows


def test_nothing_is_swapped_in_that_is_behind_the_live_rows(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the archive is behind the folds the old rows stay; no reader is taken back in time."""
    monkeypatch.setattr(rebuild, "ARCHIVE_WITHIN", 0.1)
    archived(yard, 30)
    scribe_rows = yard.all_rows()
    with yard.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM archive WHERE seq > 20")
    ask_for(yard, SOURCES)
    with pytest.raises(NotYet, match=LANE):
        Rebuilder(yard.engine, threading.Event()).look()
    assert yard.all_rows() == scribe_rows


def test_an_event_that_cannot_be_folded_stops_a_rebuild_that_is_to_stop(yard: Yard) -> None:
    """It fails and says which event it was; the live rows stay as they are and nothing is left over."""
    archived(yard, 30)
    rows, at = yard.all_rows(), position_of(yard)
    ask_for(yard, SOURCES)
    bad = refusing(SOURCES, lambda logged: logged.event.seq == 12)
    Rebuilder(yard.engine, threading.Event(), projections=(bad,), on_error="stop").look()
    found = rebuild_of(yard)
    assert found is not None
    assert found.state == "failed"
    assert "node.local:12" in (found.detail or "")
    assert (yard.all_rows(), position_of(yard)) == (rows, at)
    assert not inspect(yard.engine).has_table("sources" + NEXT)
    with yard.engine.begin() as connection:
        assert not want(connection, SOURCES), "what failed is not tried again by itself"
        assert want(connection, SOURCES, again=True)


def test_a_rebuild_that_parks_takes_over_with_what_it_parked(yard: Yard) -> None:
    """What the new rows lack is listed once they are swapped in, in place of what the old ones lacked."""
    scribe = yard.scribe()
    for name in ("mic", "tower"):
        scribe.add(name)
    scribe.write("source.updated", "mic", name="poison")
    scribe.write("source.updated", "mic", name="follower")
    scribe.write("source.updated", "tower", name="other")
    with yard.projections():
        eventually(lambda: caught_up(yard, scribe.chain.seq), "all events folded and archived")
    ask_for(yard, SOURCES)
    bad = refusing(SOURCES, named("poison"))
    Rebuilder(yard.engine, threading.Event(), projections=(bad,)).look()
    assert {id: row.name for id, row in yard.rows(SOURCES).items()} == {"mic": "mic", "tower": "other"}
    assert parked_in(yard) == [("sources", 3, "parked", 1)]


def test_one_process_rebuilds_at_a_time(yard: Yard) -> None:
    """Another process leaves a rebuild alone that is under way."""
    archived(yard, 10)
    ask_for(yard, SOURCES)
    with yard.engine.connect() as other:
        other.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": rebuild.LOCK})
        Rebuilder(yard.engine, threading.Event()).look()
        found = rebuild_of(yard)
        assert found is not None
        assert found.state == "wanted"
        other.execute(text("SELECT pg_advisory_unlock(:lock)"), {"lock": rebuild.LOCK})
    Rebuilder(yard.engine, threading.Event()).look()
    assert rebuilt(yard, SOURCES)()


def test_a_projection_far_behind_is_rebuilt_beside_the_others(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A projection that is new to a long log keeps none of the others waiting: it is rebuilt."""
    monkeypatch.setattr("projections.runner.FAR", 20)
    archived(yard, 30)
    with yard.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM positions WHERE projection = 'commands'")
        connection.exec_driver_sql("DELETE FROM commands")
    link = connect(yard.settings.redis, "runner")
    runner = Runner(yard.engine, link, LANE, yard.keys.lane(LANE), threading.Event())
    assert set(runner.positions()) == {projection.name for projection in ALL} - {"commands"}
    assert position_of(yard, COMMANDS) == (0, "rebuilding")
    Rebuilder(yard.engine, threading.Event()).look()
    assert set(runner.positions()) == {projection.name for projection in ALL}
    migrate(yard.engine)
    assert len(yard.rows(COMMANDS)) == 15
    link.close()
