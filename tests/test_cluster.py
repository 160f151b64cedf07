"""A station on a Redis Cluster: the suite's own tests of path and exactness, and what only a cluster has."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest
from redis.exceptions import NoPermissionError

from control.checks.cluster import cluster as check
from streams import library
from streams.access import Role, rules, user_name
from streams.connection import Unreachable, connect
from streams.durability import Prover
from streams.messages import Answer, digest
from streams.readiness import make_ready
from streams.replay import replay
from streams.settings import RedisSection
from streams.submit import Signed, Submitter
from streams.tail import Tail
from tests import test_crash_points as crash_points
from tests.fix_cluster import Cluster
from tests.fix_owner import send
from tests.fix_streams import Hall, Scripted, insist, working
from tests.test_streams_owner import (  # noqa: F401
    process,
    said,
    test_a_lane_has_one_owner_and_the_next_goes_on,
    test_events_posted_from_any_thread_are_logged,
)
from tests.test_streams_submit import (  # noqa: F401
    test_if_sequence_lets_only_the_faster_of_two_through,
    test_many_at_once_in_order,
    test_other_bytes_under_the_same_id_are_a_conflict,
    test_ten_at_once_are_one,
    test_ten_at_once_without_an_owner_are_one_entry,
    test_the_same_command_again_gets_the_first_answer,
    test_the_submitter_gets_the_real_outcome,
)
from tests.test_streams_worker import (  # noqa: F401
    test_a_command_put_past_submit_is_replayed,
    test_commands_of_a_source_are_executed_in_the_order_of_their_submit,
)


@pytest.fixture
def hall(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hall]:
    """A station on this worker's cluster; what the suite's tests do in it is confirmed by a replica."""
    monkeypatch.setattr("streams.worker.IDLE", 0.2)
    monkeypatch.setattr("streams.submit.ASK_AGAIN", 0.2)
    made = Hall(cluster.redis, tmp_path)
    before = made.all_keys()
    yield made
    foreign = made.all_keys() - before - made.own_keys()
    made.close()
    assert not foreign, f"keys without the station's prefix: {sorted(foreign)}"


def test_lanes_of_all_shards_are_served_side_by_side(hall: Hall, cluster: Cluster) -> None:
    """One submitter, many lanes: accepted in one call, answered in their lanes, each log whole and readable.

    The replies to a lane's commands lie in its slot, where the owner can write them.
    """
    # Given a lane with each primary, and an owner for each,
    lanes = sorted(cluster.lanes(hall.settings.station.id).values())
    assert len(lanes) == 3
    prover = Prover(cluster.redis)
    submitter = hall.submitter(prover)
    commands = [hall.command("source.update", f"s{n % 2}", lane=lane) for n in range(6) for lane in lanes]
    with ExitStack() as stack:
        for lane in lanes:
            hall.lane = lane
            stack.enter_context(working(hall, Scripted(), prover=prover))
        # when commands for all are submitted at once,
        assert submitter.accept_all(commands, timeout=5) == [None] * len(commands)
        answers: dict[str, Answer] = {}
        while len(answers) < len(commands):
            received = submitter.receive(5)
            assert received, "answers are missing"
            answers |= {answer.id: answer for answer in received}
    # I expect each answered once and in order, where asking again says the same,
    assert {answer.outcome for answer in answers.values()} == {"completed"}
    assert submitter.accept_all(commands, timeout=5) == [answers[one.command.id] for one in commands]
    for lane in lanes:
        keys = hall.station.lane(lane)
        mine = [one.command.id for one in commands if one.command.lane == lane]
        by_source = [[answers[id].sequence for id in mine[start::2]] for start in (0, 1)]
        assert by_source == [[1, 2, 3], [1, 2, 3]]
        # a log that verifies, and a reader who sees all of it.
        hall.lane, hall.keys = lane, keys
        assert hall.verdict().fault is None
        assert set(mine) <= hall.results().keys()
        read = Tail(hall.new_link("tail"), keys).read(block=5)
        assert [one.event.seq for one in read] == [one.event.seq for one in replay(hall.link, keys)]
    replies = {key for key in hall.own_keys() if ":replies:" in key}
    assert {key.split("{")[1].split("}")[0] for key in replies} == set(lanes)


def test_unsigned_and_altered_commands_have_no_effect(hall: Hall) -> None:
    """They are rejected with their reasons, logged, and nothing is executed."""
    handler, submitter = Scripted(), hall.submitter()
    stop, restart = hall.command("source.stop"), hall.command("source.restart")
    bare = Signed(stop.command, stop.raw, "")
    altered = msgspec.structs.replace(restart, raw=restart.raw.replace(b"source.restart", b"source.remove"))
    with working(hall, handler):
        assert submitter.submit(bare).reason == "unsigned"
        assert submitter.submit(altered).reason == "bad_signature"
    assert handler.executed == []
    assert hall.results() == {one.command.id: ["rejected"] for one in (stop, restart)}


def test_a_worker_killed_in_the_middle_of_a_command_leaves_one_result(hall: Hall) -> None:
    """SIGKILL while a command is executed: the next process executes it again, and it has one result."""
    done, cut = hall.command(source="a"), hall.command(source="b")
    submitter = hall.submitter()
    with process(hall, slow=cut.command.id) as first:
        assert submitter.submit(done, timeout=20).outcome == "completed"
        send(hall, cut)
        said(first, f"execute {cut.command.id}")
        first.kill()
        first.wait(10)
    hall.link.call("DEL", hall.keys.lease)
    with process(hall, slow="") as second:
        assert insist(submitter, cut).outcome == "completed"
        said(second, f"execute {cut.command.id}")
    assert hall.results() == {one.command.id: ["completed"] for one in (done, cut)}
    assert hall.verdict().fault is None


@pytest.mark.parametrize("step", ["leased", "appended", "proven", "executed"])
def test_an_owner_killed_at_a_step_leaves_one_result_each(hall: Hall, step: str) -> None:
    """Some of the crashes of test_crash_points.py, where what is proven is proven by a real replica."""
    crash_points.test_an_owner_killed_at_a_step_leaves_one_result_each(hall, step, 1)


@pytest.mark.parametrize("client", ["elsewhere", "{p2}.x", "a b\n\x00"])
@pytest.mark.parametrize("level", ["memory", "replica"])
def test_a_client_with_no_reply_stream_here_stops_no_lane(hall: Hall, client: str, level: str) -> None:
    """Whoever gives a name without the lane's hash tag is not replied to, and can ask by the id."""
    odd = hall.command(durability=level)
    keys = hall.keys
    with working(hall, Scripted()):
        hall.link.call(
            "FCALL", "tocsin_submit", 4, keys.commands, keys.ids, keys.id_expiry, keys.sequence,
            odd.command.id, digest(odd.raw), odd.command.source, odd.raw, odd.signature, client, "",
        )  # fmt: skip
        assert hall.submitter().submit(hall.command(), timeout=10).outcome == "completed"
        assert insist(hall.submitter(), odd).outcome == "completed"


def test_the_functions_are_loaded_on_every_primary(hall: Hall, cluster: Cluster) -> None:
    """A process that makes ready brings them to a primary that has none or others, and skips none."""
    link = connect(cluster.redis, "test")
    first, second, third = link.primaries()
    first.call("FUNCTION", "FLUSH")
    second.call("FUNCTION", "LOAD", "REPLACE", library.source().replace("'tocsin_version'", "'tocsin_other'"))
    assert [library.loaded_version(one) for one in (first, second)] == [None, None]
    make_ready(cluster.redis, "test", threading.Event())
    assert {library.loaded_version(one) for one in (first, second, third)} == {library.version()}
    link.close()


def test_a_batch_over_several_primaries_keeps_its_order(hall: Hall) -> None:
    """Each reply stands where its command did; an error of one is its own."""
    names = [hall.station.node(f"n{number}") for number in range(8)]
    batch: list[tuple[object, ...]] = [("HSET", name, "x", index) for index, name in enumerate(names)]
    batch += [("HGET", name, "x") for name in names]
    batch.append(("GET", names[0]))
    replies = hall.link.batch(batch)
    assert replies[:16] == [1] * 8 + [str(index).encode() for index in range(8)]
    assert "WRONGTYPE" in str(replies[16]) or "wrong kind" in str(replies[16])


def test_why_no_node_tells_of_the_cluster_is_told(cluster: Cluster, valkey_server: RedisSection) -> None:
    """A wrong password, a server that is none of a cluster, one that is not there: each says so at once."""
    alone = valkey_server.url.removeprefix("redis://").removesuffix("/0")
    for seeds, password, why in (
        (cluster.redis.cluster, "wrong", "invalid username-password"),
        ((alone,), valkey_server.password, "cluster support disabled"),
        (("127.0.0.1:1",), "", "refused"),
    ):
        section = RedisSection(cluster=seeds, password=password)
        with pytest.raises(Unreachable, match=why) as caught:
            connect(section, "test").call("PING")
        assert not caught.value.sent
        finding = check(section)
        assert finding.verdict == "trouble"
        assert why in finding.told
    assert check(cluster.redis).verdict == "ok"


def test_each_role_has_what_it_needs_on_a_cluster(hall: Hall, cluster: Cluster) -> None:
    """A submitter, an owner and a reader, each as its role's own user, who may do no more."""
    station = hall.settings.station.id
    with ExitStack() as stack:
        for role in ("ingest", "submitter", "reader"):
            user = user_name(station, role)
            granted = re.findall(r"\([^)]*\)|\S+", rules(station, role))
            for name in cluster.NAMES:
                cluster.ask(name, "ACL", "SETUSER", user, "on", ">word", *granted)
                stack.callback(cluster.ask, name, "ACL", "DELUSER", user)

        def of(role: Role) -> RedisSection:
            user = user_name(station, role)
            return msgspec.structs.replace(cluster.redis, username=user, password="word")

        with working(hall, Scripted(), redis=of("ingest"), prover=Prover(of("ingest"))):
            submitter = Submitter(
                hall.settings, hall.new_link("submit", of("submitter")), Prover(of("submitter"))
            )
            assert submitter.submit(hall.command(), timeout=10).outcome == "completed"
        reader = hall.new_link("read", of("reader"))
        assert len(Tail(reader, hall.keys).read(block=5)) == len(hall.events())
        with pytest.raises(NoPermissionError):
            reader.call("DEL", hall.keys.events)
