"""The archive by months: made ahead of time, nothing lost where a table or a clock was another."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime

import pytest
from sqlalchemy import Connection, Engine, text

from projections.archive import keep
from projections.archive_reader import ArchiveReader
from projections.database import open_engine
from projections.partitions import AHEAD, following, make_ahead, names, wanted
from projections.schema import migrate
from streams.messages import Event, Logged, canonical, digest
from streams.settings import PostgresSection
from tests.fix_projections import Yard
from tests.fix_servers import eventually

NOW = datetime.now(UTC)
LONG_AGO = datetime(2024, 1, 31, 23, 59, 59, tzinfo=UTC)
FAR_AHEAD = datetime(2099, 2, 1, tzinfo=UTC)


@pytest.fixture
def engine(postgres: PostgresSection) -> Iterator[Engine]:
    engine = open_engine(postgres, name="months")
    yield engine
    engine.dispose()


def event(seq: int, at: datetime, prev: str = "0" * 64) -> Logged:
    """An event of the lane p0 that was logged at `at`."""
    made = Event(
        seq=seq, prev=prev, token=1, at=at, logged_at=at, node="one", type="source.running", data={}, schema=1
    )
    raw = canonical(made)
    return Logged(made, raw, digest(raw))


def places(connection: Connection) -> dict[int, str]:
    """The partition in which each seq stands."""
    rows = connection.execute(text("SELECT seq, tableoid::regclass::text AS place FROM archive ORDER BY seq"))
    return {row.seq: row.place for row in rows}


def test_an_archive_from_before_is_kept_whole(engine: Engine, postgres: PostgresSection) -> None:
    """Rows of an unpartitioned archive are all there after the migration, whatever their clocks said."""
    migrate(engine, "0005")
    events = [event(1, LONG_AGO), event(2, NOW), event(3, FAR_AHEAD)]
    with engine.begin() as connection:
        keep(connection, "p0", events)
    migrate(engine)
    reader = ArchiveReader(postgres)
    assert list(reader.after("p0", 0)) == [(one.raw, one.hash) for one in events]
    assert reader.hash_at("p0", 2) == events[1].hash
    later = datetime.combine(following(NOW.date()), datetime.min.time(), UTC)
    with engine.begin() as connection:
        keep(connection, "p0", [event(4, NOW), event(5, later)])
    with engine.connect() as connection:
        before = f"archive_before_{following(NOW.date()):%Y%m}"
        assert places(connection) == {
            1: before, 2: before, 3: "archive_rest", 4: before, 5: f"archive_{later:%Y%m}"
        }  # fmt: skip


def test_a_new_archive_has_months_ahead(engine: Engine) -> None:
    """An event goes to its own month; there are partitions for those to come."""
    migrate(engine)
    with engine.begin() as connection:
        keep(connection, "p0", [event(1, NOW)])
        assert places(connection) == {1: f"archive_{NOW:%Y%m}"}
        assert len(names(connection)) == AHEAD + 2


def test_what_came_before_its_partition_moves_into_it(engine: Engine) -> None:
    """Events of a month without a partition are kept aside, and go to it once there is one; nothing twice."""
    migrate(engine)
    events = [event(1, LONG_AGO), event(2, FAR_AHEAD), event(3, FAR_AHEAD)]
    with engine.begin() as connection:
        keep(connection, "p0", events)
        assert set(places(connection).values()) == {"archive_rest"}
    for made in (["archive_209902"], []):
        with engine.begin() as connection:
            assert make_ahead(connection, [date(2099, 2, 1)]) == made
            assert places(connection) == {1: "archive_rest", 2: "archive_209902", 3: "archive_209902"}


def test_the_projections_make_partitions_that_are_missing(yard: Yard) -> None:
    """The process that archives sees to the months ahead."""
    last = f"archive_{wanted(NOW.date())[-1]:%Y%m}"
    with yard.engine.begin() as connection:
        connection.execute(text(f"DROP TABLE {last}"))

    def standing() -> bool:
        with yard.engine.connect() as connection:
            return last in names(connection)

    assert not standing()
    with yard.projections():
        eventually(standing, "the partition made")


def test_the_months_follow_one_another() -> None:
    """Also over the end of a year, and from the last day of a month."""
    assert wanted(date(2026, 10, 31)) == [
        date(2026, 10, 1),
        date(2026, 11, 1),
        date(2026, 12, 1),
        date(2027, 1, 1),
    ]
    assert following(date(2024, 1, 31)) == date(2024, 2, 1)


def test_a_lane_is_read_by_seq_without_a_look_at_every_event(engine: Engine) -> None:
    """Reading on from a seq goes by the key of each partition, however many there are."""
    migrate(engine)
    with engine.begin() as connection:
        make_ahead(connection, [date(2024, number, 1) for number in range(1, 13)])
        keep(connection, "p0", [event(seq, LONG_AGO if seq < 2000 else NOW) for seq in range(1, 4001)])
        connection.execute(text("ANALYZE archive"))
        query = "SELECT raw, hash FROM archive WHERE lane = 'p0' AND seq > 1500 ORDER BY seq LIMIT 10"
        plan = "\n".join(connection.scalars(text(f"EXPLAIN {query}")))
    assert "Merge Append" in plan
    assert f"Index Scan using archive_{NOW:%Y%m}" in plan
