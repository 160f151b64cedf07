"""A process killed at every step of a command's way, and of an event's into Postgres: no crash counts.

The steps are read off the code, so that a new one is tested without being listed anywhere.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

import msgspec
import pytest

from projections.projection import ALL
from streams.history import replayed
from streams.messages import canonical
from streams.settings import ArchiveSection, PostgresSection, RedisSection
from streams.submit import Signed, Submitter
from tests.fix_archive import ArchivedHall, rows_of
from tests.fix_kinds import KINDS, SOURCES, Sent, check_sent, of_all_kinds, of_kind, updates
from tests.fix_projections import Yard, folded
from tests.fix_servers import eventually
from tests.fix_steps import ROOT, steps_in
from tests.fix_streams import LANE, Hall, insist

ONCE = {"lease taken", "leased", "head proven", "restored", "acquired", "begun"}
"""Steps that an owner passes once, when it takes the lane."""
LEAVING_STEPS = ["releasing", "released"]
"""Those that it passes when it gives the lane up."""
SETTLED_STEPS = ["acknowledged"]
"""Those that it passes where an entry waits that has its result."""
COMMAND_STEPS = [
    name
    for name in steps_in(
        "streams/worker.py", "streams/log.py", "streams/proofs.py", "streams/lease.py",
        "streams/durability.py", "streams/rejections.py",
    )
    if name not in (*LEAVING_STEPS, *SETTLED_STEPS)
]  # fmt: skip
HELD_STEPS = steps_in("streams/held_replies.py")
TRIM_STEPS = steps_in("streams/trimming.py")
HEALING_STEPS = steps_in("streams/healing.py")
EVENT_STEPS = steps_in("projections/runner.py", "projections/folding.py")
ARCHIVE_STEPS = steps_in("projections/archive.py")
ALL_STEPS = [
    *COMMAND_STEPS, *LEAVING_STEPS, *SETTLED_STEPS, *HELD_STEPS, *TRIM_STEPS, *HEALING_STEPS, *EVENT_STEPS,
    *ARCHIVE_STEPS,
]  # fmt: skip
TOLD_STEPS = {"appending": 2, "appended": 2, "proven": 2, "replied": 2, "proven later": 1, "raised later": 1}
"""The steps between a result and its reply, and the passing at which there is a result."""
ALSO = [("appending", 2), ("appended", 2), ("replied", 2), ("durable", 3)]
"""Passings beside the first: an owner's first append tells of itself, and is proven before any command is."""


def passings(steps: Iterable[str], again: int) -> list[Any]:
    """Each step at its first passing, and at a later one: those are for `make schedules`."""
    once = {*ONCE, *(step for step, passing in ALSO if passing == again)}
    later = [pytest.param(step, again, marks=pytest.mark.chaos) for step in steps if step not in once]
    return [*((step, 1) for step in steps), *later]


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
    return [one.command for one in updates(hall, count)]


def check_in_order(hall: Hall, commands: list[Signed]) -> None:
    """One result and one fact for each command, each source's by their sequence; the log verifies."""
    check_sent(hall, [Sent(command, "completed") for command in commands])


def submitted(hall: Hall, sent: list[Sent]) -> list[Sent]:
    """The same, once they are submitted."""
    for answer in hall.submitter().accept_all([one.command for one in sent], timeout=5):
        assert answer is None
    return sent


def check_answers(hall: Hall, sent: list[Sent]) -> None:
    """Everybody is told what the log says, and the log what was to become of each; an owner is at work.

    Another command is added to them, which that owner takes only after what was left pending.
    """
    sent += submitted(hall, updates(hall, 1))
    insist(hall.submitter(), sent[-1].command)
    answers = [insist(hall.submitter(), one.command) for one in sent]
    assert [answer.outcome for answer in answers] == [one.outcome for one in sent]
    check_sent(hall, sent, answers)


@pytest.mark.parametrize(("step", "passing"), [*passings(COMMAND_STEPS, 3), *ALSO])
def test_an_owner_killed_at_a_step_leaves_one_result_each(proven_hall: Hall, step: str, passing: int) -> None:
    """Commands of all kinds wait and come; the process dies at the step; the next one finishes them."""
    hall = proven_hall
    sent = submitted(hall, of_all_kinds(hall))
    # What is asked for at `memory` alone is proven later, unless somebody waits for what comes with it.
    turns = cycle(("", "started", "rejected"))
    with process("worker", hall.settings, TOCSIN_TEST_DIE_AT=f"{step}:{passing}") as first:

        def dead_or_given_more() -> bool:
            if died(first):
                return True
            if hall.waiting() < 12:
                kind = next(turns)
                sent.extend(submitted(hall, of_kind(hall, kind, "memory") if kind else updates(hall, 3)))
            return False

        eventually(dead_or_given_more, f"a crash at the step {step!r}")
    with process("worker", hall.settings, TOCSIN_TEST_NODE="second"):
        check_answers(hall, sent)


def of_one_kind() -> list[Any]:
    """The passings around the append of what was done with the first commands of a kind.

    The crash just behind it is played for each, the one just before it where more is kept than a result.
    """
    found: list[Any] = []
    for kind in KINDS:
        # What is counted is so some time after those that are told each.
        passing = 3 if kind == "counted" else 2
        for durability in ("memory", "replica"):
            at = {"appended": passing, "appending": passing, "replied": passing, "admitted": 1, "settled": 1}
            at |= {"executed": 1} if kind in ("started", "superseded") else {}
            at |= {"counted": 1} if kind == "counted" else {}
            at |= {"proven": 1} if durability == "replica" else {}
            played = {"appended"}
            if kind in ("parked", "counted") and durability == "replica":
                played |= {"appending"}
            for step, n in at.items():
                marks = () if step in played else pytest.mark.chaos
                found.append(pytest.param(kind, durability, step, n, marks=marks))
    return found


@pytest.mark.parametrize(("kind", "durability", "step", "passing"), of_one_kind())
def test_an_owner_killed_over_one_kind_leaves_one_result_each(
    proven_hall: Hall, kind: str, durability: Any, step: str, passing: int
) -> None:
    """Nothing else waits, so it dies over that: each has its result, what is parked one copy, once."""
    hall = proven_hall
    sent = submitted(hall, of_kind(hall, kind, durability) + of_kind(hall, kind, durability))
    with process("worker", hall.settings, TOCSIN_TEST_DIE_AT=f"{step}:{passing}") as first:
        eventually(lambda: died(first), f"a crash at the step {step!r}")
    if step == "appended":
        stand = {logged.event.type for logged in hall.events()}
        assert stand & set(KINDS[kind]), "it did not die over what it was to die over"
    with process("worker", hall.settings, TOCSIN_TEST_NODE="second"):
        check_answers(hall, sent)


@pytest.mark.parametrize("step", LEAVING_STEPS)
def test_an_owner_killed_while_it_leaves_leaves_one_result_each(proven_hall: Hall, step: str) -> None:
    """Told to end in the midst of it, and killed then: the release is logged once, the rest is done."""
    hall = proven_hall
    sent = submitted(hall, of_all_kinds(hall))
    with process("worker", hall.settings, TOCSIN_TEST_DIE_AT=f"{step}:1") as first:
        eventually(lambda: hall.results(), "the first result")
        first.send_signal(signal.SIGTERM)
        eventually(lambda: died(first), f"a crash at the step {step!r}")
    (released,) = [logged.event for logged in hall.events() if logged.event.type == "lane.released"]
    assert released == hall.events()[-1].event
    assert (hall.link.call("GET", hall.keys.lease) is None) == (step == "released")
    with process("worker", hall.settings, TOCSIN_TEST_NODE="second"):
        check_answers(hall, sent)


@pytest.mark.parametrize("step", SETTLED_STEPS)
def test_an_owner_killed_over_what_has_its_result_carries_nothing_out_again(hall: Hall, step: str) -> None:
    """They stand in the stream again, as if nobody had acknowledged them: they go, and that is all."""
    sent = submitted(hall, updates(hall, 4))
    waiting = hall.link.call("DUMP", hall.keys.commands)
    with process("worker", hall.settings):
        check_answers(hall, sent)
    hall.link.call("RESTORE", hall.keys.commands, 0, waiting, "REPLACE")
    with process("worker", hall.settings, TOCSIN_TEST_DIE_AT=f"{step}:2") as first:
        eventually(lambda: died(first), f"a crash at the step {step!r}")
    assert hall.waiting() == 2
    with process("worker", hall.settings, TOCSIN_TEST_NODE="third"):
        eventually(lambda: not hall.waiting(), "the stream empty")
        check_answers(hall, sent)


@contextmanager
def archiving(hall: ArchivedHall, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A process that archives the hall's lane."""
    with process("archive", hall.settings, **environment) as started:
        yield started


def asked_at_archive(hall: ArchivedHall, count: int, submitter: Submitter | None = None) -> list[Signed]:
    """Commands of durability `archive`, submitted and waiting."""
    commands = [hall.command("source.update", SOURCES[n % 3], durability="archive") for n in range(count)]
    submitter = submitter or hall.submitter()
    for command in commands:
        submitter.accept(command, timeout=5)
    return commands


@pytest.mark.parametrize(("step", "passing"), [*TOLD_STEPS.items(), *((step, 1) for step in HELD_STEPS)])
def test_what_is_told_at_archive_is_archived_whenever_its_owner_dies(
    archived: ArchivedHall, step: str, passing: int
) -> None:
    """An owner killed between result and reply: the next one has it told, once, and only once it is kept."""
    hall, asking = archived, archived.submitter()
    commands = asked_at_archive(hall, 4, asking)
    # An owner's own facts are what nobody waits for: they are proven later.
    commands.append(hall.command("source.update", "slow", durability="memory"))
    hall.submitter().accept(commands[-1], timeout=5)
    with archiving(hall):
        with process("worker", hall.settings, TOCSIN_TEST_DIE_AT=f"{step}:{passing}") as first:
            eventually(lambda: died(first), f"a crash at the step {step!r}")
        told, kept = asking.receive(0.01), len(rows_of(hall.yard))
        assert all(answer.seq <= kept for answer in told)
        assert bool(told) == (step == "held replies sent")
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


@pytest.mark.parametrize("step", TRIM_STEPS)
def test_an_owner_killed_while_it_trims_leaves_the_whole_history(archived: ArchivedHall, step: str) -> None:
    """It dies before it lets go of what is archived, or just after: log and archive together have it all."""
    hall = archived
    hall.settings = msgspec.structs.replace(hall.settings, archive=ArchiveSection(keep=0.0))
    with archiving(hall), process("worker", hall.settings):
        commands = asked_at_archive(hall, 9)
        for command in commands:
            insist(hall.submitter(), command)
        hall.wait_until_archived()
    before = hall.stored()
    # The archive is told to be far enough only now, and no projection is waited for: the next owner trims.
    told = (len(before), before[-1][1], len(before))
    assert hall.link.call("FCALL", "tocsin_archived", 2, hall.keys.archived, hall.keys.events, *told) == b"ok"
    with process("worker", hall.settings, TOCSIN_TEST_DIE_AT=f"{step}:1") as first:
        eventually(lambda: died(first), f"a crash at the step {step!r}")
    assert len(hall.stored()) == (len(before) if step == "trimming" else 1)
    with archiving(hall), process("worker", hall.settings, TOCSIN_TEST_NODE="second"):
        commands += asked_at_archive(hall, 1)
        insist(hall.submitter(), commands[-1])
        hall.wait_until_archived()
    whole = list(replayed(hall.link, hall.keys, hall.archive))
    assert [(logged.raw, logged.hash) for logged in whole] == rows_of(hall.yard)
    assert rows_of(hall.yard)[: len(before)] == before
    results = [logged.event.command for logged in whole if logged.event.type == "command.completed"]
    assert sorted(filter(None, results)) == sorted(command.command.id for command in commands)
    assert len(hall.stored()) < len(whole)


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
