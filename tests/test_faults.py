"""Each fault of a Redis server, provoked on a real one: what is told, and that all goes on by itself.

In every case the same play: an owner executes one command, a reader follows the log, the fault comes,
somebody submits, the fault is mended. Then every command has one result and the reader missed nothing.
"""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import pytest
from redis.exceptions import ResponseError

from control.station import valkey
from control.station.process import Launch, end, spawn
from streams.connection import Unreachable, connect
from streams.faults import FAULTS, fault_of
from streams.settings import RedisSection
from streams.submit import InDoubt, NoAnswer, Submitter
from streams.tail import Tail
from tests.fix_owner import Gate, send
from tests.fix_reader import Reader, check_whole
from tests.fix_servers import PASSWORD, eventually, on_free_port
from tests.fix_streams import Hall, Scripted, Wire, insist, working


class Harmed:
    """A server of the test's own with a station on it, reached over a wire that can be harmed too."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "valkey"

        def start(port: int) -> None:
            self.server = valkey.Server("valkey", self.folder, folder / "valkey.log", port)
            self.launch = valkey.launch(self.server, PASSWORD)
            self.process = valkey.start(self.launch, port, PASSWORD)

        on_free_port(start)
        self.direct = RedisSection(url=f"redis://127.0.0.1:{self.server.port}/0", password=PASSWORD)
        self.wire = Wire(self.direct)
        self.admin = connect(self.direct, "admin")
        self.hall = Hall(self.wire.redis, folder)

    def set(self, setting: str, value: object) -> None:
        self.admin.call("CONFIG", "SET", setting, str(value))

    def close(self) -> None:
        for link in (self.admin, *self.hall._links):
            link.close()
        self.wire.close()
        end(self.process, self.launch, hurry=True)


@pytest.fixture
def harmed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Harmed]:
    # Only patience: so that what is silent is given up soon.
    monkeypatch.setattr("streams.connection.REPLY_TIMEOUT", 0.4)
    monkeypatch.setattr("streams.connection.CONNECT_TIMEOUT", 0.4)
    monkeypatch.setattr("streams.worker.IDLE", 0.2)
    monkeypatch.setattr("streams.submit.ASK_AGAIN", 0.2)
    made = Harmed(tmp_path)
    yield made
    made.close()


Harm = Callable[[Harmed], AbstractContextManager[None]]


def setting(name: str, bad: object, good: object) -> Harm:
    @contextmanager
    def harm(harmed: Harmed) -> Iterator[None]:
        harmed.set(name, bad)
        yield
        harmed.set(name, good)

    return harm


@contextmanager
def hanging(harmed: Harmed) -> Iterator[None]:
    os.kill(harmed.process.pid, signal.SIGSTOP)
    yield
    os.kill(harmed.process.pid, signal.SIGCONT)


@contextmanager
def silent(harmed: Harmed) -> Iterator[None]:
    harmed.wire.silence()
    yield
    harmed.wire.mend()


@contextmanager
def cut(harmed: Harmed) -> Iterator[None]:
    harmed.wire.cut()
    yield
    harmed.wire.mend()


@contextmanager
def demoted(harmed: Harmed) -> Iterator[None]:
    harmed.admin.call("REPLICAOF", "127.0.0.1", "1")
    yield
    connect_and(harmed, "REPLICAOF", "NO", "ONE")


@contextmanager
def orphaned(harmed: Harmed) -> Iterator[None]:
    harmed.set("replica-serve-stale-data", "no")
    with demoted(harmed):
        yield


def connect_and(harmed: Harmed, *command: str) -> None:
    """Run a command on a server that is no primary, which a link does not do."""
    from control.station.ask import ask

    ask(harmed.server.port, PASSWORD, *command)


@contextmanager
def cannot_save(harmed: Harmed) -> Iterator[None]:
    def saves(how: str) -> None:
        harmed.admin.call("BGSAVE")
        eventually(lambda: f"rdb_last_bgsave_status:{how}".encode() in harmed.admin.call("INFO"), how)

    harmed.set("save", "3600 1")
    # The server renames what it saved to this name, which it cannot while a folder has it.
    (harmed.folder / "dump.rdb" / "in the way").mkdir(parents=True)
    saves("err")
    yield
    (harmed.folder / "dump.rdb" / "in the way").rmdir()
    (harmed.folder / "dump.rdb").rmdir()
    saves("ok")


@contextmanager
def busy(harmed: Harmed) -> Iterator[None]:
    harmed.set("busy-reply-threshold", 50)
    endless = connect(harmed.direct, "endless")

    def run() -> None:
        with suppress(ResponseError):
            endless.call("EVAL", "while true do end", 0, timeout=60)
        endless.close()

    running = threading.Thread(target=run)
    running.start()

    def is_busy() -> bool:
        try:
            harmed.admin.call("PING")
        except Unreachable as error:
            return error.fault is FAULTS["BUSY"]
        return False

    eventually(is_busy, "a server that is busy with a script")
    yield
    connect_and(harmed, "SCRIPT", "KILL")
    running.join(10)


@contextmanager
def another_password(harmed: Harmed) -> Iterator[None]:
    harmed.set("requirepass", "another")
    harmed.admin.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    yield
    harmed.set("requirepass", PASSWORD)


@contextmanager
def too_many_clients(harmed: Harmed) -> Iterator[None]:
    """Its own admin is one too many; who was connected has to come again."""
    harmed.set("maxclients", 1)
    harmed.admin.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    yield
    harmed.set("maxclients", 1000)


@contextmanager
def loading(harmed: Harmed) -> Iterator[None]:
    """The server is killed, and takes a second and a half to read its data when it starts."""
    for number in range(300):
        harmed.admin.call("SET", f"{harmed.hall.station.meta}:{number}", "x" * 1100)
    harmed.admin.call("BGREWRITEAOF")
    eventually(lambda: b"aof_rewrite_in_progress:0" in harmed.admin.call("INFO"), "a rewritten file")
    end(
        harmed.process,
        Launch("valkey", harmed.launch.argv, harmed.launch.log, stop_signal=signal.SIGKILL),
    )
    slow = ("--key-load-delay", "5000", "--loading-process-events-interval-bytes", "1024")
    harmed.process = spawn(Launch("valkey", (*harmed.launch.argv, *slow), harmed.launch.log))
    eventually(lambda: _told_by(harmed) == "LOADING", "a server that reads its data", 5)
    yield


def _told_by(harmed: Harmed) -> str:
    link = connect(harmed.direct, "asking")
    try:
        link.call("PING")
    except Unreachable as error:
        return error.fault.code if error.fault else ""
    finally:
        link.close()
    return "PONG"


HARMS: dict[str, tuple[Harm, set[str], bool]] = {
    # What is done to the server, what a link that was connected is told, whether that leaves doubt.
    "hanging": (hanging, {"TIMEOUT"}, True),
    "silent": (silent, {"TIMEOUT"}, True),
    "cut": (cut, {"RESET"}, True),
    "demoted": (demoted, {"READONLY"}, False),
    "orphaned": (orphaned, {"MASTERDOWN"}, False),
    "without replicas": (setting("min-replicas-to-write", 1, 0), {"NOREPLICAS"}, False),
    "full": (setting("maxmemory", 1, 0), {"OOM"}, False),
    "cannot save": (cannot_save, {"MISCONF"}, False),
    "busy": (busy, {"BUSY"}, False),
    "another password": (another_password, {"RESET"}, True),
    "too many clients": (too_many_clients, {"RESET"}, True),
    "loading": (loading, {"RESET"}, True),
}


@pytest.mark.parametrize("name", HARMS)
def test_a_fault_is_told_and_all_goes_on_once_it_is_mended(harmed: Harmed, name: str) -> None:
    """What was being executed and what is submitted meanwhile get their one result, by themselves."""
    harm, codes, doubtful = HARMS[name]
    hall, gate = harmed.hall, Gate("slow")
    probe, submitter = hall.new_link("probe"), hall.submitter()
    with working(hall, Scripted(gate)), Reader(hall) as reader:
        first, slow, meanwhile = (hall.command(source=source) for source in ("first", "slow", "meanwhile"))
        assert insist(submitter, first).outcome == "completed"
        send(hall, slow)
        assert gate.entered.wait(10)
        probe.call("PING")
        with harm(harmed):
            with pytest.raises(Unreachable) as caught:
                probe.call("HGET" if name == "orphaned" else "HINCRBY", hall.station.meta, "a", *_one(name))
            assert caught.value.fault is not None
            assert (caught.value.fault.code in codes, caught.value.sent) == (True, doubtful), caught.value
            assert caught.value.fault.means in caught.value.detail
            began = time.monotonic()
            with pytest.raises((Unreachable, InDoubt, NoAnswer)) as refused:
                submitter.submit(meanwhile, timeout=0.5)
            assert time.monotonic() - began < 3
            assert PASSWORD not in str(refused.value)
            gate.release.set()
        began = time.monotonic()
        for command in (slow, meanwhile, hall.command(source="after")):
            assert insist(submitter, command, 20).outcome == "completed"
        hall.link.close()
        print(f"{name}: all done {time.monotonic() - began:.2f} s after it was mended")
        check_whole(hall, [one.command.id for one in (first, slow, meanwhile)], reader)


def _one(name: str) -> tuple[str, ...]:
    return () if name == "orphaned" else ("1",)


@pytest.mark.parametrize(
    ("harm", "code"),
    [
        ("loading", "LOADING"),
        ("another password", "WRONGPASS"),
        ("demoted", "REPLICA"),
        ("too many clients", "MAXCLIENTS"),
    ],
)
def test_a_new_connection_is_told_why_nothing_was_sent(harmed: Harmed, harm: str, code: str) -> None:
    """Who comes to a server that reads its data, takes no more clients or leads no more, sent nothing."""
    link = harmed.hall.new_link("late")
    with HARMS[harm][0](harmed):
        with pytest.raises(Unreachable) as caught:
            link.call("INCR", harmed.hall.station.meta)
        assert caught.value.fault is FAULTS[code]
        assert not caught.value.sent
        assert PASSWORD not in caught.value.detail


def gone_group(hall: Hall) -> None:
    hall.link.call("XGROUP", "DESTROY", hall.keys.commands, "ingest")


def gone_functions(hall: Hall) -> None:
    hall.link.call("FUNCTION", "FLUSH")


@pytest.mark.parametrize("harm", [gone_group, gone_functions])
def test_the_owner_brings_back_what_is_gone(harmed: Harmed, harm: Callable[[Hall], None]) -> None:
    """The group is made anew from the beginning, the functions are loaded again: nobody lends a hand.

    What was being executed may be executed twice, and still has one result.
    """
    hall, gate = harmed.hall, Gate("slow")
    handler = Scripted(gate)
    with working(hall, handler), Reader(hall) as reader:
        submitter = hall.submitter()
        done = [hall.command(source="first") for _ in range(5)]
        for command in done:
            insist(submitter, command)
        slow = hall.command(source="slow")
        send(hall, slow)
        assert gate.entered.wait(10)
        harm(hall)
        later = hall.command(source="later")
        assert insist(submitter, later, 20).outcome == "completed"
        gate.release.set()
        assert insist(submitter, slow, 20).outcome == "completed"
        check_whole(hall, [one.command.id for one in (*done, slow, later)], reader)
        assert hall.waiting() == 0
    executed = [task.command.id for task in handler.executed]
    assert all(executed.count(one.command.id) == 1 for one in (*done, later))
    assert executed.count(slow.command.id) <= 2


def test_what_is_missing_is_an_answer_to_one_command(harmed: Harmed) -> None:
    """A group or function that is gone, or a right that is not given, drops no connection."""
    link = harmed.hall.new_link("asking")
    harmed.admin.call("ACL", "SETUSER", "default", "-flushall")
    for command, code in (
        (("XREADGROUP", "GROUP", "g", "c", "STREAMS", harmed.hall.keys.commands, ">"), "NOGROUP"),
        (("FCALL", "tocsin_none", 0), "NOFUNCTION"),
        (("EVALSHA", "f" * 40, 0), "NOFUNCTION"),
        (("FLUSHALL",), "NOPERM"),
    ):
        with pytest.raises(ResponseError) as caught:
            link.call(*command)
        assert fault_of(caught.value) is FAULTS[code]
    assert link.generation == 1
    with pytest.raises(ResponseError) as caught:
        link.call("HINCRBY", harmed.hall.station.meta, "a", "x")
    assert fault_of(caught.value) is None


def test_a_blocked_reader_of_a_demoted_server_is_told_at_once(harmed: Harmed) -> None:
    """UNBLOCKED ends the wait; nothing was read or lost, and the reader goes on where it stood."""
    hall = harmed.hall
    told: list[Unreachable] = []
    tail = Tail(hall.new_link("tail"), hall.keys)

    def follow() -> None:
        try:
            tail.read(block=20)
        except Unreachable as error:
            told.append(error)

    reader = threading.Thread(target=follow)
    reader.start()
    eventually(lambda: b"blocked_clients:1" in harmed.admin.call("INFO", "clients"), "a blocked reader")
    with demoted(harmed):
        reader.join(5)
        assert [error.fault for error in told] == [FAULTS["UNBLOCKED"]]
        assert not told[0].sent
    assert tail.after.seq == 0


def test_a_submitter_is_told_that_the_functions_are_missing(harmed: Harmed) -> None:
    """With no owner to load them, nothing is submitted, and what to do is said."""
    hall = harmed.hall
    gone_functions(hall)
    submitter = Submitter(hall.settings, hall.new_link("submit"))
    with pytest.raises(Unreachable, match="not loaded") as caught:
        submitter.submit(hall.command(), timeout=1)
    assert not caught.value.sent
    assert caught.value.fault is FAULTS["NOFUNCTION"]
    assert hall.waiting() == 0


def test_the_table_of_faults_is_in_the_documentation() -> None:
    """docs/survival.md says of every fault what the code says of it."""
    text = (Path(__file__).parent.parent / "docs" / "survival.md").read_text("utf-8")
    rows = {
        code: cells
        for line in text.splitlines()
        if (cells := [cell.strip() for cell in line.strip("|").split("|")])
        for code in re.findall(r"`([A-Z]+)`", cells[0])
    }
    for fault in FAULTS.values():
        assert rows[fault.code][1] == fault.means, f"docs/survival.md, {fault.code}"


def test_every_fault_has_a_decided_answer() -> None:
    """Each says what it means and what to do, without the code's own words."""
    for code, fault in FAULTS.items():
        assert fault.code == code
        assert fault.means
        assert fault.next
