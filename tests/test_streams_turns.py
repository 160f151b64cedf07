"""Whose turn it is: one at a time per source, sources beside each other, newer ones overtaking."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest

from streams.admission import Delivery, Task
from streams.messages import Command
from streams.turns import Turns

NOW = datetime(2026, 5, 1, tzinfo=UTC)
PATIENCE = 10


def task(id: str, type: str = "source.add", source: str = "a", sequence: int | None = None) -> Task:
    command = Command(
        id=id, station="north", lane="p0", source=source, type=type, params={}, key="k", issued_at=NOW,
        expires_at=NOW + timedelta(seconds=60), schema=1,
    )  # fmt: skip
    number = int(id.strip("abcdefghij") or 0) if sequence is None else sequence
    delivery = Delivery(
        entry=f"{number}-0", raw=b"", signature="", id=id, client="", sequence=number, deliveries=1,
        mark="", received_at=NOW,
    )  # fmt: skip
    return Task(command=command, delivery=delivery, cancelled=threading.Event())


class Stage:
    """Executes by waiting until the test lets the task go, and keeps the order in which they began."""

    def __init__(self) -> None:
        self.began: list[str] = []
        self.overtaken_by: dict[str, str | None] = {}
        self.turns = Turns(self._execute)
        self._gates: dict[str, threading.Event] = {}
        self._changed = threading.Condition()

    def _execute(self, task: Task) -> None:
        with self._changed:
            self.began.append(task.command.id)
            gate = self._gates.setdefault(task.command.id, threading.Event())
            self._changed.notify_all()
        assert gate.wait(PATIENCE)
        self.overtaken_by[task.command.id] = self.turns.overtaken_by(task.command.id)

    def wait_for(self, *ids: str) -> None:
        """Wait until these have begun."""
        with self._changed:
            assert self._changed.wait_for(lambda: set(ids) <= set(self.began), PATIENCE), self.began

    def let_go(self, *ids: str) -> None:
        with self._changed:
            for id in ids:
                self._gates.setdefault(id, threading.Event()).set()

    def end(self) -> None:
        self.turns.clear()
        self.let_go(*self.began)
        assert self.turns.wait_idle(PATIENCE)


@pytest.fixture
def stage() -> Iterator[Stage]:
    made = Stage()
    yield made
    made.end()


def idle(stage: Stage) -> Callable[[], bool]:
    return lambda: stage.turns.wait_idle(PATIENCE)


def test_commands_of_a_source_come_one_after_the_other(stage: Stage) -> None:
    """The next begins when the one before has ended, in the order in which they were put."""
    ids = [f"a{n}" for n in range(1, 6)]
    for id in ids:
        assert stage.turns.put(task(id)) == []
    for position, id in enumerate(ids):
        stage.wait_for(id)
        assert stage.began == ids[: position + 1]
        stage.let_go(id)
    assert idle(stage)()


def test_a_blocked_source_delays_no_other(stage: Stage) -> None:
    """While one source's command runs for ever, those of fifty others begin and end."""
    stage.turns.put(task("a1", source="slow"))
    stage.wait_for("a1")
    others = [f"b{n}" for n in range(2, 52)]
    for id in others:
        stage.turns.put(task(id, source=f"source-{id}"))
    stage.let_go(*others)
    stage.wait_for(*others)
    assert not stage.turns.wait_idle(0)
    stage.let_go("a1")
    assert idle(stage)()


def test_a_newer_start_or_stop_overtakes_waiting_ones(stage: Stage) -> None:
    """Waiting starts, stops and restarts are handed back and never begin; other commands keep their place."""
    stage.turns.put(task("a1", "source.add"))
    stage.wait_for("a1")
    assert stage.turns.put(task("a2", "source.start")) == []
    assert stage.turns.put(task("a3", "source.update")) == []
    overtaken = stage.turns.put(task("a4", "source.stop"))
    assert [old.command.id for old in overtaken] == ["a2"]
    assert stage.turns.overtaken_by("a2") == "a4"
    overtaken = stage.turns.put(task("a5", "source.restart"))
    assert [old.command.id for old in overtaken] == ["a4"]
    stage.let_go("a1", "a3", "a5")
    stage.wait_for("a5")
    assert idle(stage)()
    assert stage.began == ["a1", "a3", "a5"]


def test_a_newer_start_or_stop_cancels_a_running_one(stage: Stage) -> None:
    """The running one is told by its event, ends by itself, and then knows by whom it was overtaken."""
    running = task("a1", "source.start")
    stage.turns.put(running)
    stage.wait_for("a1")
    assert stage.turns.put(task("a2", "source.stop")) == []
    assert running.cancelled.is_set()
    assert stage.began == ["a1"]
    stage.let_go("a1", "a2")
    stage.wait_for("a2")
    assert idle(stage)()
    assert stage.overtaken_by == {"a1": "a2", "a2": None}


@pytest.mark.parametrize(
    ("older", "newer"), [("source.add", "source.start"), ("source.start", "source.update")]
)
def test_other_commands_neither_overtake_nor_are_overtaken(stage: Stage, older: str, newer: str) -> None:
    """Only start, stop and restart make each other superfluous."""
    running = task("a1", older)
    stage.turns.put(running)
    stage.wait_for("a1")
    stage.turns.put(task("a2", "source.add"))
    assert stage.turns.put(task("a3", newer)) == []
    assert not running.cancelled.is_set()
    stage.let_go("a1", "a2", "a3")
    stage.wait_for("a3")
    assert stage.began == ["a1", "a2", "a3"]


def test_another_source_is_not_overtaken(stage: Stage) -> None:
    """A stop of one source is nothing to the start of another."""
    running = task("a1", "source.start", source="a")
    stage.turns.put(running)
    stage.wait_for("a1")
    stage.turns.put(task("b2", "source.stop", source="b"))
    stage.wait_for("b2")
    assert not running.cancelled.is_set()
    stage.let_go("a1", "b2")


def test_a_command_delivered_again_does_not_overtake_itself(stage: Stage) -> None:
    """After a lane was lost and regained, the same start waits behind its own cancelled first run.

    Nor does an older one that comes late overtake a newer one.
    """
    first = task("a5", "source.start")
    stage.turns.put(first)
    stage.wait_for("a5")
    stage.turns.put(task("a5", "source.start"))
    assert stage.turns.put(task("a4", "source.stop")) == []
    assert not first.cancelled.is_set()
    assert stage.turns.overtaken_by("a5") is None
    stage.let_go("a5", "a4")
    stage.wait_for("a4")


def test_clear_hands_nothing_more_out_and_cancels_what_runs(stage: Stage) -> None:
    """When the lane is lost, waiting commands vanish and running ones are told to stop."""
    running = [task("a1", source="a"), task("b1", source="b")]
    for one in running:
        stage.turns.put(one)
    stage.wait_for("a1", "b1")
    stage.turns.put(task("a2", source="a"))
    stage.turns.clear()
    assert all(one.cancelled.is_set() for one in running)
    stage.let_go("a1", "b1")
    assert idle(stage)()
    assert sorted(stage.began) == ["a1", "b1"]
    stage.turns.put(task("a3", source="a"))
    stage.wait_for("a3")


def test_drain_lets_what_runs_go_on(stage: Stage) -> None:
    """When the lane is given up, what is being executed may finish; what waits is left for the next owner."""
    running = task("a1")
    stage.turns.put(running)
    stage.wait_for("a1")
    stage.turns.put(task("a2"))
    stage.turns.drain()
    assert not running.cancelled.is_set()
    stage.let_go("a1")
    assert idle(stage)()
    assert stage.began == ["a1"]


def test_threads_end_with_their_work(stage: Stage) -> None:
    """A source that has nothing to do has no thread, so that idle sources cost nothing."""
    before = threading.active_count()
    for n in range(1, 30):
        stage.turns.put(task(f"a{n}", source=f"s{n}"))
        stage.let_go(f"a{n}")
    assert idle(stage)()
    for thread in threading.enumerate():
        if thread.name.startswith("turn-"):
            thread.join(PATIENCE)
    assert threading.active_count() <= before
