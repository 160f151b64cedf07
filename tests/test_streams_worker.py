"""What the owner of a lane makes of commands, on a real server: outcomes, order, and what is poison."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from streams.admission import Task
from streams.drafts import Draft
from streams.handler import Result
from streams.messages import canonical, now
from tests.fix_owner import Gate, answer_of, result_of, send
from tests.fix_servers import eventually
from tests.fix_streams import DONE, Functions, Hall, Scripted, working

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
        # What comes after it in the stream is done, so it waits for its turn by now.
        other = hall.command("source.update", source="other")
        assert answer_of(hall, other).outcome == "completed"
        gate.release.set()
        assert answer_of(hall, behind).outcome == "completed"
    assert handler.attempted == [(one.command.id, "owner-one") for one in (at_once, other)]
    assert [task.command.id for task in handler.executed] == [slow.command.id, behind.command.id]
    logged = [one.event.data["sequence"] for one in hall.events() if one.event.source == "kwfm"]
    assert logged == [1, 2, 3]


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
