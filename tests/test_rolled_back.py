"""A log that a failover rolled back: whoever knows more puts it back, and nobody skips over it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from projections.runner import Runner
from streams.admission import Task
from streams.drafts import Draft
from streams.handler import Result
from streams.healing import Repair, mark, missing, put_back
from streams.history import Entry
from streams.messages import (
    GENESIS,
    OUTCOMES,
    Durability,
    Event,
    Logged,
    canonical,
    decode_answer,
    digest,
    now,
)
from streams.settings import PostgresSection
from streams.submit import InDoubt, NoAnswer, Signed
from streams.tail import Position
from tests.fix_failover import Pair
from tests.fix_projections import Chain, Yard, folded
from tests.fix_servers import eventually
from tests.fix_streams import LANE, Functions, Hall, Scripted, chain, insist, working


def chain_of(count: int) -> list[Entry]:
    """Events that follow one another from the first on, with their hashes."""
    chain = Chain()
    return [(logged.raw, logged.hash) for logged in (chain.event("source.added", "s") for _ in range(count))]


CHAIN = chain_of(30)
OTHER = [(raw, digest(stated.encode())) for raw, stated in CHAIN]


def head_at(entries: list[Entry], seq: int) -> Position:
    return Position(seq, entries[seq - 1][1] if seq else GENESIS)


@given(first=st.integers(1, 30), last=st.integers(0, 30), head=st.integers(0, 30))
def test_what_is_missing_joins_on_to_the_head(first: int, last: int, head: int) -> None:
    """Of the kept events just those behind the head are missing; across a gap none can be told."""
    kept = CHAIN[first - 1 : last]
    found = missing(kept, head_at(CHAIN, head))
    if kept and first - 1 <= head <= last:
        assert found == CHAIN[head:last]
    else:
        assert found is None


@given(head=st.integers(1, 30), last=st.integers(0, 30))
def test_nothing_is_missing_from_another_history(head: int, last: int) -> None:
    """A head with the same seq and another hash is no prefix of what is kept: nothing is put behind it."""
    assert missing(CHAIN[:last], head_at(OTHER, head)) is None


@given(
    outcome=st.sampled_from(OUTCOMES),
    sequence=st.integers(1, 2**53),
    seq=st.integers(1, 2**53),
    texts=st.dictionaries(
        st.sampled_from(["state", "reason", "field", "by", "detail"]), st.text(max_size=20)
    ),
    request_text=st.text(max_size=40),
)
def test_a_mark_is_made_again_from_the_result(
    outcome: str, sequence: int, seq: int, texts: dict[str, str], request_text: str
) -> None:
    """The answer, digest and entry that stood in Redis follow from the result event alone."""
    data = {"type": "source.start", "sequence": sequence, "request": request_text, "signature": "", **texts}
    event = Event(
        seq=seq, prev=GENESIS, token=1, at=now(), logged_at=now(), node="n", type=f"command.{outcome}",
        data={**data, "entry": "5-1"}, schema=1, source="s", command="id",
    )  # fmt: skip
    made = mark(event, LANE)
    assert made is not None
    assert (made.entry, made.id, made.sequence, made.source) == ("5-1", "id", sequence, "s")
    assert made.digest == digest(request_text.encode())
    assert msgspec.to_builtins(decode_answer(made.answer)) == {
        "id": "id", "lane": LANE, "outcome": outcome, "sequence": sequence, "seq": seq, **texts
    }  # fmt: skip
    assert made.forget_at > event.logged_at
    assert mark(msgspec.structs.replace(event, command=None), LANE) is None
    assert mark(msgspec.structs.replace(event, type="source.added"), LANE) is None


def test_putting_a_result_back_takes_away_no_other_command(hall: Hall, functions: Functions) -> None:
    """Two primaries give entries of one millisecond one id: the command that has it here stays open."""
    theirs = functions.submit("theirs")[2].decode()
    mine = functions.submit("mine")[2].decode()
    lease = functions.acquire()
    functions.take(lease.fence)
    entries = [result_in(theirs, "lost", 1, GENESIS)]
    entries.append(result_in(mine, "mine", 2, entries[0][1]))
    repair = Repair(link=hall.link, keys=hall.keys, lane=LANE, lease=lease)
    head = put_back(repair, Position(0, GENESIS), entries)
    assert [entry for entry, _ in hall.link.call("XRANGE", hall.keys.commands, "-", "+")] == [theirs.encode()]
    settlement = (theirs, "theirs", "{}", 2**45)
    (event,) = chain(1, first=head.seq + 1, prev=head.hash)
    done = functions.append(lease, [event], [settlement], seq=head.seq, hash=head.hash)
    assert done[0] == b"ok"
    assert functions.submit("theirs")[1].endswith(b" {}")


def test_a_condition_on_the_sequence_holds_across_what_was_put_back(hall: Hall) -> None:
    """Two primaries give two commands one sequence: the one whose result stands first was first."""
    first, second, third = (hall.command(if_sequence=sequence) for sequence in (1, 1, 2))
    with working(hall, Scripted()):
        assert insist(hall.submitter(), hall.command()).sequence == 1
    here = hall.dump()
    assert hall.submitter().accept(second, timeout=5) is None
    elsewhere = hall.dump()
    hall.roll_back(here)
    with working(hall, Scripted()):
        assert insist(hall.submitter(), first).outcome == "completed"
        hall.roll_back(elsewhere)

        refused = insist(hall.submitter(), second)
        assert (refused.outcome, refused.reason, refused.field) == ("rejected", "sequence", "if_sequence")
        assert insist(hall.submitter(), third).sequence == 3
        assert insist(hall.submitter(), first).outcome == "completed"
    assert hall.verdict().fault is None


def result_in(entry: str, id: str, seq: int, prev: str) -> Entry:
    """The result of the command `id` that stood in this entry, as an event and its hash."""
    data = {"type": "source.start", "sequence": 1, "request": "{}", "signature": "", "entry": entry}
    event = Event(
        seq=seq, prev=prev, token=1, at=now(), logged_at=now(), node="n", type="command.completed",
        data=data, schema=1, source="kwfm", command=id,
    )  # fmt: skip
    raw = canonical(event)
    return raw, digest(raw)


@contextmanager
def folding(hall: Hall, postgres: PostgresSection) -> Iterator[tuple[Yard, Runner]]:
    """Fold the hall's lane into Postgres meanwhile."""
    stopping = threading.Event()
    with closing(Yard(msgspec.structs.replace(hall.settings, postgres=postgres))) as yard:
        yard.prepare()
        runner = Runner(yard.engine, hall.new_link("fold"), LANE, hall.keys, stopping)
        thread = threading.Thread(target=runner.run, name="fold")
        thread.start()
        try:
            yield yard, runner
        finally:
            stopping.set()
            thread.join(20)


def is_folded(yard: Yard, events: list[Logged]) -> bool:
    """Whether the rows are those of a fresh replay of `events`."""
    return yard.all_rows(LANE) == folded(events)


def added(hall: Hall, count: int, first: int = 0, durability: Durability | None = None) -> list[Signed]:
    """Commands for sources of their own."""
    return [hall.command("source.add", f"source-{first + n}", durability=durability) for n in range(count)]


def adds(task: Task) -> Result:
    """The play of a handler that adds what it is told to add."""
    fact = {"settings": {"kind": "file", "path": "/x"}, "name": task.command.id, "desired": "stopped"}
    draft = Draft(type="source.added", source=task.command.source, command=task.command.id, data=fact)
    return Result(outcome="completed", state="stopped", drafts=(draft,))


def test_what_was_told_at_memory_is_put_back_by_the_owner(
    valkeys: Pair, tmp_path: Path, postgres: PostgresSection
) -> None:
    """The log comes back with the same seq, hash and bytes, and says so; nobody is told anything else."""
    handler = Scripted(adds)
    with (
        closing(Hall(valkeys.wire.redis, tmp_path, "memory")) as hall,
        folding(hall, postgres) as (yard, runner),
        working(hall, handler),
    ):
        commands = added(hall, 6)
        answers = [insist(hall.submitter(), command) for command in commands]
        valkeys.part(hall)
        commands += added(hall, 8, first=6)
        answers += [insist(hall.submitter(), command) for command in commands[6:]]
        told = hall.events()
        eventually(lambda: is_folded(yard, told), "what was told is folded")

        valkeys.fail_over(hall)
        assert [insist(hall.submitter(), command) for command in commands] == answers
        commands += added(hall, 1, first=20)
        assert insist(hall.submitter(), commands[-1]).outcome == "completed"
        events = hall.events()
        assert events[: len(told)] == told
        (restored,) = [logged.event for logged in events if logged.event.type == "log.restored"]
        assert restored.seq == len(told) + 1
        assert restored.data["head"]["seq"] == 13
        assert restored.data["restored"] == {"seq": len(told), "hash": told[-1].hash}
        assert [task.command.id for task in handler.executed] == [one.command.id for one in commands]
        assert set(map(len, hall.results().values())) == {1}
        eventually(lambda: is_folded(yard, events), "the projection goes on by itself")
        assert runner.trouble is None
        assert hall.verdict().fault is None


def test_what_was_told_at_replica_survives_and_the_rest_is_in_doubt(valkeys: Pair, tmp_path: Path) -> None:
    """What the replica has is told and stays; the rest is told to nobody but who asked for `memory`."""
    with closing(Hall(valkeys.wire.redis, tmp_path)) as hall, working(hall, Scripted(adds)):
        sure = added(hall, 5)
        answers = [hall.submitter().submit(command) for command in sure]
        told = hall.events()
        valkeys.part(hall)
        (quick,) = added(hall, 1, first=5, durability="memory")
        quickly = hall.submitter().submit(quick, timeout=5)
        (doubtful,) = added(hall, 1, first=6)
        with pytest.raises((InDoubt, NoAnswer)):
            hall.submitter().submit(doubtful, timeout=1)

        valkeys.fail_over(hall)
        assert [insist(hall.submitter(), command) for command in sure] == answers
        # Its owner knows it still, and so it is told the same again.
        assert insist(hall.submitter(), quick) == quickly
        assert insist(hall.submitter(), doubtful).outcome == "completed"
        assert hall.events()[: len(told)] == told
        assert hall.results() == {one.command.id: ["completed"] for one in [*sure, quick, doubtful]}
        assert hall.verdict().fault is None


def test_a_position_beyond_the_head_is_never_skipped_over(
    valkeys: Pair, tmp_path: Path, postgres: PostgresSection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nobody is left who knows what was lost, the projection says so and keeps what it has."""
    # The replica still has the lease that the first owner gave up where it was not heard any more.
    monkeypatch.setattr("streams.lease.LENGTH", 2.0)
    monkeypatch.setattr("streams.worker.RENEW", 0.5)
    with (
        closing(Hall(valkeys.wire.redis, tmp_path, "memory")) as hall,
        folding(hall, postgres) as (yard, runner),
    ):
        with working(hall, Scripted(adds)):
            insist(hall.submitter(), added(hall, 1)[0])
            valkeys.part(hall)
            for command in added(hall, 3, first=1):
                insist(hall.submitter(), command)
        told = hall.events()
        eventually(lambda: is_folded(yard, told), "what was told is folded")
        valkeys.fail_over(hall)
        with working(hall, Scripted(adds), node="two"):
            eventually(lambda: "PositionAhead" in (runner.trouble or ""), "the trouble is said")
            for command in added(hall, 6, first=10):
                assert insist(hall.submitter(), command).outcome == "completed"
            head = hall.events()[-1].event.seq
            assert head > len(told)
            eventually(
                lambda: f"whose head is {head}" in (runner.trouble or ""), "the other history is seen too"
            )
            assert "PositionAhead" in (runner.trouble or "")
            assert is_folded(yard, told)
