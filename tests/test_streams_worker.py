"""The owner of a lane, on a real server: exactly one result for each command, whatever happens in between."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from streams.admission import Task
from streams.handler import Result
from streams.log import Draft, Post
from streams.messages import Answer, canonical, decode_answer, now
from streams.signing import InvalidKey
from streams.submit import NoAnswer, Signed
from streams.vocabulary import CommandResult
from tests.fix_servers import eventually
from tests.fix_streams import DONE, LANE, Functions, Hall, Scripted, Wire, insist, working
from tests.test_streams_connection import kill_clients

PROGRAM = Path(__file__).parent / "programs" / "lane_worker.py"


class Gate:
    """A play that waits, for the sources named, until the test lets it go on."""

    def __init__(self, *sources: str) -> None:
        self._sources = sources
        self.entered = threading.Event()
        self.release = threading.Event()

    def __call__(self, task: Task) -> Result:
        if task.command.source in self._sources:
            self.entered.set()
            assert self.release.wait(20)
        return DONE


def send(hall: Hall, command: Signed, client: str = "") -> None:
    """Submit without waiting for the outcome."""
    assert hall.submitter().accept(command, timeout=5) is None


def answer_of(hall: Hall, command: Signed) -> Answer:
    return hall.submitter().submit(command, timeout=20)


def result_of(hall: Hall, command: Signed) -> CommandResult:
    """The one result that the log holds for the command."""
    told = [logged.event for logged in hall.events() if logged.event.command == command.command.id]
    (event,) = [event for event in told if event.type.startswith("command.")]
    return msgspec.convert(event.data, CommandResult)


# Outcomes


@pytest.mark.parametrize(
    "result",
    [
        Result(outcome="completed", state="running"),
        Result(outcome="failed", reason="no_signal", detail="nothing heard"),
        Result(outcome="rejected", reason="unknown_source", field="source"),
    ],
)
def test_what_the_handler_says_is_logged_and_answered(hall: Hall, result: Result) -> None:
    """The outcome stands in the log with who asked for what, and the submitter is told the same."""
    command = hall.command()
    with working(hall, Scripted(lambda task: result)):
        answer = answer_of(hall, command)
    data = result_of(hall, command)
    for told in (answer, data):
        assert (told.state, told.reason, told.field) == (result.state, result.reason, result.field)
    assert answer.outcome == result.outcome
    assert (data.request.encode(), data.signature) == (command.raw, command.signature)
    assert (data.type, data.sequence, data.deliveries, data.by) == ("source.start", 1, 1, None)
    assert hall.events()[answer.seq - 1].event.source == "kwfm"


def test_a_handler_that_raises_has_failed_and_the_lane_goes_on(hall: Hall) -> None:
    """Its error is the command's outcome; the next command of the source is executed."""

    def play(task: Task) -> Result:
        if task.command.type == "source.start":
            raise OSError("the cable is out")
        return DONE

    with working(hall, Scripted(play)):
        answer = answer_of(hall, hall.command())
        assert answer_of(hall, hall.command("source.stop")).outcome == "completed"
    assert (answer.outcome, answer.reason) == ("failed", "error")
    assert answer.detail == "OSError: the cable is out"


def test_a_handler_whose_facts_cannot_be_written_has_failed(hall: Hall) -> None:
    """Events that JSON cannot hold fail their command, and stand in nobody's way."""
    bad = Result(outcome="completed", drafts=(Draft(type="source.running", data={"x": object()}),))
    with working(hall, Scripted(lambda task: bad if task.sequence == 1 else DONE)):
        assert answer_of(hall, hall.command()).reason == "error"
        assert answer_of(hall, hall.command()).outcome == "completed"


def test_facts_of_a_result_stand_right_before_it(hall: Hall) -> None:
    """What a command changed is logged in the same append as its result."""
    drafts = tuple(Draft(type=f"source.{name}", source="kwfm", data={}) for name in ("starting", "running"))
    with working(hall, Scripted(lambda task: Result(outcome="completed", drafts=drafts))):
        answer = answer_of(hall, hall.command())
    last = hall.events()[: answer.seq][-3:]
    assert [logged.event.type for logged in last] == [
        "source.starting",
        "source.running",
        "command.completed",
    ]
    assert len({logged.event.logged_at for logged in last}) == 1


def test_a_command_that_expires_while_it_waits_is_not_tried(hall: Hall) -> None:
    """Its turn came after its validity had ended: expired, and never executed."""
    gate = Gate("kwfm")
    handler = Scripted(gate)
    slow = hall.command("source.add")
    short = hall.command("source.update", expires_at=now() + timedelta(seconds=0.3))
    with working(hall, handler):
        send(hall, slow)
        assert gate.entered.wait(10)
        send(hall, short)
        eventually(lambda: now() > short.command.expires_at, "the end of its validity")
        gate.release.set()
        answer = answer_of(hall, short)
    assert (answer.outcome, answer.reason) == ("expired", "expired")
    assert [task.command.id for task in handler.executed] == [slow.command.id]


def test_an_expired_command_that_is_submitted_for_ever_verifies(hall: Hall) -> None:
    """Once its id is forgotten a late command is replayed: no id ever gets a second result."""
    late = hall.command(issued_at=now() - timedelta(hours=1), expires_at=now() - timedelta(minutes=11))
    with working(hall, Scripted()):
        outcomes = []
        for n in range(3):
            answer = answer_of(hall, late)
            outcomes.append((answer.outcome, answer.reason))
            answer_of(hall, hall.command(source=f"other-{n}"))
    assert outcomes == [("rejected", "replayed")] * 3
    assert late.command.id not in hall.results()
    assert hall.verdict().fault is None


@pytest.mark.parametrize("newer", ["source.stop", "source.restart"])
def test_a_running_start_is_superseded_by_a_newer_command(hall: Hall, newer: str) -> None:
    """It is cancelled and ends; its result names the newer one, which is then executed."""

    def play(task: Task) -> Result:
        if task.command.type == "source.start":
            began.set()
            assert task.cancelled.wait(20)
            return Result(outcome="superseded")
        return DONE

    began = threading.Event()
    start, stop = hall.command("source.start"), hall.command(newer)
    handler = Scripted(play)
    with working(hall, handler):
        send(hall, start)
        assert began.wait(10)
        assert answer_of(hall, stop).outcome == "completed"
        answer = answer_of(hall, start)
    assert (answer.outcome, answer.by) == ("superseded", stop.command.id)
    assert result_of(hall, start).by == stop.command.id
    assert [task.command.type for task in handler.executed] == ["source.start", newer]


def test_waiting_starts_and_stops_are_superseded_without_being_tried(hall: Hall) -> None:
    """Of many that pile up behind a slow command only the newest is executed; each names the next."""
    gate = Gate("kwfm")
    handler = Scripted(gate)
    add = hall.command("source.add")
    piled = [hall.command(f"source.{what}") for what in ("start", "stop", "restart", "stop", "start")]
    with working(hall, handler):
        send(hall, add)
        assert gate.entered.wait(10)
        for command in piled:
            send(hall, command)
        first = answer_of(hall, piled[0])
        gate.release.set()
        answers = [answer_of(hall, command) for command in piled]
    assert first.outcome == "superseded"
    assert [answer.by for answer in answers] == [*(command.command.id for command in piled[1:]), None]
    assert [answer.outcome for answer in answers] == ["superseded"] * 4 + ["completed"]
    assert [task.command.id for task in handler.executed] == [add.command.id, piled[-1].command.id]


def test_a_start_that_completed_before_it_was_told_stays_completed(hall: Hall) -> None:
    """What was done was done: an overtaken command that finished says so."""
    gate = Gate("kwfm")
    start, stop = hall.command("source.start"), hall.command("source.stop")
    with working(hall, Scripted(gate)):
        send(hall, start)
        assert gate.entered.wait(10)
        send(hall, stop)
        eventually(lambda: hall.link.call("XPENDING", hall.keys.commands, "ingest")[0] == 2, "the stop taken")
        gate.release.set()
        assert answer_of(hall, stop).outcome == "completed"
        assert (answer_of(hall, start).outcome, answer_of(hall, start).by) == ("completed", None)


# Order


def test_a_blocked_source_delays_no_other(hall: Hall) -> None:
    """While one source's command is stuck, twenty others get their results, through the whole way."""
    gate = Gate("slow")
    with working(hall, Scripted(gate)):
        stuck = hall.command(source="slow")
        send(hall, stuck)
        assert gate.entered.wait(10)
        submitter = hall.submitter()
        for n in range(20):
            assert submitter.submit(hall.command(source=f"quick-{n}")).outcome == "completed"
        assert stuck.command.id not in hall.results()
        gate.release.set()
        assert answer_of(hall, stuck).outcome == "completed"


def test_commands_of_a_source_are_executed_in_the_order_of_their_submit(hall: Hall) -> None:
    """Fifty commands that stood before the owner came: executed and logged by their sequence, per source."""
    handler = Scripted()
    commands = [hall.command("source.update", source=f"s{n % 3}") for n in range(51)]
    submitter = hall.submitter()
    for command in commands:
        submitter.accept(command, timeout=5)
    with working(hall, handler):
        for command in commands[-3:]:
            answer_of(hall, command)
    for source in ("s0", "s1", "s2"):
        done = [task.sequence for task in handler.executed if task.command.source == source]
        assert done == list(range(1, 18))
        logged = [e.event.data["sequence"] for e in hall.events() if e.event.source == source]
        assert logged == done


def test_commands_that_stood_before_the_owner_came_are_not_kept_waiting(
    hall: Hall, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An owner takes what is there before it blocks for more."""
    monkeypatch.setattr("streams.worker.IDLE", 5.0)
    command = hall.command()
    submitter = hall.submitter()
    submitter.accept(command, timeout=5)
    with working(hall, Scripted()):
        began = time.monotonic()
        assert submitter.submit(command).outcome == "completed"
        assert time.monotonic() - began < 2
        monkeypatch.setattr("streams.worker.IDLE", 0.2)
        answer_of(hall, hall.command())


def test_what_needs_no_waiting_is_carried_out_in_the_lanes_own_thread(hall: Hall) -> None:
    """A handler may carry a command out at once; while its source is busy it waits for its turn."""
    gate = Gate("kwfm")

    class Prompt(Scripted):
        def attempt(self, task: Task) -> Result | None:
            if task.command.type == "source.start":
                return None
            self.attempted.append((task.command.id, threading.current_thread().name))
            return DONE

        def __init__(self) -> None:
            super().__init__(gate)
            self.attempted: list[tuple[str, str]] = []

    handler = Prompt()
    at_once, slow, behind = hall.command("source.add"), hall.command(), hall.command("source.update")
    with working(hall, handler):
        assert answer_of(hall, at_once).outcome == "completed"
        send(hall, slow)
        assert gate.entered.wait(10)
        send(hall, behind)
        gate.release.set()
        assert answer_of(hall, behind).outcome == "completed"
    assert handler.attempted == [(at_once.command.id, "owner-one")]
    assert [task.command.id for task in handler.executed] == [slow.command.id, behind.command.id]
    assert [one.event.data["sequence"] for one in hall.events() if one.event.command] == [1, 2, 3]


def test_an_attempt_that_raises_has_failed(hall: Hall) -> None:
    """An error in the lane's own thread is the command's outcome, and not the lane's end."""

    class Clumsy(Scripted):
        def attempt(self, task: Task) -> Result | None:
            raise OSError("the cable is out")

    with working(hall, Clumsy()) as worker:
        answer = answer_of(hall, hall.command())
        assert worker.owned.is_set()
    assert (answer.outcome, answer.detail) == ("failed", "OSError: the cable is out")


# What came past submit, or is poison


def test_a_command_put_past_submit_is_replayed(hall: Hall) -> None:
    """A correctly signed command that submit never saw has no effect, and its result names nobody's id."""
    handler = Scripted()
    command = hall.command()
    fields = ("i", command.command.id, "c", command.raw, "s", command.signature, "q", 1, "r", "")
    hall.link.call("XADD", hall.keys.commands, "*", *fields)
    with working(hall, handler):
        eventually(lambda: hall.waiting() == 0, "a verdict")
    assert handler.executed == []
    (event,) = [one.event for one in hall.events() if one.event.type == "command.rejected"]
    assert (event.command, event.data["reason"]) == (None, "replayed")
    assert event.data["request"].encode() == command.raw


def test_a_copy_of_a_command_does_not_disturb_it(hall: Hall) -> None:
    """Copies put into the stream beside the real one are replayed; the real one has its one result."""
    command = hall.command()
    send(hall, command)
    ((_, fields),) = hall.link.call("XRANGE", hall.keys.commands, "-", "+")
    for _ in range(3):
        hall.link.call("XADD", hall.keys.commands, "*", *fields)
    with working(hall, Scripted()):
        assert answer_of(hall, command).outcome == "completed"
        hall.link.call("XADD", hall.keys.commands, "*", *fields)
        eventually(lambda: hall.waiting() == 0, "verdicts")
    assert hall.results() == {command.command.id: ["completed"]}
    reasons = [one.event.data["reason"] for one in hall.events() if one.event.type == "command.rejected"]
    assert reasons == ["replayed"] * 4


def test_a_command_whose_id_was_forgotten_is_replayed(hall: Hall) -> None:
    """Without the mark of its id it cannot be told from a second one."""
    command = hall.command()
    send(hall, command)
    hall.link.call("DEL", hall.keys.ids)
    handler = Scripted()
    with working(hall, handler):
        eventually(lambda: hall.waiting() == 0, "a verdict")
    assert handler.executed == []
    assert hall.results() == {}


def test_the_fourth_delivery_is_parked(hall: Hall, functions: Functions) -> None:
    """A command that three owners took and did not settle fails as parked, without being tried again."""
    command = hall.command()
    send(hall, command)
    lease = functions.acquire("gone")
    functions.take(lease.fence, consumer="first")
    for consumer in ("second", "third"):
        functions.take(lease.fence, "0-0", consumer=consumer)
    hall.link.call("DEL", hall.keys.lease)
    handler = Scripted()
    with working(hall, handler):
        answer = answer_of(hall, command)
    assert (answer.outcome, answer.reason) == ("failed", "parked")
    assert handler.executed == []
    assert result_of(hall, command).deliveries == 4


POISON: dict[str, Callable[[Hall, Functions], Any]] = {
    "no fields of ours": lambda hall, f: hall.link.call("XADD", hall.keys.commands, "*", "a", b"\xff"),
    "a huge sequence": lambda hall, f: hall.link.call("XADD", hall.keys.commands, "*", "q", "9" * 5000),
    "an entry of the far future": lambda hall, f: hall.link.call(
        "XADD", hall.keys.commands, "99999999999999999-1", "c", "{}"
    ),
    "an id that is no text": lambda hall, f: f.submit(b"\xff\x00"),  # type: ignore[arg-type]
    "an empty id": lambda hall, f: f.submit(""),
    "JSON nested too deeply": lambda hall, f: f.submit("id", b'{"params":' + b"[" * 60_000),
    "too large": lambda hall, f: f.submit("id", b'"' + b"x" * 100_000 + b'"'),
    "a client with an odd name": lambda hall, f: f.submit("id", b"{}", client="a b\n\x00"),
    "another digest": lambda hall, f: hall.link.call(
        "FCALL", "tocsin_submit", 4, hall.keys.commands, hall.keys.ids, hall.keys.id_expiry,
        hall.keys.sequence, "id", "no digest", "s", "{}", "", "", "",
    ),
    "disk where there is none": lambda hall, f: f.submit("id", canonical({"durability": "disk"})),
}  # fmt: skip


@pytest.mark.parametrize("poison", POISON)
def test_nothing_in_the_stream_can_stop_a_lane(hall: Hall, functions: Functions, poison: str) -> None:
    """Whatever is put there is rejected and gone; commands before and behind it get their results."""
    before, behind = hall.command(source="before"), hall.command(source="behind")
    hall.link.call("CONFIG", "SET", "appendonly", "no" if "disk" in poison else "yes")
    try:
        send(hall, before)
        POISON[poison](hall, functions)
        send(hall, behind)
        with working(hall, Scripted()):
            assert answer_of(hall, before).outcome == "completed"
            assert answer_of(hall, behind).outcome == "completed"
            eventually(lambda: hall.waiting() == 0, "nothing left in the stream")
    finally:
        hall.link.call("CONFIG", "SET", "appendonly", "yes")
    rejected = [one.event for one in hall.events() if one.event.type == "command.rejected"]
    assert len(rejected) == 1
    assert hall.verdict().fault is None


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


def test_a_log_that_changed_underneath_is_folded_again(hall: Hall, functions: Functions) -> None:
    """When somebody else wrote meanwhile, the handler gets the whole log anew."""
    handler = Scripted()
    with working(hall, handler):
        answer_of(hall, hall.command())
        hall.link.call("DEL", hall.keys.lease)
        thief = functions.acquire("thief")
        head = hall.events()[-1]
        raw = head.raw.replace(b'"seq":2', b'"seq":3').replace(head.event.prev.encode(), head.hash.encode())
        raw = raw.replace(b"command.completed", b"source.stopped").replace(b'"token":1', b'"token":2')
        assert functions.append(thief, [raw], seq=head.event.seq, hash=head.hash) == [b"ok"]
        hall.link.call("DEL", hall.keys.lease)
        eventually(lambda: handler.begun == 2, "the lane acquired again")
        assert answer_of(hall, hall.command()).outcome == "completed"
    assert [logged.event.type for logged in handler.restored[-1]][-1] == "source.stopped"
    assert hall.verdict().fault is None


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
    assert {tuple(outcomes) for outcomes in hall.results().values()} <= {("completed",), ("failed",)}
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


def test_an_owner_waits_for_the_functions_and_the_group(hall: Hall) -> None:
    """Without the library it retries until somebody loads it; a group that vanished is made again."""
    from streams.library import load_library

    hall.link.call("FUNCTION", "DELETE", "tocsin")
    with working(hall, Scripted(), wait=False) as worker:
        assert not worker.owned.wait(0.3)
        load_library(hall.link)
        assert worker.owned.wait(10)
        assert answer_of(hall, hall.command()).outcome == "completed"
        hall.link.call("XGROUP", "DESTROY", hall.keys.commands, "ingest")
        assert answer_of(hall, hall.command()).outcome == "completed"
    assert hall.verdict().fault is None


def test_a_lane_without_a_connection_left_behind(hall: Hall) -> None:
    """A worker that ended has closed both its connections."""
    with working(hall, Scripted()):
        answer_of(hall, hall.command())
    assert b"tocsin-one-" not in hall.link.call("CLIENT", "LIST")


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
    assert mark == fields[3]
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
    done, cut, behind = hall.command(source="a"), hall.command(source="b"), hall.command(source="b")
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
    outcomes = hall.results()[cut.command.id]
    assert outcomes in (["completed"], ["superseded"])
    assert hall.verdict().fault is None
