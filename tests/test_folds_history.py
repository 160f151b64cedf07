"""The folds of what was: intervals, leases, conditions, parked commands and weekly tests, as stories."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise
from typing import Any

import msgspec
from hypothesis import given, settings

from projections.projection import CONDITIONS, HISTORY, LEASES, PARKED, WEEKLY_TESTS, Projection, fold_all
from streams.messages import Logged
from tests.fix_projections import EPOCH, Chain
from tests.test_folds import ADDED, STEPS, log_of


def rows(projection: Projection, events: list[Logged]) -> dict[str, Any]:
    return {key: row for key, row in fold_all(projection, {}, events).items() if row is not None}


def second(number: int) -> Any:
    return EPOCH + timedelta(seconds=number)


def test_a_source_has_an_interval_for_each_state_it_was_in() -> None:
    """Each ends where the next begins; the same state again goes on, with the latest reason."""
    chain = Chain()
    chain.event("source.added", "mic", **ADDED[1])
    for state, reason in (("starting", None), ("failed", "one"), ("failed", "two"), ("running", None)):
        chain.event(f"source.{state}", "mic", **({"reason": reason} if reason else {}))
    found = rows(HISTORY, chain.events)
    assert {
        id: (row.state, row.since, row.until, row.reason, row.until_seq) for id, row in found.items()
    } == {
        "mic@1": ("stopped", second(0), second(1), None, 2),
        "mic@2": ("starting", second(1), second(2), None, 3),
        "mic@3": ("failed", second(2), second(4), "two", 5),
        "mic": ("running", second(4), None, None, None),
    }


def test_a_source_that_was_removed_has_a_past_and_no_present() -> None:
    """Its last interval ends with the removal; added again, a new one begins."""
    chain = Chain()
    chain.event("source.added", "mic", **ADDED[1])
    chain.event("source.removed", "mic")
    chain.event("source.running", "mic")
    assert set(rows(HISTORY, chain.events)) == {"mic@1"}
    chain.event("source.added", "mic", **ADDED[1])
    assert {id: row.since for id, row in rows(HISTORY, chain.events).items()} == {
        "mic@1": second(0),
        "mic": second(3),
    }


@settings(deadline=None)
@given(STEPS)
def test_intervals_of_a_source_never_overlap(steps: Any) -> None:
    """In the order of the log, each interval ends no later than the next begins; one at most is present."""
    events = log_of(steps)
    for source in {logged.event.source for logged in events}:
        mine = sorted(
            (row for row in rows(HISTORY, events).values() if row.source == source), key=lambda row: row.seq
        )
        for before, after in pairwise(mine):
            assert before.until_seq is not None
            assert before.until_seq <= after.seq
            assert before.until <= after.since
        assert [row.id for row in mine if row.until is None] in ([], [source])


def test_a_lease_ends_when_it_is_released_or_taken_over() -> None:
    """A node that died says nothing: its lease ends where the next owner's begins."""
    chain = Chain()
    owners = (("a", 3, "acquired"), ("b", 4, "acquired"), ("b", 4, "released"), ("c", 6, "acquired"))
    events = []
    for node, token, what in owners:
        logged = chain.event(f"lane.{what}")
        event = msgspec.structs.replace(logged.event, node=node, token=token)
        events.append(Logged(event, logged.raw, logged.hash))
    found = rows(LEASES, events)
    assert {id: (row.node, row.since, row.until, row.ending) for id, row in found.items()} == {
        "3": ("a", second(0), second(1), "taken_over"),
        "4": ("b", second(1), second(2), "released"),
        "now": ("c", second(3), None, None),
    }


def test_an_acknowledgement_is_of_its_own_episode() -> None:
    """Acknowledged before or after it closed, by whom and once; the next episode is not."""
    chain = Chain()
    chain.event("condition.opened", "mic", episode="e-1", condition="silence", detail="no sound")
    chain.event("condition.acknowledged", "mic", "c-1", episode="e-1", by="operator")
    chain.event("condition.closed", "mic", episode="e-1")
    chain.event("condition.acknowledged", "mic", "c-2", episode="e-1", by="somebody else")
    chain.event("condition.opened", "mic", episode="e-2", condition="silence")
    chain.event("condition.closed", "mic", episode="e-9")
    found = rows(CONDITIONS, chain.events)
    assert set(found) == {"e-1", "e-2"}
    first, second_one = found["e-1"], found["e-2"]
    assert (first.condition, first.detail, first.opened_at, first.closed_at) == (
        "silence",
        "no sound",
        second(0),
        second(2),
    )
    assert (first.acknowledged_at, first.acknowledged_by, first.command) == (second(1), "operator", "c-1")
    assert (second_one.closed_at, second_one.acknowledged_at) == (None, None)


def test_a_parked_command_is_told_in_its_lane_and_its_end_in_the_stations() -> None:
    """The lane's row says why; the station's says what was done, first of all, and by which command."""
    lane, station = Chain(), Chain()
    lane.event("parked.added", "mic", "c-1", type="source.start", why="crashed", deliveries=3)
    station.event("parked.retried", "", "c-5", lane="p0", id="c-1", by="c-6")
    station.event("parked.dropped", "", "c-7", lane="p0", id="c-1")
    here, there = rows(PARKED, lane.events)["c-1"], rows(PARKED, station.events)["c-1"]
    assert (here.state, here.home, here.why, here.deliveries) == ("parked", None, "crashed", 3)
    assert (there.state, there.home, there.by) == ("retried", "p0", "c-6")


def test_weekly_tests_are_told_by_event_or_header() -> None:
    """Of all alerts the weekly tests count, whichever field says so."""
    chain = Chain()
    header = "ZCZC-EAS-RWT-048201+0015-0010000-KXYZ/FM -"
    chain.event("alert.received", "mic", event="RWT", header=header)
    chain.event("alert.received", "mic", event="TOR", header=header)
    chain.event("alert.received", "mic", header=header)
    chain.event("alert.burst", "mic", event="RWT")
    row = rows(WEEKLY_TESTS, chain.events)["mic"]
    assert (row.count, row.first_at, row.before_at, row.last_at) == (2, second(0), second(0), second(2))
