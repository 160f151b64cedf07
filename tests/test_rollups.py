"""Levels by minute and hour: each measurement counts once, however it is read."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import event, select
from sqlalchemy.exc import OperationalError

from projections.folds.levels import SPANS, Key, RollUp, fold_all, loudness, mean
from projections.rollups import RollUps
from projections.rows import columns, structs
from projections.tables import levels
from streams.connection import connect
from streams.messages import Level, canonical
from streams.readings import Readings
from tests.fix_projections import LANE, Yard
from tests.fix_servers import eventually

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
DBFS = st.none() | st.floats(-120, 3).map(lambda value: round(value, 2))


def level(
    second: float, rms: float | None, peak: float | None = None, source: str = "mic",
    lufs: float | None = None, dbtp: float | None = None,
) -> Level:  # fmt: skip
    at = NOON + timedelta(seconds=second)
    found = Readings(
        true_peak_dbtp=dbtp, momentary_lufs=lufs, short_term_lufs=None, integrated_lufs=None, range_lu=0.0,
        clipped=0, dc_offset=0.0, flatness=None, silent_seconds=0.0, buffered_seconds=0.0,
        dropped_seconds=0.0, drift_ppm=None,
    )  # fmt: skip
    return Level(source=source, at=at, rms_dbfs=rms, peak_dbfs=peak, seconds=second, readings=found)


LEVELS = st.lists(
    st.builds(level, st.floats(0, 7200), DBFS, DBFS, st.sampled_from(["mic", "tower"]), DBFS, DBFS),
    max_size=30,
)


@settings(deadline=None)
@given(LEVELS, st.lists(st.integers(1, 6), max_size=30))
def test_any_split_into_batches_gives_the_same_roll_ups(measured: list[Level], sizes: list[int]) -> None:
    """Rolled up batch by batch or in one go, the rows are the same to the last bit."""
    kept: dict[Key, RollUp] = {}
    rest = measured
    for size in [*sizes, len(measured) + 1]:
        kept, rest = fold_all(kept, rest[:size]), rest[size:]
    assert kept == fold_all({}, measured)


def test_a_roll_up_says_mean_extremes_and_silence() -> None:
    """The mean is of power, not of decibels; a silent measurement counts as none."""
    rows = fold_all(
        {}, [level(1, -20.0, -3.0), level(2, -20.0, None), level(3, None, -9.0), level(61, -40.0)]
    )
    minute = rows["mic", 60, NOON]
    assert (minute.count, minute.silent, minute.peak) == (3, 1, -3.0)
    assert (minute.rms_least, minute.rms_most) == (None, -20.0)
    assert mean(minute) == pytest.approx(-21.76, abs=0.01)
    assert rows["mic", 3600, NOON].count == 4
    silent = fold_all({}, [level(1, None)])["mic", 60, NOON]
    assert mean(silent) is None


def test_a_roll_up_says_how_loud_it_was() -> None:
    """What the absolute gate lets pass, as power; the loudest moment and the highest true peak."""
    measured = [level(n, -20.0, lufs=lufs, dbtp=lufs + 20) for n, lufs in enumerate((-20.0, -26.0, -71.0))]
    minute = fold_all({}, [*measured, level(3, None)])["mic", 60, NOON]
    assert loudness(minute) == pytest.approx(-22.04, abs=0.01)
    assert (minute.momentary_most, minute.true_peak, minute.loud) == (-20.0, 0.0, 2)
    before = [msgspec.structs.replace(level(4, -20.0), readings=None)]
    assert loudness(fold_all({}, before)["mic", 60, NOON]) is None


def kept_in(yard: Yard) -> dict[Key, RollUp]:
    with yard.engine.connect() as connection:
        found = structs(levels, RollUp, list(connection.execute(select(*columns(levels, RollUp)))))
    return {(row.source, row.span, row.at): row for row in found}


def measure(yard: Yard, measured: list[Level], number: int) -> None:
    """Put measurements into the lane's telemetry, an entry for each, ids from `number` on."""
    key = yard.keys.lane(LANE).telemetry
    entries = [
        ("XADD", key, f"{number + index}-1", "l", canonical([one])) for index, one in enumerate(measured)
    ]
    assert not [reply for reply in yard.link.batch(entries) if isinstance(reply, Exception)]


def rollups_of(yard: Yard) -> RollUps:
    link = connect(yard.settings.redis, "rollups")
    return RollUps(yard.engine, link, yard.keys, lambda: (LANE,), threading.Event())


MEASURED = [level(second * 7, -30.0 - second, -10.0) for second in range(20)]


def test_each_measurement_counts_once_whatever_fails(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit that fails is rolled back with the place in the stream; two readers share the work."""
    monkeypatch.setattr("projections.rollups.BATCH", 6)
    measure(yard, MEASURED, 1)
    one, other = rollups_of(yard), rollups_of(yard)
    one.read(LANE)

    def cut(connection: Any) -> None:
        connection.connection.driver_connection.close()

    event.listen(yard.engine, "commit", cut)
    with pytest.raises(OperationalError):
        one.read(LANE)
    event.remove(yard.engine, "commit", cut)
    while other.read(LANE) or one.read(LANE):
        continue
    assert kept_in(yard) == fold_all({}, MEASURED)


def test_stream_ids_that_are_given_out_again_count_once(yard: Yard) -> None:
    """After a failover some ids come again: what is not beyond the place is left out, never counted twice."""
    measure(yard, MEASURED, 1)
    reader = rollups_of(yard)
    reader.read(LANE)
    yard.link.call("DEL", yard.keys.lane(LANE).telemetry)
    measure(yard, MEASURED[:3], 15)
    measure(yard, [level(300, -1.0)], 30)
    reader.read(LANE)
    assert kept_in(yard) == fold_all({}, [*MEASURED, level(300, -1.0)])


def test_what_is_no_level_is_left_out(yard: Yard) -> None:
    """Telemetry that cannot be read, or kept, stops nothing."""
    key = yard.keys.lane(LANE).telemetry
    for raw in (b"{", b"[]", canonical([level(1, 1e9)]), canonical([level(1, -3.0, source="x" * 300)])):
        yard.link.call("XADD", key, "*", "l", raw)
    yard.link.call("XADD", key, "*", "novel", "x")
    yard.link.call("XADD", key, "*", "l", canonical([level(1, -20.0)]))
    rollups_of(yard).read(LANE)
    assert {(source, row.count) for (source, _, _), row in kept_in(yard).items()} == {("mic", 1)}


def test_a_station_rolls_up_what_its_sources_measure(yard: Yard) -> None:
    """The projections' process reads telemetry by itself."""
    with yard.projections():
        yard.scribe().measure("mic", -20.0, -6.0)
        eventually(lambda: len(kept_in(yard)) == len(SPANS), "minute and hour rolled up")
