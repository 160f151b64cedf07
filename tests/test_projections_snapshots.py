"""Snapshots and levels: what Redis is given for the pages, and when."""

from __future__ import annotations

import threading
import time
from datetime import datetime, timedelta

import msgspec
import pytest

from projections.levels import Levels, louder
from projections.snapshots import LaneState, Snapshots, Written, earliest, is_due
from projections.views import LevelView, SourceView
from streams.connection import connect
from streams.messages import now
from tests.fix_projections import EPOCH, LANE, Yard
from tests.fix_servers import eventually


def snapshot(yard: Yard, source: str) -> SourceView | None:
    raw = yard.link.call("HGET", yard.keys.source_snapshot(source), "data")
    return msgspec.json.decode(raw, type=SourceView) if raw else None


def index(yard: Yard) -> list[str] | None:
    raw = yard.link.call("HGET", yard.keys.source_index, "data")
    return msgspec.json.decode(raw, type=list[str]) if raw else None


def test_a_running_source_is_written_with_its_level(yard: Yard) -> None:
    """The snapshot holds the row and the latest level; it lives for 60 s and is written each second."""
    scribe = yard.scribe()
    scribe.add("mic", running=True)
    yard.beat()
    with yard.projections():
        eventually(lambda: snapshot(yard, "mic"), "a snapshot")
        scribe.measure("mic", -18.25, -6.5, seconds=3.0)
        eventually(lambda: (view := snapshot(yard, "mic")) and view.level, "a level")
        view = snapshot(yard, "mic")
        assert view is not None
        assert view.level is not None
        assert (view.state, view.level.rms_dbfs, view.level.peak_dbfs) == ("running", -18.25, -6.5)
        remaining = []
        for _ in range(30):
            remaining.append(yard.link.call("PTTL", yard.keys.source_snapshot("mic")))
            time.sleep(0.1)
        assert 58_500 < min(remaining) <= max(remaining) <= 60_000
        later = snapshot(yard, "mic")
        assert later is not None
        assert later.as_of is not None
        assert view.as_of is not None
        assert later.as_of - view.as_of > timedelta(seconds=1.5)


def test_silence_is_a_level_and_no_level_is_none(yard: Yard) -> None:
    """Digital silence is null in the level's figures; a source that is not measured has no level at all."""
    scribe = yard.scribe()
    scribe.add("silent", running=True)
    scribe.add("unheard", running=True)
    yard.beat()
    with yard.projections():
        eventually(lambda: snapshot(yard, "silent"), "a snapshot")
        scribe.measure("silent", None, None)
        eventually(lambda: (view := snapshot(yard, "silent")) and view.level, "a level")
        raw = yard.link.call("HGET", yard.keys.source_snapshot("silent"), "data")
        assert b'"rms_dbfs":null' in raw
        unheard = snapshot(yard, "unheard")
        assert unheard is not None
        assert unheard.level is None


def test_a_removed_source_loses_its_snapshot(yard: Yard) -> None:
    """Once the removal is folded, neither snapshot nor index tell of the source."""
    scribe = yard.scribe()
    scribe.add("mic")
    with yard.projections():
        eventually(lambda: index(yard) == ["mic"] and snapshot(yard, "mic"), "a snapshot")
        scribe.write("source.removed", "mic")
        eventually(lambda: index(yard) == [] and snapshot(yard, "mic") is None, "no snapshot")


def test_a_new_lane_is_followed_while_running(yard: Yard) -> None:
    """A source in a lane that nobody knew at the start appears without a restart."""
    with yard.projections():
        eventually(lambda: index(yard) == [], "an index without sources")
        yard.scribe("node.other").add("far", running=True)
        yard.link.call("HSET", yard.keys.sources, "far", "node.other")
        eventually(lambda: snapshot(yard, "far"), "the other node's source")


def test_of_two_writers_the_one_that_knows_less_keeps_still(yard: Yard) -> None:
    """A process whose rows are old does not write over the snapshots of one whose rows are new."""
    yard.scribe().add("mic")

    def writer(checked_at: datetime) -> Snapshots:
        return Snapshots(
            yard.engine,
            connect(yard.settings.redis, "snapshots"),
            yard.keys,
            levels=dict,
            lanes=lambda: {LANE: LaneState(checked_at, None)},
            changed=threading.Event(),
            stopping=threading.Event(),
        )

    fresh, late = writer(now()), writer(now() - timedelta(seconds=30))
    fresh.step()
    at = yard.link.call("HGET", yard.keys.source_index, "at")
    late.step()
    assert yard.link.call("HGET", yard.keys.source_index, "at") == at
    yard.link.call("DEL", yard.keys.source_index)
    late.step()
    assert index(yard) is not None


def test_the_snapshots_moment_is_what_is_known_of_the_lane() -> None:
    """As long as one lane was never caught up with, nobody says that all sources are known."""
    earlier, later = EPOCH, EPOCH + timedelta(seconds=5)
    assert earliest(later, {"a": LaneState(earlier, None), "b": LaneState(later, None)}) == earlier
    assert earliest(earlier, {"a": LaneState(later, None)}) == earlier
    assert earliest(later, {"a": LaneState(later, None), "b": LaneState(None, "PositionAhead")}) is None


def view(state: str, **more: object) -> SourceView:
    fields = {
        "id": "mic", "lane": LANE, "node": "local", "kind": "file", "name": "", "settings": {},
        "desired": "running", "state": state, "reason": None, "rate": None, "channels": None,
        "since": EPOCH, "updated_at": EPOCH, "seq": 1, "hash": "", "as_of": EPOCH, **more,
    }  # fmt: skip
    return msgspec.convert(fields, SourceView)


def test_what_changed_is_due_at_once_and_the_rest_in_time() -> None:
    """A change is written at the next look; else a running source each second, others every ten."""
    shown = view("running")
    assert is_due(shown, None, 0.0)
    assert not is_due(view("running", as_of=EPOCH + timedelta(seconds=1)), Written(10.0, shown), 10.5)
    assert is_due(shown, Written(10.0, shown), 11.0)
    level = LevelView(at=EPOCH, rms_dbfs=-3.0, peak_dbfs=0.0, seconds=1.0)
    assert is_due(msgspec.structs.replace(shown, level=level), Written(10.0, shown), 10.2)
    stopped = view("stopped")
    assert not is_due(stopped, Written(10.0, stopped), 15.0)
    assert is_due(stopped, Written(10.0, stopped), 20.0)


def levels_of(yard: Yard) -> Levels:
    return Levels(connect(yard.settings.redis, "levels"), yard.keys, lambda: [LANE, "p0"], threading.Event())


def test_a_peak_between_two_looks_is_not_missed(yard: Yard) -> None:
    """The peak that is taken is the highest since the one before; RMS is the latest."""
    levels, scribe = levels_of(yard), yard.scribe()
    levels.listen()
    for rms, peak in ((-20.0, -0.5), (-21.0, None), (-22.0, -12.0)):
        scribe.measure("mic", rms, peak)
    levels.listen()
    taken = levels.take()[LANE, "mic"]
    assert (taken.rms_dbfs, taken.peak_dbfs) == (-22.0, -0.5)
    scribe.measure("mic", -23.0, -30.0)
    levels.listen()
    assert levels.take()[LANE, "mic"].peak_dbfs == -30.0


def test_telemetry_that_cannot_be_read_harms_nobody(yard: Yard) -> None:
    """Entries of another shape are left out; those after them are heard."""
    levels, scribe, key = levels_of(yard), yard.scribe("p0"), yard.keys.lane("p0").telemetry
    levels.listen()
    yard.link.call("XADD", key, "*", "l", b'[{"source": 7}]')
    yard.link.call("XADD", key, "*", "l", b"\xff\x00", "more", "fields")
    yard.link.call("XADD", key, "*", "other", "field")
    scribe.measure("tower", -40.0, -30.0)
    levels.listen()
    assert levels.take().keys() == {("p0", "tower")}


def test_levels_from_before_are_not_taken_for_news(yard: Yard) -> None:
    """What stood in the stream when the listening began is the past, not the level now."""
    scribe, levels = yard.scribe(), levels_of(yard)
    scribe.measure("mic", -20.0, -10.0)
    levels.listen()
    assert levels.take() == {}


@pytest.mark.parametrize(
    ("one", "other", "louder_one"),
    [(-3.0, -6.0, -3.0), (None, -90.0, -90.0), (None, None, None), (0.0, None, 0.0)],
)
def test_silence_is_the_quietest_level(
    one: float | None, other: float | None, louder_one: float | None
) -> None:
    """None, which is −∞, is lower than every number."""
    assert louder(one, other) == louder_one
    assert louder(other, one) == louder_one
