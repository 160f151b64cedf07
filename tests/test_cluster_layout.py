"""Who serves which slot, by what the nodes of a cluster say: pure functions, and settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from streams.cluster import Claim, Electing, Layout, View, parse, slot_of
from streams.names import StationKeys
from streams.routed import key_of
from streams.sentinel import Address
from streams.settings import InvalidSettings, load

A, B, C, D = (Address(f"10.0.0.{number}", number) for number in (1, 2, 3, 4))
NODES = """\
07c3 10.0.0.4:4@104 slave e7d1 0 1426238317239 4 connected
67ed 10.0.0.2:2@102,host-2 master - 0 1426238316232 2 connected 5461-10922
292f 10.0.0.3:3@103 master,fail? - 1 1426238318243 3 connected 10923-16383 [10923->-67ed]
6ec2 :0@0 master,fail,noaddr - 1 1426238318243 1 disconnected
e7d1 :1@101 myself,master - 0 0 1 connected 0-5459 5460
"""


def view(node: Address, *claims: Claim, failing: tuple[Address, ...] = (), id: str = "") -> View:
    return View(id or str(node), node, frozenset(claims), frozenset(failing), frozenset({A, B, C, D}))


def thirds(first: Address = A, epoch: int = 1) -> tuple[Claim, ...]:
    return Claim(epoch, first, 0, 5460), Claim(2, B, 5461, 10922), Claim(3, C, 10923, 16383)


def test_what_a_node_says_is_read() -> None:
    """Its own address where it knows none, ranges and single slots, and whom it cannot reach."""
    read = parse(NODES, A)
    claims = frozenset({Claim(1, A, 0, 5459), Claim(1, A, 5460, 5460), *thirds()[1:]})
    assert read == View("e7d1", A, claims, frozenset({C}), frozenset({A, B, C, D}))
    assert parse(NODES, A, by_name=True).nodes == {A, Address("host-2", 2), C, D}


def test_the_claim_with_the_highest_epoch_wins() -> None:
    """A former primary still claims its slots; whoever was elected in its place has a higher epoch."""
    layout = Layout([view(A, *thirds()), view(B, *thirds(D, 4)), view(C, *thirds(D, 4))])
    assert layout.primaries == (B, C, D)
    assert (layout.owner(0), layout.owner(16383)) == (D, C)
    assert layout.settled


def test_a_minority_is_not_believed() -> None:
    """One primary of three settles nothing, under however many names it is asked; two of three do."""
    alone = view(A, *thirds(), id="a")
    assert not Layout([alone]).settled
    assert not Layout([alone, view(A, *thirds(), id="a")]).settled
    assert not Layout([alone, view(D, *thirds())]).settled, "a replica votes for nobody"
    assert Layout([alone, view(B, *thirds())]).settled
    assert not Layout([]).settled


def test_a_primary_that_a_majority_misses_is_not_gone_to() -> None:
    """One that misses it may be the one cut off."""
    doubtful = [view(A, *thirds()), view(B, *thirds(), failing=(C,)), view(C, *thirds())]
    assert Layout(doubtful).owner(16383) == C
    failed = [view(A, *thirds(), failing=(C,)), view(B, *thirds(), failing=(C,))]
    with pytest.raises(Electing, match="has failed"):
        Layout(failed).owner(16383)
    assert Layout(failed).owner(0) == A


def test_a_slot_that_nobody_owns_is_told() -> None:
    """As long as slots are missing, those that are there are served."""
    layout = Layout([view(A, *thirds()[:2]), view(B, *thirds()[:2])])
    assert layout.uncovered == 16383 - 10922
    with pytest.raises(Electing, match="slot 16383"):
        layout.owner(16383)


def test_all_keys_of_a_lane_and_the_replies_to_it_are_in_one_slot() -> None:
    """So one function call, and the connection that WAITs for it, can touch them all."""
    keys = StationKeys("north")
    lane = keys.lane("p3")
    of_lane = [
        getattr(lane, name) for name in dir(type(lane)) if isinstance(getattr(type(lane), name), property)
    ]
    assert len(of_lane) >= 9
    assert {slot_of(key) for key in (*of_lane, keys.replies("{p3}.0123"))} == {slot_of("p3")}
    assert slot_of(b"p3") == slot_of("p3") != slot_of(keys.lane("p4").head)


@pytest.mark.parametrize(
    ("command", "key"),
    [
        (("HGET", "k", "field"), "k"),
        (("FCALL", "tocsin_x", 2, "k", "l", "arg"), "k"),
        (("FCALL_RO", "tocsin_version", 0), None),
        (("XREAD", "COUNT", 1, "BLOCK", 10, "STREAMS", "k", "0"), "k"),
        (("XINFO", "STREAM", "k"), "k"),
        (("WAIT", 1, 100), None),
        (("PING",), None),
    ],
)
def test_the_key_of_a_command_is_known(command: tuple[object, ...], key: str | None) -> None:
    """It says which server the command goes to."""
    assert key_of(command) == key


@pytest.mark.parametrize("other", ["url = 'redis://a:1'", "sentinels = ['a:1']"])
def test_a_cluster_is_set_alone(tmp_path: Path, other: str) -> None:
    """Beside another way to a primary it would not be clear which one is meant."""
    path = tmp_path / "station.toml"
    path.write_text(f"[redis]\ncluster = ['a:1', 'b:2']\n{other}\n")
    with pytest.raises(InvalidSettings, match=r"redis\.cluster: a cluster needs no redis\."):
        load(path, {})
    path.write_text("[redis]\ncluster = ['a:1', 'b:2']\n")
    assert load(path, {"TOCSIN_REDIS_CLUSTER": "c:3,d:4"}).redis.cluster == ("c:3", "d:4")
    path.write_text("[redis]\ncluster = ['a']\n")
    with pytest.raises(InvalidSettings, match="like host:port"):
        load(path, {})
