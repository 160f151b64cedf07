"""The Redis primary dies while commands flow: what anyone was told still holds, by itself."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from streams.durability import Prover
from tests.fix_load import Load, check_told
from tests.fix_servers import Trio
from tests.fix_streams import Hall, Scripted, insist, working


@pytest.mark.slow
def test_what_was_answered_holds_after_the_primary_was_killed(
    sentinel_trio: Trio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every command that was answered has exactly one result in the new primary's log, in order per source.

    What a reader was shown stands there too. The next commands work, the log verifies, nobody lends a hand.
    """
    monkeypatch.setattr("streams.worker.IDLE", 0.2)
    trio = sentinel_trio
    hall = Hall(trio.redis, tmp_path)
    prover = Prover(trio.redis)
    load = Load(hall, prover, operators=2)
    with working(hall, Scripted(), prover=prover) as worker, load.at_work():
        load.flows(20)
        old = trio.primary()
        began = time.monotonic()
        trio.kill(old)
        trio.wait_for_other_primary(old)
        load.flows(20)
        print(f"confirmed again {time.monotonic() - began:.1f} s after the primary was killed")
        assert worker.owned.wait(20)
    check_told(hall, load)
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
