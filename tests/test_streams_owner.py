"""The owner of a lane, on a real server: exactly one result for each command, whatever happens in between."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from streams.admission import Task
from streams.drafts import Draft, Post
from streams.handler import Result
from streams.messages import Answer, canonical, decode_answer
from streams.signing import InvalidKey
from streams.submit import NoAnswer, Signed
from tests.fix_owner import Gate, answer_of, result_of, send
from tests.fix_servers import eventually
from tests.fix_streams import DONE, LANE, Functions, Hall, Scripted, Wire, insist, working
from tests.test_streams_connection import kill_clients

PROGRAM = Path(__file__).parent / "programs" / "lane_worker.py"


# The lease


def test_a_lane_has_one_owner_and_the_next_goes_on(hall: Hall) -> None:
    """The second waits while the first holds it, folds the log when it gets it, and numbers go on."""
    first, second = Scripted(), Scripted()
    with working(hall, first, node="one"):
        assert answer_of(hall, hall.command()).sequence == 1
        with working(hall, second, node="two", wait=False) as waiting:
            assert not waiting.owned.wait(0.3)
    with working(hall, second, node="two"):
        assert answer_of(hall, hall.command()).sequence == 2
    assert (len(first.executed), len(second.executed)) == (1, 1)
    assert len(second.restored) == 1
    assert len(second.restored[0]) == 3
    types = [logged.event.type for logged in hall.events()]
    assert types == ["lane.acquired", "command.completed", "lane.released"] * 2
    assert [logged.event.node for logged in hall.events()] == ["one"] * 3 + ["two"] * 3


def test_a_worker_whose_lease_was_taken_never_appends(hall: Hall, functions: Functions) -> None:
    """The former owner's result is fenced, however late it comes; it stops what runs and waits."""
    gate = Gate("kwfm")
    handler = Scripted(gate)
    command = hall.command()
    with working(hall, handler) as worker:
        send(hall, command)
        assert gate.entered.wait(10)
        hall.link.call("DEL", hall.keys.lease)
        thief = functions.acquire("thief")
        log = hall.events()
        gate.release.set()
        assert handler.post is not None
        handler.post(Draft(type="source.running", source="kwfm", data={}))
        eventually(lambda: handler.ended == 1, "the handler told")
        assert not worker.owned.is_set()
        assert hall.events() == log
        assert hall.waiting() == 1
        hall.link.call("PEXPIRE", hall.keys.lease, 1)
        assert answer_of(hall, command).outcome == "completed"
    assert thief.token < hall.events()[-1].event.token
    assert hall.results() == {command.command.id: ["completed"]}
    assert hall.verdict().fault is None


def test_two_owners_and_a_slow_command_make_one_result(hall: Hall, wire: Wire) -> None:
    """The lane moves while a command is executed: the new owner settles it, the former one cannot."""
    gate = Gate("kwfm")
    slow, quick = Scripted(gate), Scripted()
    command, other = hall.command(), hall.command(source="other")
    with working(hall, slow, node="one", redis=wire.redis):
        send(hall, command)
        assert gate.entered.wait(10)
        wire.cut()
        hall.link.call("PEXPIRE", hall.keys.lease, 1)
        with working(hall, quick, node="two"):
            assert answer_of(hall, command).outcome == "completed"
            wire.mend()
            eventually(lambda: slow.ended == 1, "the former owner told")
            assert slow.executed[0].cancelled.is_set()
            gate.release.set()
            assert answer_of(hall, other).outcome == "completed"
    assert hall.results() == {one.command.id: ["completed"] for one in (command, other)}
    assert [task.command.id for task in quick.executed] == [command.command.id, other.command.id]
    assert {one.event.node for one in hall.events() if one.event.command} == {"two"}
    assert hall.verdict().fault is None


def test_a_command_cancelled_by_a_loss_is_executed_again_by_the_same_owner(
    hall: Hall, functions: Functions
) -> None:
    """A start that was cut off because the lane was lost is not "superseded": nothing overtook it."""
    runs: list[Task] = []

    def play(task: Task) -> Result:
        runs.append(task)
        if len(runs) == 1:
            assert task.cancelled.wait(20)
            regained.wait(20)
            return Result(outcome="superseded")
        return DONE

    regained = threading.Event()
    handler = Scripted(play)
    command = hall.command()
    with working(hall, handler):
        send(hall, command)
        eventually(lambda: runs, "the start tried")
        hall.link.call("DEL", hall.keys.lease)
        functions.acquire("thief")
        eventually(lambda: handler.ended == 1, "the loss noticed")
        hall.link.call("DEL", hall.keys.lease)
        eventually(lambda: handler.begun == 2, "the lane regained")
        regained.set()
        answer = answer_of(hall, command)
    assert (answer.outcome, answer.by) == ("completed", None)
    assert hall.results() == {command.command.id: ["completed"]}


def test_a_release_leaves_what_waits_to_the_next_owner(hall: Hall) -> None:
    """A worker that stops finishes what runs, hands out nothing more, logs the release and frees the lane."""
    gate = Gate("kwfm")
    handler, successor = Scripted(gate), Scripted()
    commands = [hall.command("source.update") for _ in range(3)]

    def release_once_it_leaves() -> None:
        eventually(lambda: not worker.owned.is_set(), "the owner leaving")
        gate.release.set()

    stopper = threading.Thread(target=release_once_it_leaves)
    with working(hall, handler) as worker:
        for command in commands:
            send(hall, command)
        assert gate.entered.wait(10)
        stopper.start()
    stopper.join()
    assert [task.command.id for task in handler.executed] == [commands[0].command.id]
    assert handler.ended == 1
    assert hall.events()[-1].event.type == "lane.released"
    assert hall.link.call("EXISTS", hall.keys.lease) == 0
    assert hall.results() == {commands[0].command.id: ["completed"]}
    with working(hall, successor):
        for command in commands:
            assert answer_of(hall, command).outcome == "completed"
    assert [task.command.id for task in successor.executed] == [one.command.id for one in commands[1:]]


def test_a_release_does_not_wait_for_a_command_that_hangs(hall: Hall) -> None:
    """It is cancelled and stays pending: the next owner executes it, and the late result is nothing."""
    gate = Gate("kwfm")
    command = hall.command()
    handler = Scripted(gate)
    with working(hall, handler):
        send(hall, command)
        assert gate.entered.wait(10)
    assert handler.executed[0].cancelled.is_set()
    with working(hall, Scripted(), node="two"):
        assert answer_of(hall, command).outcome == "completed"
        gate.release.set()
    assert hall.results() == {command.command.id: ["completed"]}
    assert hall.verdict().fault is None


# Interruptions


def test_an_interrupted_owner_goes_on_without_folding_again(hall: Hall) -> None:
    """Its connections break: it re-acquires at once, its handler reconciles and keeps its memory."""
    handler = Scripted()
    with working(hall, handler):
        answer_of(hall, hall.command())
        kill_clients(hall.link, f"tocsin-one-{LANE}-take")
        kill_clients(hall.link, f"tocsin-one-{LANE}-log")
        eventually(lambda: handler.begun == 2, "the lane acquired again")
        assert answer_of(hall, hall.command()).outcome == "completed"
    assert len(handler.restored) == 1
    assert handler.ended == 1


def test_a_command_in_progress_is_not_begun_anew_by_an_interruption(hall: Hall) -> None:
    """What is being executed here, or waits here, is pending on the server too: it is not taken for new."""
    gate = Gate("kwfm")
    handler = Scripted(gate)
    commands = [hall.command("source.update") for _ in range(3)]
    with working(hall, handler):
        for command in commands:
            send(hall, command)
        assert gate.entered.wait(10)
        kill_clients(hall.link, f"tocsin-one-{LANE}-take")
        eventually(lambda: handler.begun == 2, "the lane acquired again")
        last = hall.command(source="other")
        assert answer_of(hall, last).outcome == "completed"
        gate.release.set()
        for command in commands:
            assert answer_of(hall, command).outcome == "completed"
    ids = [task.command.id for task in handler.executed if task.command.source == "kwfm"]
    assert ids == [command.command.id for command in commands]


LOST = ("tocsin_acquire", "tocsin_take", "tocsin_append", "tocsin_raise", "tocsin_renew", "XREAD")


@pytest.mark.parametrize("what", ["request", "reply"])
@pytest.mark.parametrize("name", LOST)
def test_a_lost_request_or_reply_costs_nothing(
    hall: Hall, wire: Wire, monkeypatch: pytest.MonkeyPatch, name: str, what: Any
) -> None:
    """Wherever the connection breaks, each command is executed in order and has one result."""
    monkeypatch.setattr("streams.worker.RENEW", 0.1)
    handler = Scripted()
    commands = [hall.command("source.update", source=f"s{n % 3}") for n in range(12)]
    with working(hall, handler, redis=wire.redis):
        if name in ("tocsin_acquire", "tocsin_raise"):
            kill_clients(hall.link, f"tocsin-one-{LANE}-take")
        wire.lose(name, what)
        for command in commands:
            send_until_known(hall, command)
        for command in commands:
            assert answer_of(hall, command).outcome == "completed"
        assert wire.lost.wait(10)
        assert answer_of(hall, hall.command()).outcome == "completed"
    assert all(hall.results()[command.command.id] == ["completed"] for command in commands)
    for source in ("s0", "s1", "s2"):
        logged = [one.event.data["sequence"] for one in hall.events() if one.event.source == source]
        assert logged == [1, 2, 3, 4]
    assert hall.verdict().fault is None
    assert hall.waiting() == 0


def send_until_known(hall: Hall, command: Signed) -> None:
    hall.submitter().accept(command, timeout=5)


def test_answers_that_are_lost_again_and_again_park_nothing(hall: Hall, wire: Wire) -> None:
    """Only crashes count: a command whose delivery was lost on the way six times is executed all the same."""
    command = hall.command()
    with working(hall, Scripted(), redis=wire.redis, wait=False):
        for _ in range(6):
            wire.lose("tocsin_take", "reply")
            if hall.waiting() == 0:
                send(hall, command)
            assert wire.lost.wait(10)
        assert answer_of(hall, command).outcome == "completed"
    assert result_of(hall, command).deliveries == 1


@contextmanager
def storm(hall: Hall, *prefixes: str) -> Iterator[list[int]]:
    """Keep closing connections whose names begin so, at random moments, until the block ends."""
    stop = threading.Event()
    killed: list[int] = []
    link = hall.new_link("storm")
    dice = random.Random(7)

    def rage() -> None:
        while not stop.wait(dice.uniform(0.005, 0.06)):
            for line in link.call("CLIENT", "LIST").decode().splitlines():
                fields = dict(part.split("=", 1) for part in line.split(" ") if "=" in part)
                if fields["name"].startswith(prefixes) and dice.random() < 0.3:
                    killed.append(int(link.call("CLIENT", "KILL", "ID", fields["id"])))

    thread = threading.Thread(target=rage)
    thread.start()
    try:
        yield killed
    finally:
        stop.set()
        thread.join(10)


def test_a_storm_of_broken_connections_leaves_one_result_each(hall: Hall) -> None:
    """200 commands from 4 submitters while all connections, owner's and submitters', break again and again.

    Each command is answered, has one result, in order per source, and the log verifies.
    """
    handler = Scripted()

    def operate(who: int) -> list[Answer]:
        submitter = hall.submitter()
        return [insist(submitter, hall.command("source.update", source=f"s{who}-{n % 5}")) for n in range(50)]

    with (
        working(hall, handler),
        storm(hall, "tocsin-one-", "tocsin-submit") as killed,
        ThreadPoolExecutor(4) as pool,
    ):
        answers = [answer for some in pool.map(operate, range(4)) for answer in some]
    assert sum(killed) > 5
    assert [answer.outcome for answer in answers] == ["completed"] * 200
    assert sorted(hall.results()) == sorted(answer.id for answer in answers)
    assert all(len(outcomes) == 1 for outcomes in hall.results().values())
    for source in {task.command.source for task in handler.executed}:
        logged = [one.event.data["sequence"] for one in hall.events() if one.event.source == source]
        assert logged == list(range(1, 11))
    assert hall.verdict().fault is None
    assert hall.waiting() == 0


def test_a_burst_in_a_storm_of_broken_connections_keeps_its_order(hall: Hall) -> None:
    """Many commands of few sources wait at once, so that interruptions meet commands in every stage."""
    handler = Scripted()
    commands = [hall.command("source.update", source=f"s{n % 4}") for n in range(200)]
    submitter = hall.submitter()
    for command in commands:
        submitter.accept(command, timeout=5)
    with working(hall, handler), storm(hall, "tocsin-one-"):
        eventually(lambda: hall.waiting() == 0, "all settled", 60)
    assert {tuple(outcomes) for outcomes in hall.results().values()} == {("completed",)}
    assert len(hall.results()) == 200
    for source in ("s0", "s1", "s2", "s3"):
        logged = [one.event.data["sequence"] for one in hall.events() if one.event.source == source]
        assert logged == list(range(1, 51))
        tried = [task.sequence for task in handler.executed if task.command.source == source]
        assert tried == sorted(set(tried)), "executed twice, or out of order"
    assert hall.verdict().fault is None


def test_whatever_fails_in_the_room_the_owner_comes_back(hall: Hall) -> None:
    """A handler that cannot begin, or a key file that cannot be read, is no reason to give the lane up."""

    class Clumsy(Scripted):
        def attempt(self, task: Task) -> Result | None:
            return None

        def begin(self, post: Post) -> None:
            super().begin(post)
            if self.begun == 1:
                raise RuntimeError("not yet")

    handler = Clumsy()
    broken = threading.Event()
    broken.set()

    def keyring() -> dict[str, Any]:
        if broken.is_set():
            raise InvalidKey("a key file is open to others")
        return hall.keyring

    with working(hall, handler) as worker:
        worker._keyring = keyring
        command = hall.command()
        with pytest.raises(NoAnswer):
            hall.submitter().submit(command, timeout=0.5)
        broken.clear()
        answer = answer_of(hall, command)
        assert answer.outcome == "completed" or answer.reason == "parked"
        assert answer_of(hall, hall.command()).outcome == "completed"
    assert handler.begun > 1


def test_an_owner_makes_the_functions_and_the_group_anew(hall: Hall) -> None:
    """Without the library it loads it; a group that vanished is made again."""
    hall.link.call("FUNCTION", "DELETE", "tocsin")
    with working(hall, Scripted(), wait=False) as worker:
        assert worker.owned.wait(10)
        assert answer_of(hall, hall.command()).outcome == "completed"
        hall.link.call("XGROUP", "DESTROY", hall.keys.commands, "ingest")
        assert answer_of(hall, hall.command()).outcome == "completed"
    assert hall.verdict().fault is None


def test_a_lane_without_a_connection_left_behind(hall: Hall) -> None:
    """A worker that ended has closed all its connections, or closes them as its threads end."""
    with working(hall, Scripted()):
        answer_of(hall, hall.command())
    eventually(lambda: b"tocsin-one-" not in hall.link.call("CLIENT", "LIST"), "all connections closed", 5)


def test_events_posted_from_any_thread_are_logged(hall: Hall) -> None:
    """What a room observes goes into the log between results, whoever observed it."""
    handler = Scripted()
    with working(hall, handler), ThreadPoolExecutor(4) as pool:
        assert handler.post is not None
        post = handler.post
        drafts = [Draft(type="source.stalled", source="kwfm", data={"reason": str(n)}) for n in range(40)]
        list(pool.map(post, drafts))
        answer_of(hall, hall.command())
    reasons = {one.event.data["reason"] for one in hall.events() if one.event.type == "source.stalled"}
    assert reasons == {str(n) for n in range(40)}
    assert hall.verdict().fault is None


def test_an_answer_is_the_same_in_reply_mark_and_log(hall: Hall) -> None:
    """Whichever way the submitter learns it, it is the same."""
    command = hall.command()
    submitter = hall.submitter()
    with working(hall, Scripted()):
        answer = submitter.submit(command)
    mark = hall.link.call("HGET", hall.keys.ids, command.command.id).split(b" ", 3)[3]
    ((_, fields),) = hall.link.call("XRANGE", hall.station.replies(submitter._replies), "-", "+")
    assert mark == fields[1]
    assert decode_answer(mark) == answer
    assert hall.events()[answer.seq - 1].event.command == command.command.id


# A process that dies


@contextmanager
def process(hall: Hall, slow: str) -> Iterator[subprocess.Popen[str]]:
    """A worker process; it is killed at the end."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.programs.lane_worker", slow],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=PROGRAM.parents[2],
    ) as started:
        assert started.stdin is not None
        started.stdin.write(canonical(hall.settings).decode() + "\n")
        started.stdin.flush()
        try:
            yield started
        finally:
            started.kill()


def said(process: subprocess.Popen[str], text: str) -> None:
    """Wait until the process says this."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == text:
            return
    raise AssertionError(f"the process ended without saying {text!r}")


@pytest.mark.slow
def test_a_worker_killed_in_the_middle_leaves_one_result(hall: Hall) -> None:
    """SIGKILL while a command is executed: a new process takes the lane over when the lease has run out.

    The command is executed again, has one result, and what was done before it has no second one.
    """
    done, cut = hall.command(source="a"), hall.command(source="b")
    behind = hall.command("source.update", source="b")
    submitter = hall.submitter()
    with process(hall, slow=cut.command.id) as first:
        assert submitter.submit(done, timeout=20).outcome == "completed"
        send(hall, cut)
        said(first, f"execute {cut.command.id}")
        first.kill()
    with process(hall, slow="") as second:
        assert submitter.submit(behind, timeout=30).outcome == "completed"
        said(second, f"execute {cut.command.id}")
    assert submitter.submit(done) == submitter.submit(done)
    assert hall.results()[done.command.id] == ["completed"]
    assert hall.results()[cut.command.id] == ["completed"]
    assert hall.verdict().fault is None
