"""Whether anything is listened for: conditions that open, last and close."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.state import Source, fold
from ingest.watch import NO_TEST_FOR, Watching, changes, given_up
from streams.messages import GENESIS, SCHEMA, Event
from streams.vocabulary import FileSettings, plain

AT = datetime(2026, 11, 24, 13, 5, tzinfo=UTC)
RUNNING = Source(
    settings=FileSettings(path="/a.wav"), desired="running", state="running", wanted_since=AT, last_test=None
)
LATE = AT + NO_TEST_FOR + timedelta(seconds=1)


def replaced(source: Source, **changed: Any) -> Source:
    return msgspec.structs.replace(source, **changed)


def event(type: str, at: datetime, data: dict[str, Any]) -> Event:
    return Event(
        seq=1, prev=GENESIS, token=1, at=at, logged_at=at, node="n", type=type, data=data, schema=SCHEMA,
        source="s",
    )  # fmt: skip


def watched(source: Source, starved: bool, at: datetime) -> tuple[Source, list[str]]:
    """The source after what a look at it logs, and the types and kinds of that."""
    found = changes(source, Watching(starved), at, lambda: f"e-{at.isoformat()}")
    after: Source | None = source
    for fact in found:
        after = fold(after, event(fact.type, at, plain(fact.data)))
    assert after is not None
    return after, [f"{fact.type} {plain(fact.data)['kind']}" for fact in found]


def test_a_decoder_without_audio_is_a_condition_until_it_has_some() -> None:
    """It opens once, whatever number of looks find it so, and the same episode is closed."""
    source, told = watched(RUNNING, True, AT)
    assert told == ["condition.opened decoder.starved"]
    episode = source.conditions["decoder.starved"]
    assert watched(source, True, AT + timedelta(seconds=3)) == (source, [])
    (closed,) = changes(source, Watching(), AT, lambda: "another")
    assert (closed.type, plain(closed.data)["episode"]) == ("condition.closed", episode)
    after, told = watched(source, False, AT)
    assert (after, told) == (RUNNING, ["condition.closed decoder.starved"])


@pytest.mark.parametrize(("state", "desired"), [("failed", "running"), ("stopped", "stopped")])
def test_a_source_that_does_not_run_starves_nobody(state: Any, desired: Any) -> None:
    """A source that failed or was stopped has another trouble, or none: the condition is over."""
    source, _ = watched(RUNNING, True, AT)
    idle = replaced(source, state=state, desired=desired)
    after, told = watched(idle, True, AT)
    assert told == ["condition.closed decoder.starved"]
    assert watched(after, True, AT) == (after, [])


def test_a_weekly_test_is_missed_after_eight_days() -> None:
    """Counted from the last one, or from the start of a source that never had one."""
    assert watched(RUNNING, False, AT + NO_TEST_FOR)[1] == []
    source, told = watched(RUNNING, False, LATE)
    assert told == ["condition.opened weekly_test.missing"]
    tested = fold(source, event("alert.received", LATE, {"event": "RWT", "confirmed": True}))
    assert tested is not None
    assert watched(tested, False, LATE)[1] == ["condition.closed weekly_test.missing"]
    well, _ = watched(tested, False, LATE)
    again = LATE + NO_TEST_FOR + timedelta(hours=1)
    assert watched(well, False, again)[1] == ["condition.opened weekly_test.missing"]


def test_what_counts_as_a_test() -> None:
    """A confirmed weekly test, or the monthly one that stands for it; no other alert, and none in doubt."""
    for data, counts in (
        ({"event": "RWT", "confirmed": True}, True),
        ({"event": "RMT", "confirmed": True}, True),
        ({"event": "RWT", "confirmed": False}, False),
        ({"event": "TOR", "confirmed": True}, False),
        ({}, False),
    ):
        after = fold(RUNNING, event("alert.received", LATE, data))
        assert after is not None
        assert (after.last_test == LATE) is counts, data


def test_a_start_after_a_stop_gives_the_station_eight_days_again() -> None:
    """A source that was stopped for a month misses no test on its first day; a restart does not count."""
    restarted = fold(RUNNING, event("source.starting", LATE, {"desired": "running"}))
    assert restarted is not None
    assert restarted.wanted_since == AT
    stopped = fold(RUNNING, event("source.stopped", LATE, {"desired": "stopped"}))
    started = fold(stopped, event("source.starting", LATE, {"desired": "running"}))
    assert started is not None
    assert started.wanted_since == LATE
    assert watched(started, False, LATE + timedelta(days=7))[1] == []


def test_conditions_end_with_their_source() -> None:
    """Whatever is open of a source that is removed is closed by name."""
    source, _ = watched(RUNNING, True, LATE)
    assert {plain(fact.data)["episode"] for fact in given_up(source, "removed")} == set(
        source.conditions.values()
    )


@given(
    st.lists(
        st.tuples(st.booleans(), st.sampled_from(["running", "stopped"]), st.integers(0, 10)), max_size=12
    )
)
def test_after_a_look_nothing_more_is_to_be_logged(looks: list[tuple[bool, Any, int]]) -> None:
    """Whatever came before: a second look at the same moment finds everything said."""
    source, at = RUNNING, AT
    for starved, state, days in looks:
        at += timedelta(days=days)
        source, _ = watched(replaced(source, state=state, desired=state), starved, at)
        assert watched(source, starved, at) == (source, [])
