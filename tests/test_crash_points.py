"""A process killed at every step of a command's way, and of an event's into Postgres: no crash counts.

The steps are read off the code, so that a new one is tested without being listed anywhere.
"""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from projections.projection import ALL
from streams.messages import canonical
from streams.settings import PostgresSection, RedisSection
from streams.submit import Signed
from tests.fix_archive import ArchivedHall, rows_of
from tests.fix_projections import Yard, folded
from tests.fix_servers import eventually
from tests.fix_streams import LANE, Hall, insist

ROOT = Path(__file__).parent.parent
SOURCES = ("slow", "quick", "other")
"""The handler carries out the commands of `quick` in the lane's own thread, the others in theirs."""
ONCE = {"leased", "head proven", "restored", "acquired", "begun"}
"""Steps that an owner passes once, when it takes the lane."""


def steps_in(*places: str) -> list[str]:
    """The names of all steps in the packages' or modules' code; each is said literally, in one place."""
    found: list[str] = []
    roots = [ROOT / place for place in places]
    for path in [
        path for root in roots for path in (sorted(root.rglob("*.py")) if root.is_dir() else [root])
    ]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "step":
                (name,) = node.args
                assert isinstance(name, ast.Constant), f"{path.name}: a step has a literal name"
                found.append(str(name.value))
    return found


COMMAND_STEPS = steps_in("streams/worker.py", "streams/log.py", "streams/proofs.py")
HEALING_STEPS = steps_in("streams/healing.py")
EVENT_STEPS = steps_in("projections/runner.py", "projections/folding.py")
ARCHIVE_STEPS = steps_in("projections/archive.py")


def passings(steps: Iterable[str], again: int) -> list[Any]:
    """Each step at its first passing, and at a later one: those are for `make schedules`."""
    later = [pytest.param(step, again, marks=pytest.mark.chaos) for step in steps if step not in ONCE]
    return [*((step, 1) for step in steps), *later]


TOLD_STEPS = ("appending", "appended", "proven", "replied", "proven later", "raised later")
"""The steps between a result and its reply."""


def test_every_step_in_the_rooms_has_its_crash() -> None:
    """No two places share a name, or one of them would never be tested; none stands where nobody looks."""
    steps = COMMAND_STEPS + HEALING_STEPS + EVENT_STEPS + ARCHIVE_STEPS
    assert len(set(steps)) == len(steps)
    assert sorted(steps) == sorted(steps_in("streams", "control", "ingest", "projections"))
    assert len(COMMAND_STEPS) >= 10
    assert min(map(len, (HEALING_STEPS, EVENT_STEPS, ARCHIVE_STEPS))) >= 4
    assert set(COMMAND_STEPS) >= {*ONCE, *TOLD_STEPS}


@pytest.fixture
def proven_hall(valkey_pair: RedisSection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hall]:
    """A station on a primary with a replica: what is proven there was acknowledged."""
    monkeypatch.setattr("streams.submit.ASK_AGAIN", 0.2)
    with closing(Hall(valkey_pair, tmp_path)) as made:
        yield made


@pytest.fixture
def archived(
    valkey_pair: RedisSection, postgres: PostgresSection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ArchivedHall]:
    """The same with a Postgres."""
    monkeypatch.setattr("streams.submit.ASK_AGAIN", 0.2)
    with closing(ArchivedHall(valkey_pair, postgres, tmp_path)) as made:
        yield made


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
    """Commands that overtake nothing, dealt to the sources in turn; of both ways to prove a result."""
    return [
        hall.command("source.update", SOURCES[n % len(SOURCES)], durability=("replica", "memory")[n % 2])
        for n in range(count)
    ]


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


@pytest.mark.parametrize(("step", "passing"), passings(COMMAND_STEPS, 3))
def test_an_owner_killed_at_a_step_leaves_one_result_each(proven_hall: Hall, step: str, passing: int) -> None:
    """Commands wait and come; the process dies at the step; the next one finishes what was begun."""
    hall = proven_hall
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


@contextmanager
def archiving(hall: ArchivedHall, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A process that archives the hall's lane."""
    with process("archive", hall.settings, **environment) as started:
        yield started


def asked_at_archive(hall: ArchivedHall, count: int) -> list[Signed]:
    """Commands of durability `archive`, submitted and waiting."""
    commands = [hall.command("source.update", SOURCES[n % 3], durability="archive") for n in range(count)]
    submitter = hall.submitter()
    for command in commands:
        submitter.accept(command, timeout=5)
    return commands


@pytest.mark.parametrize("step", TOLD_STEPS)
def test_what_is_told_at_archive_is_archived_whenever_its_owner_dies(
    archived: ArchivedHall, step: str
) -> None:
    """An owner killed between result and reply: the next one has it told, once, and only once it is kept."""
    hall = archived
    commands = asked_at_archive(hall, 4)
    # An owner's own facts are what nobody waits for: they are proven later.
    commands.append(hall.command("source.update", "slow", durability="memory"))
    hall.submitter().accept(commands[-1], timeout=5)
    with archiving(hall):
        with process("worker", hall.settings, TOCSIN_TEST_DIE_AT=f"{step}:2") as first:
            eventually(lambda: died(first) or not hall.waiting(), f"a crash at the step {step!r}")
        with process("worker", hall.settings, TOCSIN_TEST_NODE="second"):
            for command in commands:
                answer = insist(hall.submitter(), command)
                assert answer.outcome == "completed"
                if command.command.durability == "archive":
                    assert len(rows_of(hall.yard)) >= answer.seq
    check_in_order(hall, commands)


@pytest.mark.parametrize(("step", "passing"), passings(ARCHIVE_STEPS, 2))
def test_an_archiver_killed_at_a_step_keeps_everything_once(
    archived: ArchivedHall, step: str, passing: int
) -> None:
    """The process dies at the step; the next one goes on, and whoever waits for `archive` is told."""
    hall = archived
    with process("worker", hall.settings):
        commands = asked_at_archive(hall, 12)
        with archiving(hall, TOCSIN_TEST_DIE_AT=f"{step}:{passing}") as first:
            eventually(lambda: died(first), f"a crash at the step {step!r}")
        with archiving(hall):
            for command in commands:
                assert insist(hall.submitter(), command).outcome == "completed"
            hall.wait_until_archived()
    assert rows_of(hall.yard) == hall.stored()
    check_in_order(hall, commands)


@pytest.mark.parametrize(("step", "passing"), passings(HEALING_STEPS, 2))
def test_an_owner_killed_while_it_heals_leaves_a_whole_log_that_tells_of_it(
    archived: ArchivedHall, step: str, passing: int
) -> None:
    """It dies between putting back and telling: the next owner has the same events, and tells once."""
    hall = archived
    with archiving(hall):
        with process("worker", hall.settings):
            commands = asked_at_archive(hall, 3)
            for command in commands:
                insist(hall.submitter(), command)
            dump = hall.dump()
            commands += asked_at_archive(hall, 9)
            for command in commands:
                insist(hall.submitter(), command)
        hall.wait_until_archived()
    before = hall.stored()
    hall.roll_back(dump)
    rolled_back_to = hall.head()
    # What it tells, it tells once: there is no second passing.
    dies = step not in ("telling", "told") or passing == 1
    with process("worker", hall.settings, TOCSIN_TEST_DIE_AT=f"{step}:{passing}") as first:
        eventually(lambda: died(first) if dies else hall.head() > len(before) + 1, f"a crash at {step!r}")
    # What asks for `archive` is answered once the archive has told again how far it is.
    with archiving(hall), process("worker", hall.settings, TOCSIN_TEST_NODE="second"):
        eventually(lambda: hall.events()[-1].event.node == "second", "the next owner")
        submitter = hall.submitter()
        assert all(insist(submitter, command).outcome == "completed" for command in commands)
    assert hall.stored()[: len(before)] == before
    (told,) = [logged.event for logged in hall.events() if logged.event.type == "log.restored"]
    assert (told.data["head"]["seq"], told.data["restored"]["seq"]) == (rolled_back_to, len(before))
    check_in_order(hall, commands)


@pytest.mark.parametrize(("step", "passing"), passings(EVENT_STEPS, 3))
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
