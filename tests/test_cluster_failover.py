"""A shard of a Redis Cluster fails, or its slots move, while commands flow: what was told still holds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest

from control.checks.cluster import cluster as check
from streams import cluster as ring
from streams import durability
from streams.connection import Unreachable
from streams.durability import NotDurable, Prover
from streams.faults import FAULTS
from streams.sentinel import Address
from streams.settings import RedisSection
from streams.submit import InDoubt, Signed
from tests.fix_cluster import Cluster
from tests.fix_load import Load, check_told
from tests.fix_servers import eventually
from tests.fix_streams import Hall, Scripted, insist, working

pytestmark = pytest.mark.slow
NEAR, FAR = "p0", "p2"
"""Two lanes whose slots lie with different servers."""


@pytest.fixture(autouse=True)
def _whole(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test finds the cluster whole and leaves it so."""
    monkeypatch.setattr("streams.worker.IDLE", 0.2)
    yield
    cluster.wait_until_whole()


def longest_silence(load: Load, until: Callable[[], bool]) -> float:
    """The longest time without an answer until `until()`."""
    longest, count, since = 0.0, len(load.answers), time.monotonic()
    while not until():
        if len(load.answers) > count:
            count, since = len(load.answers), time.monotonic()
        longest = max(longest, time.monotonic() - since)
    return longest


@pytest.mark.parametrize("how", ["killed", "paused"])
def test_what_was_answered_holds_after_a_failover_of_its_shard(
    cluster: Cluster, tmp_path: Path, how: str
) -> None:
    """All that the suite says of a failover with Sentinels; meanwhile the lanes of other shards go on."""
    # Given two lanes in different shards, with owners, operators and readers,
    halls = [Hall(cluster.redis, tmp_path / lane, lane=lane) for lane in (NEAR, FAR)]
    prover = Prover(cluster.redis)
    struck, spared = loads = [Load(hall, prover, operators=2) for hall in halls]
    key = halls[0].keys.head
    old = cluster.primary_of(key)
    assert cluster.primary_of(halls[1].keys.head) != old
    with ExitStack() as stack:
        for hall, load in zip(halls, loads, strict=True):
            stack.enter_context(working(hall, Scripted(), prover=prover))
            stack.enter_context(load.at_work())
        struck.flows(20)
        spared.flows(20)
        # when the primary of one is lost, and comes back as its supervisor does it,
        began = time.monotonic()
        cluster.kill(old) if how == "killed" else cluster.pause(old)
        silence = longest_silence(spared, lambda: cluster.has_left(key, old))
        cluster.restart(old) if how == "killed" else cluster.resume(old)
        # I expect commands to flow again,
        struck.flows(20)
        print(f"confirmed again {time.monotonic() - began:.1f} s after it was {how}; {silence=:.2f} s")
    # the other lane to have noticed nothing,
    assert silence < 1.5
    # and all that was told to stand.
    for hall, load in zip(halls, loads, strict=True):
        check_told(hall, load)
        hall.close()


def test_what_only_the_lost_primary_of_a_shard_had_is_put_back_by_the_owner(
    cluster: Cluster, tmp_path: Path
) -> None:
    """At `memory` the shard's failover takes the end of the log; the owner puts it back as it was."""
    hall, handler = Hall(cluster.redis, tmp_path, durability="memory", lane=NEAR), Scripted()
    old = cluster.primary_of(hall.keys.head)
    replica = cluster.replica_of(old)
    with working(hall, handler):
        submitter = hall.submitter()
        kept = [submitter.submit(hall.command(source="kept")) for _ in range(3)]
        # Given a primary whose replica has stopped listening,
        cluster.ask(old, "CONFIG", "SET", "min-replicas-to-write", 0)
        cluster.ask(old, "WAIT", 1, 1000)
        cluster.ask(replica, "CONFIG", "SET", "masterauth", "no way in")
        cluster.ask(old, "CLIENT", "KILL", "TYPE", "replica")
        commands = [hall.command(source="lost") for _ in range(5)]
        lost = [submitter.submit(command) for command in commands]
        before = hall.events()
        # if it is lost, and the replica leads,
        cluster.kill(old)
        assert cluster.wait_for_other_primary(hall.keys.head, old) == replica
        cluster.ask(replica, "CONFIG", "SET", "masterauth", cluster.password)
        cluster.restart(old)
        # I expect the owner to put back what it alone has, and the same answers.
        after = insist(submitter, hall.command(source="after"))
        hall.link.close()
        log = hall.events()
        assert [(one.raw, one.hash) for one in log[: len(before)]] == [(one.raw, one.hash) for one in before]
        assert [insist(submitter, command) for command in commands] == lost
    assert after.outcome == "completed"
    assert "log.restored" in {one.event.type for one in log}
    assert hall.verdict().fault is None
    assert len(handler.executed) == len(hall.results()) == len(kept) + len(lost) + 1
    hall.close()


@pytest.mark.parametrize("how", ["as a whole", "key by key"])
def test_a_lane_that_moves_to_another_server_loses_nothing(
    cluster: Cluster, tmp_path: Path, how: str
) -> None:
    """When a lane's slot moves while commands flow, owner, operators and reader follow it by themselves."""
    hall = Hall(cluster.redis, tmp_path, lane=NEAR)
    prover = Prover(cluster.redis)
    load = Load(hall, prover, operators=2)
    slot, source = ring.slot_of(hall.keys.head), cluster.primary_of(hall.keys.head)
    target = next(name for name in cluster.lanes("any") if name != source)
    with working(hall, Scripted(), prover=prover), load.at_work():
        load.flows(20)
        if how == "as a whole":
            cluster.move(slot, source, target)
        else:
            # What asks meanwhile finds some keys here, some there, and waits.
            assert cluster.move_key_by_key(slot, source, target) >= 5
        load.flows(20)
        assert cluster.primary_of(hall.keys.head) == target
    check_told(hall, load)
    hall.close()
    cluster.move_key_by_key(slot, target, source)


def test_what_a_shard_refuses_is_told_by_its_name(cluster: Cluster, tmp_path: Path) -> None:
    """Keys on their way to another server, and a slot that nobody serves, are faults that pass or are mended.

    The doctor counts slots without a primary, and says what to do.
    """
    hall = Hall(cluster.redis, tmp_path, lane=NEAR)
    keys, slot = hall.keys, ring.slot_of(hall.keys.head)
    source = cluster.primary_of(keys.head)
    target = next(name for name in cluster.lanes("any") if name != source)
    hall.link.call("HSET", keys.head, "seq", 1)

    def told(*command: str, at: RedisSection = cluster.redis) -> str:
        link = hall.new_link(redis=at)
        with pytest.raises(Unreachable) as caught:
            link.call(*command)
        assert caught.value.fault is not None
        assert not caught.value.sent
        return caught.value.fault.code

    elsewhere = RedisSection(url=f"redis://127.0.0.1:{cluster.port(target)}/0", password=cluster.password)
    assert told("HGET", keys.head, "seq", at=elsewhere) == "MOVED"
    cluster.ask(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", cluster.id(source))
    cluster.ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", cluster.id(target))
    assert told("HGET", keys.lease, "x") == "TRYAGAIN"  # it answered ASK
    assert told("UNLINK", keys.head, keys.lease) == "TRYAGAIN"
    for name in (source, target):
        cluster.ask(name, "CLUSTER", "SETSLOT", slot, "STABLE")
    assert hall.link.call("HGET", keys.head, "seq") == b"1"

    link = hall.link.at(keys.head)
    assert link.call("HGET", keys.head, "seq") == b"1"
    hall.link.call("UNLINK", keys.head)
    # A node that still hears the former owner's last word takes the slot for its again.
    eventually(lambda: cluster.deserted(keys.head), "a slot that is nobody's")
    try:
        with pytest.raises(Unreachable) as caught:
            link.call("HGET", keys.head, "seq")
        assert caught.value.fault is FAULTS["CLUSTERDOWN"]
        assert told("HGET", keys.head, "seq") == "ELECTING"
        found = check(cluster.redis)
        assert (found.verdict, "1 of 16384 slots are nobody's" in found.told) == ("trouble", True)
        assert "ADDSLOTSRANGE" in found.next
    finally:
        cluster.ask(source, "CLUSTER", "ADDSLOTS", slot)
    eventually(lambda: cluster._owners(keys.head) == {source}, "the slot served again")
    hall.close()


def test_the_doctor_names_a_shard_that_has_failed(cluster: Cluster) -> None:
    """While none of its replicas is elected, its primary is named; the others answer."""
    old = cluster.primary_of("any")
    replica = cluster.replica_of(old)
    cluster.ask(replica, "CONFIG", "SET", "cluster-replica-no-failover", "yes")
    address = f"127.0.0.1:{cluster.port(old)}"
    cluster.kill(old)
    try:
        eventually(lambda: f"failed: {address}" in check(cluster.redis).told, "the failed one named")
        found = check(cluster.redis)
        assert (found.verdict, found.next) == ("warning", FAULTS["ELECTING"].next)
    finally:
        cluster.restart(old)
        cluster.ask(replica, "CONFIG", "SET", "cluster-replica-no-failover", "no")


def test_without_its_replica_a_shard_confirms_nothing_and_says_so(cluster: Cluster, tmp_path: Path) -> None:
    """With its one replica away a command is in doubt or refused, and confirmed once the replica is back."""
    hall = Hall(cluster.redis, tmp_path, lane=NEAR)
    replica = cluster.replica_of(cluster.primary_of(hall.keys.head))
    command, other = hall.command(), Hall(cluster.redis, tmp_path / "other", lane=FAR)
    cluster.pause(replica)
    try:
        with pytest.raises((InDoubt, Unreachable)):
            hall.submitter().accept(command, timeout=0.6)
        # The other shard has its own, and waits for nobody.
        began = time.monotonic()
        assert other.submitter(Prover(cluster.redis)).accept(other.command(), timeout=5) is None
        assert time.monotonic() - began < 2
    finally:
        cluster.resume(replica)
    eventually(lambda: accepted(hall, command), "the command is accepted")
    assert hall.waiting() == 1
    hall.close()
    other.close()


def accepted(hall: Hall, command: Signed) -> bool:
    """Whether it was accepted now."""
    try:
        return hall.submitter().accept(command, timeout=2) is None
    except (InDoubt, Unreachable):
        return False


def test_a_primary_is_confirmed_by_a_majority_of_all_primaries(cluster: Cluster, tmp_path: Path) -> None:
    """One silent primary of three is none the less outvoted; with two silent nobody is believed.

    Then nothing is found or written, and that is said at once.
    """
    hall = Hall(cluster.redis, tmp_path, lane=NEAR)
    leader = cluster.primary_of(hall.keys.head)
    address = Address("127.0.0.1", cluster.port(leader))
    first, second = (name for name in cluster.lanes("any") if name != leader)
    assert ring.confirmed(cluster.redis, address)
    assert not ring.confirmed(cluster.redis, Address("127.0.0.1", cluster.port(cluster.replica_of(leader))))
    cluster.pause(first)
    try:
        assert ring.confirmed(cluster.redis, address)
        assert check(cluster.redis).verdict == "warning"
        cluster.pause(second)
        assert not ring.confirmed(cluster.redis, address)
        assert check(cluster.redis).next == FAULTS["NOMAJORITY"].next
        with pytest.raises(Unreachable, match="majority is needed") as caught:
            hall.new_link().call("HGETALL", hall.station.sources)
        assert (caught.value.fault, caught.value.sent) == (FAULTS["NOMAJORITY"], False)
    finally:
        cluster.resume(first)
        cluster.resume(second)
    hall.close()


def test_fewer_replicas_count_after_the_hold_at_their_own_primary_only(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two replicas that are configured one is missing everywhere: each primary has a hold of its own."""
    monkeypatch.setattr(durability, "HOLD", 0.5)
    hall = Hall(cluster.redis, tmp_path, lane=NEAR)
    prover = Prover(msgspec.structs.replace(cluster.redis, replicas=2))
    near, far = (hall.link.at(hall.station.lane(lane).head) for lane in (NEAR, FAR))
    mark, other = (("HINCRBY", hall.station.lane(lane).head, "mark", 1) for lane in (NEAR, FAR))
    with pytest.raises(NotDurable):
        prover.prove(near, mark, "replica", timeout=0.3)
    prover.prove(near, mark, "replica", timeout=5)
    assert prover.command("replica", near) == ("WAIT", 1, durability.WAIT_MS)
    # What holds for one primary was not learned of the other.
    far.call(*other)
    assert prover.command("replica", far) == ("WAIT", 2, durability.WAIT_MS)
    with pytest.raises(NotDurable):
        prover.prove(far, other, "replica", timeout=0.3)
    hall.close()
