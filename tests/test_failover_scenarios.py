"""The schedules by which naive clients were measured to lose what had been confirmed to them.

Each is played on real servers, guards and Sentinels under load; what anyone was told must stand. Where a
naive client can be put beside ours it is, and must lose something, or the schedule proves nothing. The
table in docs/survival.md says which test plays which. TOCSIN_TEST_ROUNDS (1) plays each so often.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from control.guard import replication, rules
from control.station.ask import Refused as AskRefused
from control.station.ask import ask_all
from control.station.ports import LOOPBACK
from streams.connection import Unreachable
from streams.durability import HOLD, Prover
from streams.submit import InDoubt, NoAnswer, Refused
from streams.tail import Tail
from tests.fix_guard import GuardedTrio
from tests.fix_load import Load, check_told
from tests.fix_naive import Naive
from tests.fix_servers import eventually
from tests.fix_sides import running_sides
from tests.fix_streams import Hall, Scripted, insist, working

ROUNDS = range(int(os.environ.get("TOCSIN_TEST_ROUNDS", "1")))
pytestmark = [pytest.mark.slow, pytest.mark.parametrize("round", ROUNDS)]


@pytest.fixture
def trio(guarded_trio: GuardedTrio, monkeypatch: pytest.MonkeyPatch) -> Iterator[GuardedTrio]:
    """The module's guarded trio, whole before and after the test."""
    monkeypatch.setattr("streams.worker.IDLE", 0.2)
    guarded_trio.wait_until_led()
    yield guarded_trio
    guarded_trio.switch_on()
    guarded_trio.wait_until_led()


@contextmanager
def under_load(trio: GuardedTrio, folder: Path) -> Iterator[tuple[Hall, Load]]:
    """Commands are submitted, executed and confirmed meanwhile; in the end what was told is looked after."""
    hall = Hall(trio.redis, folder)
    # One for all, as in a process: the hold for a missing replica is waited out once.
    prover = Prover(trio.redis)
    load = Load(hall, prover)
    with working(hall, Scripted(), prover=prover), load.at_work():
        load.flows()
        yield hall, load
        load.flows()
    check_told(hall, load)
    hall.close()


def has_functions(trio: GuardedTrio, name: str) -> bool:
    """Whether the named server has our functions; nobody but the first primary was ever given them."""
    return "tocsin" in str(trio.ask(name, "FUNCTION", "LIST", "LIBRARYNAME", "tocsin"))


def any_leads(trio: GuardedTrio, names: list[str]) -> bool:
    """Whether one of the named servers calls itself primary."""
    return any((one := trio.standing(name)) and one.role == "master" for name in names)


def switches(trio: GuardedTrio, form: str) -> bool:
    """Ask for a switch-over; False where the last one is not over yet."""
    try:
        trio.ask("sentinel-1", "SENTINEL", "FAILOVER", "tocsin", *([form] if form else []))
    except AskRefused as error:
        if not str(error).startswith(("INPROG", "NOGOODSLAVE")):
            raise
        return False
    return True


def test_a_primary_that_hangs_and_comes_back_as_another_is_promoted(
    trio: GuardedTrio, tmp_path: Path, round: int
) -> None:
    """For a moment it leads beside the new one, and a replica still acknowledges: that must not count."""
    naive = Naive(trio)
    with under_load(trio, tmp_path):
        while naive.goes_on():
            old = trio.primary()
            others = trio.replicas()
            with naive.writing():
                trio.pause(old)
                try:
                    eventually(partial(any_leads, trio, others), "a replica promoted")
                finally:
                    trio.resume(old)
                assert trio.wait_until_led() in others
    assert naive.lost, "the schedule is none by which anybody loses anything"


@pytest.mark.parametrize("form", ["", "COORDINATED"])
def test_a_switch_over_by_hand(trio: GuardedTrio, tmp_path: Path, round: int, form: str) -> None:
    """The plain form promotes while the old primary takes writes; neither form takes anything back.

    The functions are there without being loaded again: they are replicated, as scripts are not.
    """
    if form and "valkey_version" not in str(trio.ask("sentinel-1", "INFO", "server")):
        pytest.skip("only Valkey 9 and newer have the coordinated form")
    naive = Naive(trio)
    with under_load(trio, tmp_path):
        while naive.goes_on():
            old = trio.primary()
            with naive.writing():
                eventually(lambda: switches(trio, form), "a switch-over begun")
                new = trio.wait_for_other_primary(old)
                assert has_functions(trio, new)
                trio.wait_until_led(by=new)
            if form:
                return  # coordinated, and nobody need lose anything
    assert naive.lost, "the schedule is none by which anybody loses anything"


def test_a_wait_behind_no_write_proves_nothing(trio: GuardedTrio, tmp_path: Path, round: int) -> None:
    """While no replica has a command, neither asking again nor reading says that it is accepted."""
    hall = Hall(trio.redis, tmp_path)
    reader = Tail(hall.new_link("reader"), hall.keys)
    reader.read(block=0.01)
    replicas = trio.replicas()
    for name in replicas:
        trio.pause(name)
    try:
        command = hall.command()
        with pytest.raises(InDoubt):
            hall.submitter().accept(command, timeout=0.5)
        # It stands on the primary now, and a new connection has written nothing of its own. On a busy
        # machine the server may by now miss its replicas (NOREPLICAS), which says no more.
        assert hall.waiting() == 1
        with pytest.raises((InDoubt, Unreachable)):
            hall.submitter().accept(command, timeout=0.5)
        other = hall.command(id=command.command.id, params={"other": 1})
        with pytest.raises((InDoubt, Unreachable)):
            hall.submitter().accept(other, timeout=0.5)
        # An owner that comes now cannot know that the lease it got is more than this server's.
        with working(hall, Scripted(), wait=False) as worker:
            assert not worker.owned.wait(1)
            assert reader.read(block=0.5) == []
            for name in replicas:
                trio.resume(name)
            assert insist(hall.submitter(), command).outcome == "completed"
            with pytest.raises(Refused):
                hall.submitter().accept(other, timeout=5)
    except NoAnswer as error:
        raise AssertionError from error
    finally:
        for name in replicas:
            trio.resume(name)
    hall.close()


def test_a_primary_that_comes_back_at_once_with_less_on_its_disk(
    trio: GuardedTrio, tmp_path: Path, round: int
) -> None:
    """Back within down-after it would lead on, and both replicas would copy its loss: its guard waits."""
    with under_load(trio, tmp_path) as (_, load):
        old = trio.primary()
        path = trio.aof(old)
        short = path.stat().st_size
        load.flows()
        trio.crash(old)
        os.truncate(path, min(short, path.stat().st_size))
        assert trio.wait_until_led() != old
    said = trio.guarded_log(old)
    assert "the Sentinels still name it as the primary" in said
    assert "as a replica of the primary that the Sentinels name" in said


def test_an_old_primary_that_is_ahead_is_not_elected_again(
    trio: GuardedTrio, tmp_path: Path, round: int
) -> None:
    """What only it wrote gives it the highest offset; its guard keeps it from being promoted."""
    trio.tell_sentinels("DEBUG", "INFO-PERIOD", 10_000)  # as ever: what they know of a priority can be old
    with under_load(trio, tmp_path) as (_, load):
        # Given a primary that wrote a lot which no replica has, and hangs,
        old = trio.primary()
        others = trio.replicas()
        trio.ask(old, "CONFIG", "SET", "min-replicas-to-write", 0)
        for name in others:
            trio.ask(name, "CONFIG", "SET", "masterauth", "no way in")
        trio.ask(old, "CLIENT", "KILL", "TYPE", "replica")
        for number in range(100):
            trio.ask(old, "SET", f"only-{old}", "x" * 100_000 + str(number))
        trio.pause(old)
        for name in others:
            trio.ask(name, "CONFIG", "SET", "masterauth", trio.password)
        # and another that was promoted and went on,
        new = trio.wait_for_other_primary(old)
        (third,) = (name for name in others if name != new)
        load.flows()
        # if the old one comes back and cannot be brought up to date before the new one dies,
        trio.resume(old)
        trio.ask(old, "CONFIG", "SET", "masterauth", "no way in")
        eventually(lambda: (one := trio.standing(old)) and one.priority == rules.HIDDEN, "it is hidden")
        trio.ask(old, "REPLICAOF", LOOPBACK, trio.port(new))  # as the Sentinels do, some seconds later
        trio.kill(new)
        # I expect that the third leads, and that the old one takes over what it has.
        assert trio.wait_for_other_primary(new) == third
        trio.ask(old, "CONFIG", "SET", "masterauth", trio.password)
        trio.switch_on(new)
        trio.tell_sentinels("DEBUG", "INFO-PERIOD", 1000)
        trio.wait_until_led(by=third)
        assert trio.ask(old, "EXISTS", f"only-{old}") == 0


@pytest.mark.chaos
def test_a_slow_line_to_one_replica(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, round: int) -> None:
    """What is confirmed has crossed it and come back; it is slower, and nobody is promoted for that."""
    monkeypatch.setattr("streams.worker.IDLE", 0.2)
    with running_sides(tmp_path / "sides") as sides:
        monkeypatch.setattr("streams.connection.dial", sides.dial)
        hall = Hall(sides.redis, tmp_path)
        prover = Prover(sides.island)
        load = Load(hall, prover, redis=sides.island)
        with working(hall, Scripted(), redis=sides.island, prover=prover), load.at_work():
            load.flows()
            sides.border.delay = 0.05
            submitter, began = hall.submitter(), time.monotonic()
            answer = submitter.submit(hall.command(source="far"), timeout=20)
            load.answers.append(answer)
            assert answer.outcome == "completed"
            assert time.monotonic() - began > 2 * sides.border.delay
            load.flows()
            sides.border.delay = 0.0
            load.flows()
            assert sides.primary() == "redis-1"
        check_told(hall, load)
        hall.close()


def test_a_primary_cut_off_with_one_replica_and_its_clients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, round: int
) -> None:
    """One replica goes on acknowledging, the other is promoted outside: the island is told nothing."""
    monkeypatch.setattr("streams.worker.IDLE", 0.2)
    # The watch over the replicas ends when it found all of them eight times: not before one is missed.
    monkeypatch.setattr("streams.durability.POLL", 1.5)
    with running_sides(tmp_path / "sides") as sides:
        monkeypatch.setattr("streams.connection.dial", sides.dial)
        hall = Hall(sides.redis, tmp_path)
        prover = Prover(sides.island)
        load = Load(hall, prover, redis=sides.island)
        with working(hall, Scripted(), redis=sides.island, prover=prover), load.at_work():
            load.flows()
            # Given one who has been looking at the replicas since before the cut,
            prover._watch()
            eventually(lambda: prover._attached, "the replicas are watched")
            sides.border.cut()
            # What a naive client does is confirmed, and gone afterwards.
            naive = (("SET", "naive", "confirmed"), ("WAIT", 1, 1000))
            assert ask_all(sides.port("redis-1"), sides.password, *naive, timeout=3)[1] == 1
            assert sides.wait_for_other_primary("redis-1") == "redis-3"
            told = len(load.answers)
            eventually(
                lambda: (
                    prover._attached is not None
                    and len(prover._attached.replicas) == 1
                    and time.monotonic() - prover._since > HOLD + 1
                ),
                "the hold passed",
            )
            assert (len(load.answers), prover._agreed) == (told, None)
            sides.border.mend()
            eventually(lambda: replication.attached(sides.at("redis-3")) == 2, "one primary", 40)
            load.flows()
        assert sides.ask("redis-3", "EXISTS", "naive") == 0
        monkeypatch.setattr("streams.durability.POLL", 0.05)
        eventually(lambda: not prover._watching, "the watch ended, so that no thread is left behind")
        check_told(hall, load)
        hall.close()
