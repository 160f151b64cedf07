"""Who may lead and who may be promoted: the guard's decisions, each a pure function."""

from __future__ import annotations

import pytest

from control.guard import rules
from control.guard.rules import Address, Standing, must_start_cold

ONE, TWO, THREE = (("redis", port) for port in (1, 2, 3))


def test_who_leads_after_a_cold_start() -> None:
    """The server whose lane heads are furthest leads; of equals the last primary, else the first."""
    assert rules.furthest({"a": {"x": 3, "y": 1}, "b": {"x": 3, "y": 2}}, "a") == "b"
    assert rules.furthest({"a": {}, "b": {}, "c": {}}, "c") == "c"
    assert rules.furthest({"a": {}, "b": {}}, "gone") == "a"
    assert rules.furthest({"a": {"x": 9}, "b": {"x": 10}}, "a") == "b"


def test_a_lane_that_another_server_has_further_is_named() -> None:
    """What the chosen server lacks is told, lane by lane."""
    heads = {"a": {"x": 3, "y": 9}, "b": {"x": 4, "y": 2}, "c": {"z": 1}}
    assert rules.parted(heads, "a") == {"x": "b", "z": "c"}
    assert rules.parted({"a": {"x": 3}, "b": {"x": 3}}, "a") == {}


@pytest.mark.parametrize(
    ("said", "named", "priority"),
    [
        (Standing("master", None, False, 100), TWO, 0),
        (Standing("master", None, False, 0), TWO, None),
        (Standing("slave", TWO, True, 0), TWO, 100),
        (Standing("slave", TWO, False, 0), TWO, None),
        (Standing("slave", TWO, True, 100), TWO, None),
        (Standing("slave", THREE, True, 0), TWO, None),
        (Standing("master", None, False, 0), ONE, 100),
        (Standing("master", None, False, 100), None, None),
    ],
)
def test_who_may_be_promoted(said: Standing, named: Address | None, priority: int | None) -> None:
    """A second primary is hidden until its link to the named one is up; the named one never is."""
    assert rules.guarded_priority(ONE, said, named) == priority


def test_a_replica_is_not_hidden_because_its_primary_died() -> None:
    """The incident: the guard hid every replica of a dead primary, and nobody was left to promote."""
    assert rules.guarded_priority(ONE, Standing("slave", TWO, False, 100), TWO) is None


def test_when_all_servers_are_started_cold() -> None:
    """Only when the named primary is gone and nobody can, or after a minute nobody did, take its place."""
    three = ("redis-1", "redis-2", "redis-3")
    assert not must_start_cold(three, three, (), "redis-1", barren=0, unled=0)
    assert not must_start_cold(three, three[1:], (), "redis-1", barren=0, unled=30)
    assert must_start_cold(three, three[1:], (), "redis-1", barren=0, unled=61)
    assert not must_start_cold(three, (), (), "redis-1", barren=0.5, unled=0.5)
    assert must_start_cold(three, (), (), "redis-1", barren=1.5, unled=1.5)
    assert must_start_cold(three, three[1:], three[1:], "redis-1", barren=1.5, unled=1.5)
    assert not must_start_cold(three, three, three[1:], "redis-1", barren=9, unled=0)


def test_when_it_may_be_decided_who_leads() -> None:
    """With all heads known at once; late, with those of a majority, unless one still reads its data."""
    assert rules.settled_heads([ONE, TWO, THREE], [], 3, late=False)
    assert not rules.settled_heads([ONE, TWO], [], 3, late=False)
    assert rules.settled_heads([ONE, TWO], [], 3, late=True)
    assert not rules.settled_heads([ONE, TWO], [THREE], 3, late=True)
    assert not rules.settled_heads([ONE], [], 3, late=True)
