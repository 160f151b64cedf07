"""An owner whose threads, leases and appends meet a failover at the worst moments, each as one schedule."""

from __future__ import annotations

import threading
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from streams import worker
from streams.admission import Task
from streams.drafts import Draft
from streams.handler import Result
from streams.messages import now
from streams.settings import PostgresSection, RedisSection
from streams.trimming import Trimmer
from tests.fix_ingest_lane import file_settings
from tests.fix_projections import Yard
from tests.fix_servers import eventually
from tests.fix_streams import DONE, Hall, Scripted, Wire, insist, working
from tests.test_rolled_back import added, adds, folding, is_folded
from tests.test_stateful import Counted, Record, check, fast
from tests.test_stateful_failover import Failing


@pytest.mark.parametrize("durability", ["memory", "replica"])
def test_turn_taken_before_and_executed_after_the_fold(
    valkey_server: RedisSection,
    yard: Yard,
    tmp_path: Path,
    record: Record,
    monkeypatch: pytest.MonkeyPatch,
    durability: Any,
) -> None:
    """A turn's thread gets no time between taking it and asking the handler: meanwhile the log is folded."""
    fast(monkeypatch)
    audio = record(1.0)
    entered, gate = threading.Event(), threading.Event()
    real = Counted.execute
    removing: list[str] = []

    def execute(self: Counted, task: Task) -> Result:
        if task.command.id in removing and not entered.is_set():
            entered.set()
            assert gate.wait(30)
        return real(self, task)

    monkeypatch.setattr(Counted, "execute", execute)
    with closing(Failing(valkey_server, tmp_path, yard, durability)) as lane:
        ask = lane.hall.submitter()
        sent = [lane.command("source.add", id, settings=file_settings(audio), name="") for id in "ab"]
        told = [insist(ask, one) for one in sent]
        monkeypatch.setattr("streams.steps.watch", lane.passed)
        remove = lane.command("source.remove", "a")
        removing.append(remove.command.id)
        assert ask.accept(remove, timeout=5) is None
        assert entered.wait(10)
        update = lane.command("source.update", "b", "replica", settings=file_settings(audio), name="new")
        lane.fail_over(None, "executed")
        told.append(insist(ask, update))  # lost once; the log is folded
        sent.append(update)
        assert len(lane.rolled_back) == 1
        gate.set()
        sent.append(remove)
        told.append(insist(ask, remove))
        lane.calm()
        assert told[-1].outcome == "completed", told[-1]
        check(lane, [(one, [answer]) for one, answer in zip(sent, told, strict=True)])


def test_result_posted_after_the_fold(
    valkey_server: RedisSection, yard: Yard, tmp_path: Path, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A turn's thread finds its command open, and posts the result only once the log is folded again."""
    fast(monkeypatch)
    audio = record(1.0)
    entered, gate, posted = threading.Event(), threading.Event(), threading.Event()
    removing: list[str] = []
    real, settle = worker.settled, worker.LaneWorker._settle

    def settled(delivery: Any, *args: Any, **kwargs: Any) -> Any:
        if delivery.id in removing and not entered.is_set():
            entered.set()
            assert gate.wait(30)
        return real(delivery, *args, **kwargs)

    def settle_all(self: worker.LaneWorker, *args: Any, **kwargs: Any) -> None:
        settle(self, *args, **kwargs)
        if threading.current_thread().name == "turn-a":
            posted.set()

    monkeypatch.setattr(worker.LaneWorker, "_settle", settle_all)
    monkeypatch.setattr(worker, "settled", settled)
    with closing(Failing(valkey_server, tmp_path, yard, "replica")) as lane:
        ask = lane.hall.submitter()
        sent = [lane.command("source.add", id, settings=file_settings(audio), name="") for id in "ab"]
        told = [insist(ask, one) for one in sent]

        restored: list[str] = []

        def watch(step: str) -> None:
            lane.passed(step)
            if step == "restored" and entered.is_set() and lane.rolled_back:
                restored.append(step)
                if len(restored) == 2:  # the first time nothing needed to be folded
                    gate.set()
                    assert posted.wait(20)

        monkeypatch.setattr("streams.steps.watch", watch)
        remove = lane.command("source.remove", "a")
        removing.append(remove.command.id)
        assert ask.accept(remove, timeout=5) is None
        assert entered.wait(10)
        update = lane.command("source.update", "b", "replica", settings=file_settings(audio), name="new")
        lane.fail_over(None, "executed")
        told.append(insist(ask, update))
        sent.append(update)
        sent.append(remove)
        told.append(insist(ask, remove))
        lane.calm()
        check(lane, [(one, [answer]) for one, answer in zip(sent, told, strict=True)])


def test_an_older_lease_of_its_own_is_no_other_owner(
    valkey_server: RedisSection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The replica has our lease of before a broken connection; what was told at memory since is put back."""
    monkeypatch.setattr("streams.worker.IDLE", 0.1)
    monkeypatch.setattr("streams.submit.ASK_AGAIN", 0.2)
    with closing(Hall(valkey_server, tmp_path, "memory")) as hall, working(hall, Scripted(adds)) as owner:
        first, second = added(hall, 2)
        insist(hall.submitter(), first)
        behind = hall.dump()

        def token() -> int:
            return int(hall.link.call("HGET", hall.keys.head, "token"))

        former = token()
        hall.new_link("failover").call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        hall.link.close()
        eventually(lambda: owner.owned.is_set() and token() > former, "the lane acquired again")
        told = insist(hall.submitter(), second)
        stood = hall.events()
        hall.roll_back(behind, hall.new_link("failover"), leased=4.0)
        hall.link.close()
        assert insist(hall.submitter(), second) == told
        assert hall.events()[: len(stood)] == stood
        assert hall.verdict().fault is None


def test_what_readers_saw_at_memory_is_put_back_though_its_owner_never_heard_of_it(
    valkey_server: RedisSection, tmp_path: Path, postgres: PostgresSection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plain event at a station of durability memory: the watermark moved with it, and it was folded."""
    monkeypatch.setattr("streams.worker.IDLE", 0.1)
    wire = Wire(valkey_server)
    handler = Scripted(adds)
    hold = threading.Event()

    with (
        closing(wire),
        closing(Hall(valkey_server, tmp_path, "memory")) as hall,
        folding(hall, postgres) as (yard, runner),
        working(hall, handler, redis=wire.redis),
    ):
        insist(hall.submitter(), added(hall, 1)[0])
        behind = hall.dump()
        wire.lose("tocsin_append", "reply")
        count = len(hall.events())

        def watch(step: str) -> None:
            if step == "lease taken":
                hold.wait(20)

        monkeypatch.setattr("streams.steps.watch", watch)
        assert handler.post is not None
        fact = {"settings": {"kind": "file", "path": "/x"}, "name": "n", "desired": "stopped"}
        handler.post(Draft(type="source.added", source="plain", data=fact))
        assert wire.lost.wait(20)
        eventually(lambda: len(hall.events()) > count, "it stands")
        stood = hall.events()
        eventually(lambda: is_folded(yard, stood), "folded")
        hall.roll_back(behind, hall.new_link("failover"))
        hall.link.close()
        hold.set()
        assert insist(hall.submitter(), added(hall, 1, first=5)[0]).outcome == "completed"
        hall.link.close()
        assert hall.verdict().fault is None
        eventually(
            lambda: is_folded(yard, hall.events()), lambda: f"the projection goes on: {runner.trouble}", 15
        )
        assert runner.trouble is None


def test_an_append_made_again_is_of_no_later_lease_than_what_follows(
    valkey_server: RedisSection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The append was made under a lease that the promoted replica never saw: tokens must not fall."""
    wire = Wire(valkey_server)
    gate, entered = threading.Event(), threading.Event()
    second: list[Any] = []

    def play(task: Task) -> Result:
        if second and task.command.id == second[0].command.id and not entered.is_set():
            entered.set()
            assert gate.wait(30)
        return adds(task)

    with (
        closing(wire),
        closing(Hall(valkey_server, tmp_path, "memory")) as hall,
        working(hall, Scripted(play), redis=wire.redis),
    ):
        first, one = added(hall, 2)
        insist(hall.submitter(), first)
        behind = hall.dump()
        beside = hall.new_link("failover")
        second.append(one)
        assert hall.submitter().accept(one, timeout=5) is None
        assert entered.wait(10)
        settled, rolled = threading.Event(), threading.Event()
        taken: list[int] = []

        def kill() -> None:
            beside.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

        def watch(step: str) -> None:
            if step == "settled" and not settled.is_set():
                settled.set()
                assert rolled.wait(20)
            if step == "lease taken":
                taken.append(1)
                if len(taken) == 1:
                    kill()
                elif wire.lost.is_set() and not rolled.is_set():
                    assert rolled.wait(20)
            if step == "restored" and not gate.is_set():
                gate.set()
                assert settled.wait(10)
                wire.lose("tocsin_append", "reply")

        monkeypatch.setattr("streams.steps.watch", watch)
        kill()
        assert wire.lost.wait(20)
        hall.link.close()
        stood = hall.events()
        assert [e.event.command for e in stood if e.event.type == "command.completed"][-1] == one.command.id
        hall.roll_back(behind, beside)
        rolled.set()
        hall.link.close()
        assert insist(hall.submitter(), one).outcome == "completed"
        insist(hall.submitter(), added(hall, 1, first=8)[0])
        hall.link.close()
        tokens = [e.event.token for e in hall.events()]
        assert hall.verdict().fault is None, (tokens, hall.verdict())


def test_what_was_begun_is_not_called_expired(
    valkey_server: RedisSection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failover takes the delivery of a command being executed, whose validity ends meanwhile."""
    gate, entered = threading.Event(), threading.Event()

    def play(task: Task) -> Result:
        entered.set()
        assert gate.wait(30)
        return DONE

    with closing(Hall(valkey_server, tmp_path, "memory")) as hall, working(hall, Scripted(play)):
        one = hall.command(expires_at=now() + timedelta(seconds=2))
        assert hall.submitter().accept(one, timeout=5) is None
        assert entered.wait(10)
        eventually(lambda: now() > one.command.expires_at, "the end of its validity")
        hall.lose_delivery()
        told = insist(hall.submitter(), one)
        gate.set()
        assert (told.outcome, told.reason) == ("failed", "interrupted"), told


@pytest.mark.parametrize("lost", [True, False])
def test_a_refused_append_is_not_made_again(
    lost: bool, valkey_server: RedisSection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A delivery is lost in a failover and made again while its result is being written; the append of the
    second result is refused, and that refusal is lost: one id has one result."""
    wire = Wire(valkey_server)
    entered, gate = threading.Event(), threading.Event()
    runs: list[str] = []

    def play(task: Task) -> Result:
        runs.append(task.command.id)
        if len(runs) == 1:
            entered.set()
            assert gate.wait(30)
        elif len(runs) == 2 and lost:
            wire.lose("tocsin_append", "reply")
        return DONE

    with (
        closing(wire),
        closing(Hall(valkey_server, tmp_path, "memory")) as hall,
        working(hall, Scripted(play), redis=wire.redis),
    ):
        one = hall.command()
        assert hall.submitter().accept(one, timeout=5) is None
        assert entered.wait(10)
        written, armed = threading.Event(), threading.Event()

        def watch(step: str) -> None:
            name = threading.current_thread().name
            if step == "acquired":
                armed.set()
            if step == "read" and armed.is_set() and not gate.is_set():
                # The delivery is read, and not admitted yet: now the turn comes to its end.
                gate.set()
                assert written.wait(10)
            if step == "replied" and name.startswith("turn") and gate.is_set():
                written.set()

        monkeypatch.setattr("streams.steps.watch", watch)
        hall.lose_delivery()
        eventually(lambda: len(runs) == 2, "carried out again")
        insist(hall.submitter(), hall.command("source.start", "other"))
        hall.link.close()
        assert hall.results()[one.command.id] == ["completed"], hall.results()
        assert hall.verdict().fault is None


def test_a_counted_rejection_is_the_only_outcome_though_its_append_was_lost(
    valkey_server: RedisSection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No failover at all: the request of an append at memory gets lost, with counted ones in it."""
    monkeypatch.setattr("streams.rejections.BURST", 1)
    monkeypatch.setattr("streams.rejections.EVERY", 1000.0)
    monkeypatch.setattr("streams.rejections.SPAN", 0.1)
    wire = Wire(valkey_server)
    told: list[Any] = []
    with (
        closing(wire),
        closing(Hall(valkey_server, tmp_path, "memory")) as hall,
        working(hall, Scripted(), redis=wire.redis),
    ):
        insist(hall.submitter(), hall.command())
        ahead = now() + timedelta(seconds=3)
        made = [hall.command(issued_at=ahead, expires_at=ahead + timedelta(minutes=1)) for _ in range(2)]
        assert insist(hall.submitter(), made[0]).reason == "not_yet_valid"  # the allowance is used up

        def watch(step: str) -> None:
            if step == "counted" and not wire.lost.is_set():
                wire.lose("tocsin_append", "request")
            if step == "head proven" and wire.lost.is_set():
                # So slow is the fold.
                eventually(lambda: now() > ahead, "the beginning of its validity")

        monkeypatch.setattr("streams.steps.watch", watch)
        told.append(hall.submitter().submit(made[1], timeout=20))
        assert wire.lost.is_set()
        assert (told[0].outcome, told[0].reason) == ("rejected", "not_yet_valid")
        hall.link.close()
        eventually(lambda: hall.waiting() == 0, "all done", 20)
        again = insist(hall.submitter(), made[1])
        assert again == told[0], (again, told[0], [(e.event.seq, e.event.type) for e in hall.events()])


@pytest.mark.parametrize("level", ["memory", "replica"])
def test_room_is_made_before_an_append_is_made_again(
    level: Any, valkey_server: RedisSection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis is full when an append of unknown fate is found: what the owner trims makes the room."""
    wire = Wire(valkey_server)
    trimmed: list[int] = []
    with closing(wire), closing(Hall(valkey_server, tmp_path, "memory")) as hall:
        beside = hall.new_link("memory")

        def attempt(self: Trimmer, *args: Any) -> None:
            if full:
                trimmed.append(1)
                beside.call("CONFIG", "SET", "maxmemory", 0)  # what trimming comes to

        full: list[int] = []

        def watch(step: str) -> None:
            if step == "lease taken" and wire.lost.is_set() and not full:
                full.append(1)
                beside.call("CONFIG", "SET", "maxmemory", 1)

        try:
            with working(hall, Scripted(), redis=wire.redis):
                insist(hall.submitter(), hall.command())
                monkeypatch.setattr(Trimmer, "attempt", attempt)
                monkeypatch.setattr("streams.steps.watch", watch)
                wire.lose("tocsin_append", "request")
                one = hall.command(durability=level)
                try:
                    told = insist(hall.submitter(), one, patience=15)
                finally:
                    beside.call("CONFIG", "SET", "maxmemory", 0)
                assert told.outcome == "completed"
                assert trimmed
        finally:
            beside.call("CONFIG", "SET", "maxmemory", 0)
