"""The Redis primary dies or hangs while commands flow: what anyone was told still holds, by itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from streams.connection import Unreachable
from streams.durability import Prover
from streams.messages import Answer
from streams.tail import Tail
from tests.fix_servers import Trio, eventually
from tests.fix_streams import Hall, Scripted, insist, working


class Operators:
    """Two who keep submitting, and a reader who follows the log; what each was told is kept."""

    def __init__(self, hall: Hall) -> None:
        self._hall = hall
        self._stop = threading.Event()
        self.answers: list[Answer] = []
        self.read: list[tuple[int, str]] = []
        self.errors: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._guarded, args=(self._operate, who)) for who in range(2)
        ]
        self._threads.append(threading.Thread(target=self._guarded, args=(self._follow, 0)))

    def _guarded(self, body: object, who: int) -> None:
        try:
            body(who)  # type: ignore[operator]
        except BaseException as error:
            self.errors.append(error)

    def _operate(self, who: int) -> None:
        submitter = self._hall.submitter()
        count = 0
        while not self._stop.is_set():
            command = self._hall.command("source.update", source=f"s{who}-{count % 3}")
            self.answers.append(insist(submitter, command))
            count += 1

    def _follow(self, _: int) -> None:
        tail = Tail(self._hall.new_link("tail"), self._hall.keys)
        while not self._stop.is_set():
            try:
                self.read += [(one.event.seq, one.hash) for one in tail.read(block=0.2)]
            except Unreachable:
                time.sleep(0.05)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join(60)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["killed", "paused and resumed"])
def test_what_was_answered_holds_after_a_failover(
    sentinel_trio: Trio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Every command that was answered has exactly one result in the new primary's log, in order per source.

    What a reader was shown stands there too. The next commands work, the log verifies, nobody lends a hand.
    """
    monkeypatch.setattr("streams.worker.IDLE", 0.2)
    trio = sentinel_trio
    hall = Hall(trio.redis, tmp_path)
    operators = Operators(hall)
    prover = Prover(trio.redis)
    with working(hall, Scripted(), prover=prover) as worker, operators.at_work():
        eventually(lambda: len(operators.answers) >= 20, "commands flowing")
        old = trio.primary()
        before = len(operators.answers)
        began = time.monotonic()
        trio.kill(old) if how == "killed" else trio.pause(old)
        trio.wait_for_other_primary(old)
        if how != "killed":
            trio.resume(old)
        eventually(lambda: len(operators.answers) >= before + 20, "commands flowing again", 40)
        print(f"confirmed again {time.monotonic() - began:.1f} s after the primary was {how}")
        assert worker.owned.wait(20)
    hall.link.close()
    assert operators.errors == []
    log = hall.events()
    stands = {one.event.seq: one.hash for one in log}
    assert all(stands[seq] == hash for seq, hash in operators.read)
    assert [seq for seq, _ in operators.read] == list(range(1, len(operators.read) + 1))
    assert hall.verdict().fault is None
    results = hall.results()
    for answer in operators.answers:
        assert answer.outcome == "completed"
        assert results[answer.id] == ["completed"]
        assert log[answer.seq - 1].event.command == answer.id
    assert len(results) == len(operators.answers)
    for source in {one.event.source for one in log if one.event.command}:
        numbers = [one.event.data["sequence"] for one in log if one.event.source == source]
        assert numbers == list(range(1, len(numbers) + 1))
    assert hall.waiting() == 0
    hall.close()


@pytest.mark.slow
def test_what_only_the_lost_primary_had_is_put_back_by_the_owner(
    sentinel_trio: Trio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At `memory` a failover takes the end of the log; the owner still has it and puts it back as it was.

    Same seq, same hashes, the answers stand again, and `log.restored` tells of it.
    """
    monkeypatch.setattr("streams.worker.IDLE", 0.2)
    trio = sentinel_trio
    hall = Hall(trio.redis, tmp_path, durability="memory")
    handler = Scripted()
    with working(hall, handler) as worker:
        submitter = hall.submitter()
        kept = [submitter.submit(hall.command(source="kept")) for _ in range(3)]
        old = trio.primary()
        trio.ask(old, "CONFIG", "SET", "min-replicas-to-write", 0)
        trio.ask(old, "WAIT", 2, 1000)
        for name in trio.replicas():
            trio.ask(name, "CONFIG", "SET", "masterauth", "no way in")
        trio.ask(old, "CLIENT", "KILL", "TYPE", "replica")
        commands = [hall.command(source="lost") for _ in range(5)]
        lost = [submitter.submit(command) for command in commands]
        before = hall.events()
        trio.kill(old)
        for name in (name for name in trio.NAMES if name != old):
            trio.ask(name, "CONFIG", "SET", "masterauth", trio.password)
        trio.wait_for_other_primary(old)
        after = insist(submitter, hall.command(source="after"))
        assert worker.owned.wait(20)
        hall.link.close()
        log = hall.events()
        assert [(one.raw, one.hash) for one in log[: len(before)]] == [(one.raw, one.hash) for one in before]
        assert [insist(submitter, command) for command in commands] == lost
    assert after.outcome == "completed"
    assert "log.restored" in {one.event.type for one in log}
    assert hall.verdict().fault is None
    assert all(outcomes == ["completed"] for outcomes in hall.results().values())
    assert len(hall.results()) == len(kept) + len(lost) + 1
    assert len(handler.executed) == len(hall.results())
    hall.close()
