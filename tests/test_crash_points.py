"""A process killed at every step of a command's way, and of an event's into Postgres: no crash counts.

The steps are read off the code, so that a new one is tested without being listed anywhere.
"""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from projections.projection import ALL
from streams.messages import canonical
from streams.submit import Signed
from tests.fix_projections import Yard, folded
from tests.fix_servers import eventually
from tests.fix_streams import LANE, Hall, insist

ROOT = Path(__file__).parent.parent
SOURCES = ("slow", "quick", "other")
"""The handler carries out the commands of `quick` in the lane's own thread, the others in theirs."""
ONCE = {"leased", "head proven", "restored", "acquired", "begun"}
"""Steps that an owner passes once, when it takes the lane."""


def steps_in(package: str) -> list[str]:
    """The names of all steps in the package's code; each is said literally, and in one place."""
    found: list[str] = []
    for path in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "step":
                (name,) = node.args
                assert isinstance(name, ast.Constant), f"{path.name}: a step has a literal name"
                found.append(str(name.value))
    return found


COMMAND_STEPS = steps_in("streams")
EVENT_STEPS = steps_in("projections")
CASES = [(step, 1) for step in COMMAND_STEPS] + [(step, 3) for step in COMMAND_STEPS if step not in ONCE]


def test_steps_have_names_of_their_own() -> None:
    """No two places share a name, or one of them would never be tested; there are some of both kinds."""
    steps = COMMAND_STEPS + EVENT_STEPS
    assert len(set(steps)) == len(steps)
    assert len(COMMAND_STEPS) >= 10
    assert len(EVENT_STEPS) >= 4
    assert set(COMMAND_STEPS) >= ONCE


@contextmanager
def process(role: str, settings: msgspec.Struct, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A process that works in the role; it is killed at the end."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.programs.stepwise", role],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environment},
    ) as started:
        assert started.stdin is not None
        try:
            started.stdin.write(canonical(settings).decode() + "\n")
            started.stdin.flush()
            yield started
        finally:
            started.kill()


def died(process: subprocess.Popen[str]) -> bool:
    """Whether it has ended; by nothing else than the SIGKILL it gave itself."""
    if process.poll() is None:
        return False
    assert process.returncode == -signal.SIGKILL, "the process failed before its step"
    return True


def commands_for(hall: Hall, count: int) -> list[Signed]:
    """Commands that overtake nothing, dealt to the sources in turn."""
    return [hall.command("source.update", SOURCES[n % len(SOURCES)]) for n in range(count)]


def check_in_order(hall: Hall, commands: list[Signed]) -> None:
    """One result and one fact for each command, each source's by their sequence; the log verifies."""
    events = [logged.event for logged in hall.events()]
    assert hall.results() == {command.command.id: ["completed"] for command in commands}
    for source in SOURCES:
        expected = list(range(1, 1 + sum(command.command.source == source for command in commands)))
        facts = [int(e.data["name"]) for e in events if e.type == "source.updated" and e.source == source]
        results = [e.data["sequence"] for e in events if e.type == "command.completed" and e.source == source]
        assert facts == results == expected
    assert hall.verdict().fault is None
    assert hall.waiting() == 0


@pytest.mark.parametrize(("step", "passing"), CASES)
def test_an_owner_killed_at_a_step_leaves_one_result_each(hall: Hall, step: str, passing: int) -> None:
    """Commands wait and come; the process dies at the step; the next one finishes what was begun."""
    commands = commands_for(hall, 6)
    submitter = hall.submitter()
    for command in commands:
        submitter.accept(command, timeout=5)
    with process("worker", hall.settings, TOCSIN_TEST_DIE_AT=f"{step}:{passing}") as first:

        def dead_or_given_more() -> bool:
            if died(first):
                return True
            if hall.waiting() < 12:
                commands.extend(commands_for(hall, 3))
                for command in commands[-3:]:
                    submitter.accept(command, timeout=5)
            return False

        eventually(dead_or_given_more, f"a crash at the step {step!r}")
    with process("worker", hall.settings, TOCSIN_TEST_NODE="second"):
        answers = [insist(hall.submitter(), command) for command in commands]
    assert {answer.outcome for answer in answers} == {"completed"}
    check_in_order(hall, commands)


@pytest.mark.parametrize(("step", "passing"), [(step, n) for step in EVENT_STEPS for n in (1, 3)])
def test_a_projection_killed_at_a_step_counts_nothing_twice(yard: Yard, step: str, passing: int) -> None:
    """The process dies at the step; the next one goes on: rows and positions are those of a fresh replay."""
    scribe = yard.scribe(LANE)
    for n in range(8):
        scribe.add(f"source-{n % 3}", running=True)
        scribe.settle(f"command-{n % 6}", f"source-{n % 3}", ("completed", "failed")[n // 6])
    events = scribe.chain.events
    with process("projections", yard.settings, TOCSIN_TEST_DIE_AT=f"{step}:{passing}") as first:
        eventually(lambda: died(first), f"a crash at the step {step!r}")
    end = {(projection.name, len(events), events[-1].hash) for projection in ALL}

    def stands() -> set[tuple[Any, ...]]:
        with yard.engine.begin() as connection:
            rows = connection.exec_driver_sql("SELECT projection, seq, hash FROM positions")
            return {tuple(row) for row in rows}

    with process("projections", yard.settings):
        eventually(lambda: stands() >= end, "the whole log folded")
        assert yard.all_rows(LANE) == folded(events)
