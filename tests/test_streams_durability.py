"""When a write counts, on a real primary with two replicas and three Sentinels."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from streams import durability
from streams.connection import Link, connect
from streams.durability import HOLD, NotDurable, Prover, attached
from streams.handler import Result
from streams.messages import Durability
from streams.settings import RedisSection
from streams.submit import InDoubt, Signed
from streams.tail import Tail
from tests.fix_servers import Trio, eventually, needs_waitaof
from tests.fix_streams import DONE, Hall, Scripted, working

MARK = ("HINCRBY", "tocsin:t:meta", "marks", 1)


@pytest.fixture
def trio(shared_trio: Trio) -> Iterator[Trio]:
    """The module's trio, whole before and after the test."""
    shared_trio.wait_until_whole()
    yield shared_trio
    for name in shared_trio.SENTINELS:
        if name not in shared_trio._running:
            shared_trio.restart(name)
    for name in shared_trio.NAMES:
        if name in shared_trio._running:
            shared_trio.resume(name)
        else:
            shared_trio.restart(name)


@pytest.fixture
def trio_hall(trio: Trio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hall]:
    monkeypatch.setattr("streams.worker.IDLE", 0.2)
    made = Hall(trio.redis, tmp_path)
    yield made
    made.close()


@pytest.fixture
def link(trio: Trio) -> Iterator[Link]:
    made = connect(trio.redis, "test")
    yield made
    made.call("DEL", MARK[1])
    made.close()


def accepted_after(hall: Hall, command: Signed, timeout: float = 15) -> float:
    """Seconds until the command was durably accepted."""
    began = time.monotonic()
    hall.submitter().accept(command, timeout=timeout)
    return time.monotonic() - began


def watching() -> bool:
    return any(thread.name == "replica-watch" for thread in threading.enumerate())


def test_with_all_replicas_a_command_is_confirmed_at_once(trio_hall: Hall) -> None:
    """The default where there are replicas: every one of them has it, and nobody needs to be asked."""
    assert trio_hall.settings.durability == "replica"
    with working(trio_hall, Scripted()):
        began = time.monotonic()
        assert trio_hall.submitter().submit(trio_hall.command()).outcome == "completed"
        assert time.monotonic() - began < 2
    assert trio_hall.verdict().fault is None


def test_with_a_replica_gone_nothing_is_confirmed_before_the_hold(trio: Trio, trio_hall: Hall) -> None:
    """The set must have stayed the same for 3 s and the Sentinels must be content; then what is left counts.

    From then on commands are confirmed as quickly as before, until the replica is back and counts again.
    """
    prover = Prover(trio.redis)
    submitter = trio_hall.submitter(prover)
    trio.kill(trio.replicas()[0])
    began = time.monotonic()
    submitter.accept(trio_hall.command(), timeout=15)
    assert HOLD <= time.monotonic() - began < HOLD + 3
    for _ in range(5):
        began = time.monotonic()
        submitter.accept(trio_hall.command(), timeout=15)
        assert time.monotonic() - began < 0.15
    assert prover.command("replica") == ("WAIT", 1, durability.WAIT_MS)
    name = next(name for name in trio.NAMES if name not in trio._running)
    trio.restart(name)
    deadline = time.monotonic() + 10
    while prover.command("replica") != ("WAIT", 2, durability.WAIT_MS):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    submitter.accept(trio_hall.command(), timeout=15)


def test_a_replica_that_hangs_counts_as_attached_until_it_was_silent_for_long(
    trio: Trio, trio_hall: Hall
) -> None:
    """It keeps its connection; the first command waits for its silence and the hold, then is confirmed."""
    trio.pause(trio.replicas()[0])
    seconds = accepted_after(trio_hall, trio_hall.command())
    assert HOLD <= seconds < durability.MAX_LAG + HOLD + 3


def test_memory_does_not_wait(trio: Trio, trio_hall: Hall) -> None:
    """Whoever chose speed gets it while a replica hangs: for one submit, and for a whole station."""
    trio.pause(trio.replicas()[0])
    assert accepted_after(trio_hall, trio_hall.command(durability="memory")) < 1
    settings = trio_hall.settings
    station = msgspec.structs.replace(settings.station, durability="memory")
    trio_hall.settings = msgspec.structs.replace(settings, station=station)
    with working(trio_hall, Scripted()):
        began = time.monotonic()
        assert trio_hall.submitter().submit(trio_hall.command()).outcome == "completed"
        assert time.monotonic() - began < 1


@pytest.mark.parametrize("level", ["replica", pytest.param("disk", marks=needs_waitaof)])
def test_a_command_gets_the_durability_it_asks_for_at_a_station_of_memory(
    trio: Trio, trio_hall: Hall, level: Durability
) -> None:
    """Its result is told only when every replica has it, though the station's default promises less."""
    settings = trio_hall.settings
    station = msgspec.structs.replace(settings.station, durability="memory")
    trio_hall.settings = msgspec.structs.replace(settings, station=station)
    entered, release = threading.Event(), threading.Event()

    def play(task: object) -> Result:
        entered.set()
        assert release.wait(20)
        return DONE

    with working(trio_hall, Scripted(play)), ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(trio_hall.submitter().submit, trio_hall.command(durability=level), timeout=20)
        assert entered.wait(10)
        trio.pause(paused := trio.replicas()[0])
        began = time.monotonic()
        release.set()
        while not any(one.event.type == "command.completed" for one in trio_hall.events()):
            time.sleep(0.01)
        time.sleep(max(0.0, began + 1.0 - time.monotonic()))
        assert not waiting.done()
        trio.resume(paused)
        assert waiting.result(20).outcome == "completed"


@needs_waitaof
def test_disk_means_on_every_disk(trio: Trio, trio_hall: Hall) -> None:
    """With the answer there, command and result stand in the append-only files of all three servers."""
    with working(trio_hall, Scripted()):
        command = trio_hall.command(durability="disk")
        assert trio_hall.submitter().submit(command, timeout=20).outcome == "completed"
        for name in trio.NAMES:
            written = b"".join(
                path.read_bytes() for path in (trio._folder / name / "appendonlydir").glob("*.incr.aof")
            )
            assert command.command.id.encode() in written
            assert b"command.completed" in written


@needs_waitaof
def test_disk_without_replicas_waits_for_the_local_disk(valkey_server: RedisSection) -> None:
    """A single server, too, has the write in its file before it counts."""
    prover = Prover(valkey_server)
    assert prover.command("disk") == ("WAITAOF", 1, 0, durability.DISK_WAIT_MS)
    assert prover.command("replica") is prover.command("memory") is None
    link = connect(valkey_server, "test")
    assert not prover.accepts("disk", [0, 0], link)
    assert prover.accepts("disk", [1, 0], link)
    prover.prove(link, MARK, "disk", timeout=10)
    link.call("DEL", MARK[1])
    link.close()


def test_nothing_is_told_before_it_is_durable(trio: Trio, trio_hall: Hall) -> None:
    """While a result stands only on the primary there is no reply, no watermark and nothing to read."""
    entered, release = threading.Event(), threading.Event()

    def play(task: object) -> Result:
        entered.set()
        assert release.wait(20)
        return DONE

    prover = Prover(trio.redis)
    submitter = trio_hall.submitter(prover)
    tail = Tail(trio_hall.new_link("tail"), trio_hall.keys)
    with working(trio_hall, Scripted(play), prover=prover), ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(submitter.submit, trio_hall.command(), timeout=20)
        assert entered.wait(10)
        assert [one.event.type for one in tail.read(block=2)] == ["lane.acquired"]
        trio.pause(paused := trio.replicas()[0])
        release.set()
        while len(trio_hall.events()) < 2:
            time.sleep(0.01)
        assert tail.read(block=1.0) == []
        assert tail.head_seq == 2
        assert not waiting.done()
        assert trio_hall.link.call("EXISTS", trio_hall.station.replies(submitter._replies)) == 0
        trio.resume(paused)
        assert [one.event.type for one in tail.read(block=5)] == ["command.completed"]
        assert waiting.result(10).outcome == "completed"


def test_execution_begins_only_when_the_command_is_durable(trio: Trio, trio_hall: Hall) -> None:
    """A command that only the primary has is not carried out: a failover could make it never have been."""
    handler = Scripted()
    with working(trio_hall, handler):
        trio.pause(paused := trio.replicas()[0])
        with pytest.raises(InDoubt, match="submitting the same id again is safe"):
            trio_hall.submitter().accept(command := trio_hall.command(), timeout=0.5)
        assert handler.executed == []
        trio.resume(paused)
        assert trio_hall.submitter().submit(command, timeout=20).outcome == "completed"


def test_a_command_whose_durability_was_in_doubt_is_not_forgotten(
    trio: Trio, trio_hall: Hall, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The owner gave up waiting before its turn, and found the lane untouched: it executes it all the same.

    The incident: the command counted as being executed, and got no answer as long as its owner lived.
    """
    monkeypatch.setattr("streams.worker.PATIENCE", 0.5)
    handler = Scripted()
    with working(trio_hall, handler) as worker:
        submitter = trio_hall.submitter()
        trio.pause(paused := trio.replicas()[0])
        with pytest.raises(InDoubt):
            submitter.accept(command := trio_hall.command(), timeout=0.5)
        eventually(lambda: not worker.owned.is_set(), "the owner gave up waiting")
        assert handler.executed == []
        trio.resume(paused)
        assert submitter.submit(command, timeout=10).outcome == "completed"


def test_execution_waits_for_what_its_command_asks_for_at_a_station_of_memory(
    trio: Trio, trio_hall: Hall
) -> None:
    """Put into the lane by somebody who did not wait, it is begun only when the replicas have it."""
    settings = trio_hall.settings
    station = msgspec.structs.replace(settings.station, durability="memory")
    trio_hall.settings = msgspec.structs.replace(settings, station=station)
    handler = Scripted()
    with working(trio_hall, handler):
        trio.pause(paused := trio.replicas()[0])
        with pytest.raises(InDoubt):
            trio_hall.submitter().accept(trio_hall.command(durability="replica"), timeout=0.5)
        assert handler.executed == []
        trio.resume(paused)
        eventually(lambda: handler.executed, "its execution")


def test_a_wait_counts_only_behind_a_write_that_took_place(trio_hall: Hall, link: Link) -> None:
    """WAIT on a connection that wrote nothing answers at once: a mark that did not write proves nothing."""
    prover = Prover(trio_hall.settings.redis)
    no_write = ("FCALL", "tocsin_renew", 1, trio_hall.keys.lease, "no such fence", 1000)
    with pytest.raises(NotDurable, match="no longer held"):
        prover.prove(link, no_write, "replica", timeout=5)
    prover.prove(link, MARK, "replica", timeout=5)


def test_without_a_majority_of_sentinels_fewer_replicas_never_count(
    trio: Trio, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Primary, one replica and we could be the side that is cut off: then nothing may be confirmed."""
    monkeypatch.setattr(durability, "HOLD", 0.5)
    link.call("PING")
    trio.kill(trio.replicas()[0])
    trio.kill("sentinel-1")
    trio.kill("sentinel-2")
    with pytest.raises(NotDurable, match="within 2 s"):
        Prover(trio.redis).prove(link, MARK, "replica", timeout=2)
    trio.restart("sentinel-1")
    Prover(trio.redis).prove(link, MARK, "replica", timeout=10)


def test_a_majority_is_asked_after_the_hold(trio: Trio, link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    """That the Sentinels were content before is not enough: they may have been lost in the same cut."""
    monkeypatch.setattr(durability, "HOLD", 1.0)
    prover = Prover(trio.redis)
    link.call("PING")
    trio.kill(trio.replicas()[0])
    assert not prover.accepts("replica", 1, link)
    eventually(lambda: prover._attached and len(prover._attached.replicas) == 1, "the watch connected")
    trio.kill("sentinel-1")
    trio.kill("sentinel-2")
    with pytest.raises(NotDurable):
        prover.prove(link, MARK, "replica", timeout=2.5)
    trio.restart("sentinel-1")
    prover.prove(link, MARK, "replica", timeout=10)


def test_what_was_agreed_of_one_primary_says_nothing_of_another(
    trio: Trio, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link that still holds on to a former primary cannot use what the Sentinels said of the new one."""
    monkeypatch.setattr(durability, "HOLD", 0.2)
    prover = Prover(trio.redis)
    trio.kill(trio.replicas()[0])
    prover.prove(link, MARK, "replica", timeout=10)
    assert prover.accepts("replica", 1, link)
    other = connect(RedisSection(url="redis://127.0.0.1:1/0"), "other")
    with pytest.raises(Exception, match=r"127\.0\.0\.1:1"):
        other.call("PING")
    assert not prover.accepts("replica", 1, other)
    assert not prover.accepts("replica", 0, link)


def test_the_attached_set_is_told_with_its_primary(trio: Trio, link: Link) -> None:
    """A change of the primary, of its history or of a replica is a change of the set."""
    seen = attached(link)
    assert seen == attached(link)
    assert seen.primary == link.address
    assert len(seen.replicas) == 2
    assert seen.replication_id == durability.replication_id(link)
    trio.kill(trio.replicas()[0])
    deadline = time.monotonic() + 5
    while len(attached(link).replicas) != 1:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_nobody_is_watched_for_whom_nobody_asks(
    trio: Trio, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With replicas missing for good, a process that submits nothing any more stops looking after them."""
    monkeypatch.setattr(durability, "POLL", 0.02)
    monkeypatch.setattr(durability, "WATCH", 0.3)
    prover = Prover(trio.redis)
    trio.kill(trio.replicas()[0])
    assert not prover.accepts("replica", 1, link)
    assert prover._watching
    eventually(lambda: not prover._watching, "the watch ended", 5)


def test_the_watch_over_missing_replicas_ends_by_itself(
    trio: Trio, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It costs nothing while all is well: once the set is complete for a while its thread is gone."""
    monkeypatch.setattr(durability, "POLL", 0.02)
    prover = Prover(trio.redis)
    assert not prover.accepts("replica", 1, link)
    assert watching()
    deadline = time.monotonic() + 10
    while prover._watching:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    prover.prove(link, MARK, "replica", timeout=5)
    assert not prover._watching
