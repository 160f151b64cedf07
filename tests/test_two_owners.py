"""Two that take themselves for a lane's owner: only one of them writes, and nobody is told two things."""

from __future__ import annotations

import random
import signal
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from itertools import groupby
from pathlib import Path

import msgspec
import pytest

from streams.connection import Unreachable, address_of, connect
from streams.drafts import Draft
from streams.durability import Prover
from streams.messages import Answer, Logged
from streams.settings import RedisSection
from streams.submit import InDoubt, NoAnswer, Signed, Submitter
from streams.tail import Tail
from tests.fix_servers import Trio, eventually
from tests.fix_streams import Hall, Scripted, Wire, insist, working
from tests.test_crash_points import check_in_order, commands_for, process
from tests.test_streams_owner import said


def writers(hall: Hall) -> list[tuple[int, str]]:
    """Token and node of each event in the lane's log, in order, each run of equal ones once."""
    found: list[tuple[int, str]] = []
    for logged in hall.events():
        if not found or found[-1] != (logged.event.token, logged.event.node):
            found.append((logged.event.token, logged.event.node))
    return found


@pytest.mark.parametrize("time", ["once", "twice", "thrice"])
def test_an_owner_paused_beyond_its_lease_never_appends_again(hall: Hall, time: str) -> None:
    """SIGSTOP at a random moment under load, until another owns the lane; continued, it is fenced."""
    enough = random.randrange(3, 200)
    commands: list[Signed] = []
    stop = threading.Event()

    def load() -> None:
        submitter, waiting = hall.submitter(), hall.new_link()
        while not stop.is_set():
            if waiting.call("XLEN", hall.keys.commands) < 20:
                commands.extend(commands_for(hall, 3))
                for command in commands[-3:]:
                    submitter.accept(command, timeout=5)

    loading = threading.Thread(target=load, name="load")
    with process("worker", hall.settings) as first:
        said(first, "begin")
        loading.start()
        try:
            eventually(lambda: len(commands) > enough, "some load")
            first.send_signal(signal.SIGSTOP)
            with process("worker", hall.settings, TOCSIN_TEST_NODE="second") as second:
                said(second, "begin")
                first.send_signal(signal.SIGCONT)
                # It says so once it has seen that the lane is another's.
                said(first, "end")
                insist(hall.submitter(), commands[-1])
                stop.set()
                loading.join(10)
                for command in commands:
                    insist(hall.submitter(), command)
        finally:
            stop.set()
            first.send_signal(signal.SIGCONT)
            loading.join(10)
    tokens = [logged.event.token for logged in hall.events()]
    assert tokens == sorted(tokens)
    assert [node for _, node in writers(hall)] == ["first", "second"]
    check_in_order(hall, commands)


def is_stopped(process: subprocess.Popen[str]) -> bool:
    """Whether it stands still by a SIGSTOP."""
    assert process.poll() is None, "the process ended before its step"
    # Behind the program's name, in brackets, stands what state it is in.
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


@pytest.mark.parametrize("step", ["appending", "appended", "renewed"])
def test_an_owner_paused_at_a_step_beyond_its_lease_never_appends(hall: Hall, step: str) -> None:
    """SIGSTOP just before it appends, just after, or once it has renewed; continued, it is fenced.

    What it was about to write is not written, and what it wrote without learning of it is written once.
    """
    commands = commands_for(hall, 12)
    with process("worker", hall.settings, TOCSIN_TEST_STOP_AT=f"{step}:3") as first:
        said(first, "begin")
        for command in commands:
            hall.submitter().accept(command, timeout=5)
            if is_stopped(first):
                break
        eventually(lambda: is_stopped(first), f"the owner stopped at {step!r}")
        before = hall.events()
        with process("worker", hall.settings, TOCSIN_TEST_NODE="second") as second:
            said(second, "begin")
            first.send_signal(signal.SIGCONT)
            # It says so once it has seen that the lane is another's.
            said(first, "end")
            for command in commands:
                insist(hall.submitter(), command)
    assert hall.events()[: len(before)] == before
    assert {logged.event.node for logged in hall.events()[len(before) :]} == {"second"}
    assert [node for _, node in writers(hall)] == ["first", "second"]
    check_in_order(hall, commands)


class Island:
    """The first primary of a trio, cut off with whoever is connected to it: no replica, no Sentinel."""

    def __init__(self, trio: Trio) -> None:
        self.trio = trio
        self.name = trio.primary()
        self._wires = [Wire(RedisSection(url=f"redis://{sentinel}/0")) for sentinel in trio.redis.sentinels]
        finding = connect(trio.redis, "island")
        finding.call("PING")
        # By its address: what the Sentinels outside announce is not heard here.
        there = msgspec.structs.replace(trio.redis, url=f"redis://{finding.address}/0", sentinels=())
        finding.close()
        self._link = connect(there, "island")
        self._link.call("PING")
        self.redis = msgspec.structs.replace(
            trio.redis,
            sentinels=tuple(str(address_of(wire.redis.url)) for wire in self._wires),
        )
        """How those on the island find the primary: by Sentinels that they cannot reach once cut off."""

    def cut(self) -> None:
        """From here on everybody's password is wrong; who is connected stays so, but for those outside."""
        # The server would refuse writes by itself; what is shown must not hang on that.
        self._link.call("CONFIG", "SET", "min-replicas-to-write", 0)
        self._link.call("CONFIG", "SET", "requirepass", "nobody knows")
        for wire in self._wires:
            wire.cut()
        self._link.call("CLIENT", "KILL", "TYPE", "replica")
        self._link.call("CLIENT", "KILL", "TYPE", "pubsub")
        for line in self._link.call("CLIENT", "LIST").decode().splitlines():
            client = dict(part.partition("=")[::2] for part in line.split(" "))
            if not client["name"].startswith("tocsin-"):
                self._link.call("CLIENT", "KILL", "ID", client["id"])

    def ask(self, *command: str | int) -> bytes:
        """What the server on the island says."""
        answer: bytes = self._link.call(*command)
        return answer

    def join(self) -> None:
        """The others reach it again."""
        self._link.call("CONFIG", "SET", "requirepass", self.trio.password)
        for wire in self._wires:
            wire.mend()

    def close(self) -> None:
        for wire in self._wires:
            wire.close()
        self._link.close()


class Told:
    """What submitters were told, by command; and how often one was told nothing."""

    def __init__(self) -> None:
        self.answers: dict[str, list[Answer]] = {}
        self.silences = 0
        self._lock = threading.Lock()

    def ask(self, submitter: Submitter, command: Signed, timeout: float) -> None:
        try:
            answer = submitter.submit(command, timeout=timeout)
        except (NoAnswer, InDoubt, Unreachable):
            with self._lock:
                self.silences += 1
        else:
            with self._lock:
                self.answers.setdefault(command.command.id, []).append(answer)


@pytest.mark.slow
def test_the_owner_on_an_isolated_primary_tells_nobody_anything(
    sentinel_trio: Trio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on for a while, unheard; what anyone was told, on either side, stands in the new log."""
    monkeypatch.setattr("streams.lease.LENGTH", 4.0)
    monkeypatch.setattr("streams.worker.RENEW", 1.0)
    monkeypatch.setattr("streams.submit.ASK_AGAIN", 0.2)
    with closing(Hall(sentinel_trio.redis, tmp_path)) as hall, closing(Island(sentinel_trio)) as island:
        check_island(sentinel_trio, hall, island)


def check_island(trio: Trio, hall: Hall, island: Island) -> None:
    told = Told()
    # One for all that are outside, so that the hold for a missing replica is waited out once.
    outside = Prover(trio.redis)
    one, two = Scripted(), Scripted()
    commands: list[Signed] = []

    def command() -> Signed:
        commands.append(hall.command("source.start", f"s{len(commands) % 3}"))
        return commands[-1]

    cut_off = [Submitter(hall.settings, hall.new_link("cut-off", island.redis)) for _ in range(6)]
    listener = Tail(hall.new_link("listener", island.redis), hall.keys)
    heard: list[Logged] = []
    with working(hall, one, redis=island.redis, prover=Prover(island.redis)):
        for submitter in cut_off:
            told.ask(submitter, command(), 10)
        heard += listener.read()
        assert len(told.answers) == len(cut_off)
        island.cut()
        assert one.post is not None
        one.post(Draft(type="source.stalled", source="s0", data={"reason": "seen on the island"}))
        with ThreadPoolExecutor(len(cut_off)) as pool:
            for submitter in cut_off:
                pool.submit(told.ask, submitter, command(), 6.0)
            trio.wait_for_other_primary(island.name)
            with working(hall, two, node="two", prover=outside):
                pool.shutdown(wait=True)
                unheard = int(island.ask("HGET", hall.keys.head, "seq"))
                with suppress(Unreachable):
                    heard += listener.read(block=0.1)
                for _ in range(6):
                    told.ask(hall.submitter(outside), command(), 20)
                assert (len(told.answers), told.silences) == (12, 6)
                island.join()
                # It looks for the primary, finds the lane another's, and stops what runs.
                eventually(lambda: one.ended, "the former owner gives way", 30)
                for sent in commands:
                    answer = insist(hall.submitter(outside), sent)
                    told.answers.setdefault(sent.command.id, []).append(answer)
    hall.link.close()
    log = {logged.event.seq: logged for logged in hall.events()}
    assert all(log[logged.event.seq] == logged for logged in heard)
    assert unheard > heard[-1].event.seq, "the former owner wrote nothing on the island: nothing was shown"
    for id, answers in told.answers.items():
        assert answers == answers[:1] * len(answers)
        assert log[answers[0].seq].event.command == id
        assert log[answers[0].seq].event.type == f"command.{answers[0].outcome}"
    assert hall.verdict().fault is None
    assert sorted(hall.results()) == sorted(one.command.id for one in commands)
    # A slow machine may let the new owner's short lease lapse: then it takes the lane anew.
    assert [node for node, _ in groupby(node for _, node in writers(hall))] == ["one", "two"]
