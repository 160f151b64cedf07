"""Commands that an earlier owner took and did not settle: tried, only waiting, or outdated."""

from __future__ import annotations

import threading
import time
from datetime import timedelta

import pytest

from streams.admission import Task
from streams.handler import Result
from streams.messages import now
from streams.submit import Signed
from tests.fix_owner import Gate, answer_of, result_of, send
from tests.fix_servers import eventually
from tests.fix_streams import DONE, Functions, Hall, Scripted, Wire, insist, working


def died_with(functions: Functions, hall: Hall, times: int = 1, count: int = 1000) -> None:
    """So many owners take what waits, one after the other, and die with it."""
    for n in range(times):
        lease = functions.acquire(f"dead-{n}")
        assert functions.take(lease.fence, "new", count, f"dead-{n}")[0] == b"ok"
        assert functions.take(lease.fence, "0-0", count, f"dead-{n}")[0] == b"ok"
        hall.link.call("DEL", hall.keys.lease)


def soon(hall: Hall, seconds: float, type: str = "source.start") -> Signed:
    """A command that is valid for so long."""
    return hall.command(type, expires_at=now() + timedelta(seconds=seconds))


def wait_until_late(command: Signed) -> None:
    eventually(lambda: command.command.expires_at < now(), "the end of its validity")


@pytest.mark.parametrize("times", [1, 2])
def test_a_command_that_a_dead_owner_had_is_not_called_expired(
    hall: Hall, functions: Functions, times: int
) -> None:
    """It may have been begun, and run on: `expired` would say that it was never tried."""
    command, untaken = soon(hall, 1), soon(hall, 1)
    send(hall, command)
    died_with(functions, hall, times)
    send(hall, untaken)
    wait_until_late(untaken)
    handler = Scripted()
    with working(hall, handler):
        answer = answer_of(hall, command)
        assert answer_of(hall, untaken).outcome == "expired"
    assert (answer.outcome, answer.reason, answer.field) == ("failed", "interrupted", "expires_at")
    assert "may have had an effect" in (answer.detail or "")
    assert handler.executed == []


def test_a_command_begun_by_this_owner_before_a_loss_is_not_called_expired(
    hall: Hall, functions: Functions
) -> None:
    """The lane is lost while it is executed, and regained when it is too late: it was tried."""
    gate = Gate("kwfm")
    handler = Scripted(gate)
    command = soon(hall, 2)
    with working(hall, handler):
        send(hall, command)
        assert gate.entered.wait(10)
        hall.link.call("DEL", hall.keys.lease)
        functions.acquire("thief")
        eventually(lambda: handler.ended == 1, "the loss noticed")
        wait_until_late(command)
        hall.link.call("DEL", hall.keys.lease)
        answer = answer_of(hall, command)
        gate.release.set()
    assert (answer.outcome, answer.reason) == ("failed", "interrupted")
    assert result_of(hall, command).deliveries == 1


def test_a_command_that_waited_for_its_turn_twice_is_interrupted_once_it_is_late(
    hall: Hall, functions: Functions
) -> None:
    """Also where its validity ends behind another of its source, after it was delivered again."""
    first, behind = hall.command("source.update"), soon(hall, 3, "source.update")
    send(hall, first)
    send(hall, behind)
    died_with(functions, hall)
    gate = Gate("kwfm")
    with working(hall, Scripted(gate)):
        assert gate.entered.wait(10)
        wait_until_late(behind)
        gate.release.set()
        assert answer_of(hall, first).outcome == "completed"
        answer = answer_of(hall, behind)
    assert (answer.outcome, answer.reason) == ("failed", "interrupted")


def test_entries_that_are_gone_do_not_hide_the_pending_ones_behind_them(
    hall: Hall, functions: Functions
) -> None:
    """More dangling pending entries than are taken at once, and commands behind them: those are finished."""
    gone = [hall.command(source=f"gone-{n}") for n in range(140)]
    kept = [hall.command(source=f"kept-{n}") for n in range(3)]
    for command in gone + kept:
        functions.submit(command.command.id, command.raw, command.command.source)
    died_with(functions, hall)
    entries = [entry for entry, _ in hall.link.call("XRANGE", hall.keys.commands, "-", "+", "COUNT", 140)]
    hall.link.call("XDEL", hall.keys.commands, *entries)
    with working(hall, Scripted()):
        # They came past a submitter, unsigned: what is shown is that each has its result.
        eventually(lambda: hall.waiting() == 0, "all settled")
    assert set(hall.results()) == {command.command.id for command in kept}
    assert hall.link.call("XPENDING", hall.keys.commands, "ingest")[0] == 0


def test_a_last_try_is_had_alone(hall: Hall, functions: Functions) -> None:
    """What two owners died with is tried one at a time, after all else is done and before anything new."""
    running: set[str] = set()
    together: list[set[str]] = []
    lock = threading.Lock()

    def play(task: Task) -> Result:
        with lock:
            running.add(task.command.source)
            together.append(set(running))
        time.sleep(0.1)
        with lock:
            running.discard(task.command.source)
        return DONE

    suspects = [hall.command(source=f"suspect-{n}") for n in range(3)]
    for command in suspects:
        send(hall, command)
    died_with(functions, hall, times=2)
    others = [hall.command(source=f"other-{n}") for n in range(3)]
    for command in others:
        send(hall, command)
    with working(hall, Scripted(play)):
        for command in suspects + others:
            assert answer_of(hall, command).outcome == "completed"
    assert together[:3] == [{"suspect-0"}, {"suspect-1"}, {"suspect-2"}]
    assert any(len(some) > 1 for some in together[3:]), "what is new is executed beside each other"
    assert [result_of(hall, command).deliveries for command in suspects + others] == [3, 3, 3, 1, 1, 1]


def test_a_last_try_that_hangs_holds_the_lane_up_for_a_while_only(
    hall: Hall, functions: Functions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A source whose audio never comes may not keep the others waiting for ever."""
    monkeypatch.setattr("streams.worker.ALONE", 0.5)
    gate = Gate("kwfm")
    suspect, other = hall.command(), hall.command(source="other")
    send(hall, suspect)
    died_with(functions, hall, times=2)
    send(hall, other)
    with working(hall, Scripted(gate)):
        assert gate.entered.wait(10)
        assert answer_of(hall, other).outcome == "completed"
        gate.release.set()
        assert answer_of(hall, suspect).outcome == "completed"


# Retries of what was parked


@pytest.fixture
def parked(hall: Hall, functions: Functions) -> Signed:
    """A start that was parked."""
    command = hall.command()
    send(hall, command)
    died_with(functions, hall, times=3)
    with working(hall, Scripted()):
        assert answer_of(hall, command).reason == "parked"
    return command


@pytest.mark.parametrize("newer", ["source.stop", "source.restart"])
@pytest.mark.parametrize("when", ["done", "by another owner", "running", "waiting"])
def test_a_retry_is_superseded_by_what_came_after_the_parked_command(
    hall: Hall, parked: Signed, newer: str, when: str
) -> None:
    """A newer stop overtook the parked start: its retry must not start the source again (rule 4)."""
    stop = hall.command(newer)
    retry = hall.command(cause=parked.command.id)
    gate = Gate("kwfm")
    handler = Scripted(gate)
    if when == "by another owner":
        gate.release.set()
        with working(hall, handler, node="two"):
            assert answer_of(hall, stop).outcome == "completed"
    if when == "waiting":
        send(hall, stop)
        send(hall, retry)
    with working(hall, handler):
        hall.submitter().accept(stop, timeout=5)
        if when == "running":
            assert gate.entered.wait(10)
        else:
            gate.release.set()
        if when == "done":
            assert answer_of(hall, stop).outcome == "completed"
        answer = answer_of(hall, retry)
        gate.release.set()
        assert answer_of(hall, stop).outcome == "completed"
    assert (answer.outcome, answer.by) == ("superseded", stop.command.id)
    assert [task.command.id for task in handler.executed] == [stop.command.id]


def test_a_retry_of_what_nothing_overtook_is_carried_out(hall: Hall, parked: Signed) -> None:
    """An update overtakes nothing, nor does a stop that was rejected or expired, or is of another source."""
    update, other = hall.command("source.update"), hall.command("source.stop", "other")
    rejected = Result(outcome="rejected", reason="unknown_source")
    refused, late = hall.command("source.stop"), soon(hall, 0.1, "source.stop")
    retry = hall.command(cause=parked.command.id)
    with working(hall, Scripted(lambda task: rejected if task.command.id == refused.command.id else DONE)):
        for command in (update, other, refused):
            answer_of(hall, command)
    send(hall, late)
    wait_until_late(late)
    with working(hall, Scripted(), node="two"):
        assert answer_of(hall, late).outcome == "expired"
        assert answer_of(hall, retry).outcome == "completed"


def test_an_entry_whose_deletion_was_lost_goes_all_the_same(hall: Hall, wire: Wire) -> None:
    """Where the connection breaks while what has its result is taken away, no entry is left over."""
    command = hall.command("source.update")
    hall.submitter().accept(command, timeout=5)
    waiting = hall.link.call("DUMP", hall.keys.commands)
    with working(hall, Scripted()):
        assert insist(hall.submitter(), command).outcome == "completed"
    hall.link.call("RESTORE", hall.keys.commands, 0, waiting, "REPLACE")
    wire.lose("XDEL", "request")
    with working(hall, Scripted(), node="two", redis=wire.redis, wait=False):
        eventually(wire.lost.is_set, "the deletion lost")
        assert insist(hall.submitter(), hall.command("source.update")).outcome == "completed"
        eventually(lambda: hall.waiting() == 0, "the stream empty")
