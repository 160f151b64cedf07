"""The ingest process on a real server: what it is told, what it does, and what it says of it."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import pytest

from streams.connection import Unreachable
from streams.messages import Answer, now
from streams.submit import InDoubt
from tests.fix_ingest_process import GATED, NODE_LANE, Ingest
from tests.fix_servers import eventually, running_valkey
from tests.fix_streams import Hall

Record = Callable[..., Path]


def test_a_source_from_its_adding_to_its_removal(ingest: Ingest, record: Record) -> None:
    """Added, started, heard ten times a second, stopped, removed: each step is confirmed and logged."""
    ingest.start()
    # Given a sine of half of full scale,
    assert ingest.add("tone", record(1.0, channels=2), loop=True).state == "stopped"
    # when it is started,
    assert ingest.do("source.start", "tone").state == "running"
    # I expect ten levels a second that are right,
    eventually(lambda: len(ingest.levels("tone")) >= 15, "levels")
    levels = ingest.levels("tone")
    assert {(level.rms_dbfs, level.peak_dbfs) for level in levels} == {(-9.03, -6.02)}
    times = [level.at.timestamp() for level in levels]
    assert (times[-1] - times[0]) / (len(times) - 1) == pytest.approx(0.1, abs=0.03)
    assert levels[-1].seconds - levels[0].seconds == pytest.approx(times[-1] - times[0], abs=0.3)
    # none after it was stopped,
    assert ingest.do("source.stop", "tone").state == "stopped"
    eventually(lambda: not ingest.sounds("tone"), "silence", 2)
    # and nothing of it once it is removed.
    assert ingest.do("source.remove", "tone").outcome == "completed"
    assert ingest.source("tone") is None
    assert ingest.do("source.start", "tone").reason == "unknown_source"
    assert ingest.types("tone") == [
        "source.added", "command.completed",
        "source.starting", "source.running", "command.completed",
        "source.stopped", "command.completed",
        "source.removed", "command.completed",
        "command.rejected",
    ]  # fmt: skip
    assert ingest.verified()


def test_an_id_belongs_to_one_lane_as_long_as_there_is_the_source(ingest: Ingest, record: Record) -> None:
    """The owner claims the id of what it adds and frees it after the removal, not before."""
    ingest.start()
    claims = ingest.hall.station.sources
    ingest.link.call("HSET", claims, "theirs", "node.elsewhere")
    refused = ingest.add("theirs", record(1.0))
    assert (refused.outcome, refused.reason) == ("rejected", "exists")
    assert ingest.add("ours", record(1.0)).outcome == "completed"
    assert ingest.link.call("HGET", claims, "ours") == NODE_LANE.encode()
    ingest.do("source.remove", "ours")
    eventually(lambda: ingest.link.call("HGET", claims, "ours") is None, "the id is free")
    # Where a crash left the claim of a source that is gone, removing it once more frees it.
    ingest.link.call("HSET", claims, "ghost", NODE_LANE)
    assert ingest.do("source.remove", "ghost").reason == "unknown_source"
    eventually(lambda: ingest.link.call("HGET", claims, "ghost") is None, "the id is free")
    assert ingest.link.call("HGET", claims, "theirs") == b"node.elsewhere"


def test_the_node_beats(ingest: Ingest, record: Record) -> None:
    """Its hash says when, where, which version, which lanes and how many sources, and expires by itself."""
    ingest.start()
    ingest.add("tone", record(1.0))
    eventually(lambda: json.loads(ingest.heartbeat().get("sources", "{}")) == {"stopped": 1}, "a beat", 8)
    beat = ingest.heartbeat()
    assert abs((now() - datetime.fromisoformat(beat["time"])).total_seconds()) < 6
    assert json.loads(beat["lanes"]) == [NODE_LANE, "p0", "p1"]
    assert beat["version"]
    assert abs(float(beat["clock"])) < 1
    assert beat["address"]
    assert {name: one["state"] for name, one in json.loads(beat["breakers"]).items()} == {
        "redis": "closed",
        "postgres": "closed",
    }
    assert 50 < ingest.link.call("TTL", ingest.hall.station.node("local")) <= 60


def test_a_node_whose_clock_is_off_says_so(ingest: Ingest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five seconds ahead of the server's, its heartbeat says by how much, its log why that matters."""
    library = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
    if library is None:
        pytest.skip("real part missing: libfaketime")
    for name, value in (("LD_PRELOAD", str(library)), ("FAKETIME", "+5s"), ("DONT_FAKE_MONOTONIC", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("FAKETIME_DONT_FAKE_MONOTONIC", "1")
    ingest.start()
    eventually(lambda: 4.5 < float(ingest.heartbeat().get("clock", 0)) < 5.5, "a beat with its clock", 8)
    assert "this node's clock is off" in ingest.said


def test_ended_in_order_it_goes_on_from_the_log(ingest: Ingest, record: Record) -> None:
    """SIGTERM frees the leases within 3 s; the next process runs what should run, and only that."""
    ingest.start()
    for source in ("on", "off"):
        ingest.add(source, record(1.0), loop=True)
        ingest.do("source.start", source)
    ingest.do("source.stop", "off")
    assert ingest.end() < 3.0
    leases = [ingest.hall.station.lane(lane).lease for lane in (NODE_LANE, "p0", "p1")]
    assert ingest.link.call("EXISTS", *leases) == 0
    assert not ingest.sounds("on")
    assert ingest.log()[-1].type == "lane.released"

    ingest.start()
    eventually(lambda: ingest.sounds("on"), "it runs again")
    assert (ingest.state("on"), ingest.state("off")) == ("running", "stopped")
    assert not ingest.sounds("off")
    assert ingest.verified()


def test_killed_in_the_middle_of_a_start(ingest: Ingest, record: Record, tmp_path: Path) -> None:
    """The process that comes after finishes the start, and it has one result."""
    path = record(1.0, name="gated.wav")
    ingest.start(GATED)
    ingest.add("slow", path, loop=True)
    command = ingest.command("source.start", "slow")
    assert ingest.hall.submitter().accept(command, timeout=5) is None
    eventually(lambda: ingest.state("slow") == "starting", "the start has begun")
    ingest.kill()
    assert ingest.results(command.command.id) == []

    (tmp_path / "gated.open").touch()
    ingest.start()
    answer = ingest.hall.submitter().submit(command, timeout=15)
    assert (answer.outcome, answer.state) == ("completed", "running")
    assert ingest.results(command.command.id) == ["command.completed"]
    assert ingest.sounds("slow")
    assert ingest.verified()


def test_a_slow_start_delays_no_other(ingest: Ingest, record: Record, tmp_path: Path) -> None:
    """While one source takes its time to open, others start, and a stop overtakes the slow one at once."""
    ingest.start(GATED)
    ingest.add("slow", record(1.0, name="gated.wav"), loop=True)
    ingest.add("quick", record(1.0), loop=True)
    start = ingest.command("source.start", "slow")
    ingest.hall.submitter().accept(start, timeout=5)
    eventually(lambda: ingest.state("slow") == "starting", "the slow start has begun")
    begun = time.monotonic()
    assert ingest.do("source.start", "quick").state == "running"
    stop = ingest.do("source.stop", "slow")
    assert time.monotonic() - begun < 3.0
    assert (stop.outcome, stop.state) == ("completed", "stopped")
    overtaken = ingest.hall.submitter().submit(start)
    assert (overtaken.outcome, overtaken.by) == ("superseded", stop.id)
    # When it opens after all, nobody wants it.
    (tmp_path / "gated.open").touch()
    assert not ingest.sounds("slow")
    assert ingest.state("slow") == "stopped"


def test_a_missing_file_fails_and_comes_by_itself(ingest: Ingest, record: Record, tmp_path: Path) -> None:
    """The start fails with the reason, the source stays wanted, and plays once the file is there."""
    ingest.start()
    path = tmp_path / "later.wav"
    ingest.add("late", path, loop=True)
    answer = ingest.do("source.start", "late")
    assert (answer.outcome, answer.state, answer.reason) == ("failed", "failed", "source_failed")
    assert answer.detail is not None
    assert f"{path}: No such file or directory" in answer.detail
    source = ingest.source("late")
    assert source is not None
    assert (source.desired, source.reason) == ("running", f"{path}: No such file or directory")
    record(1.0).rename(path)
    eventually(lambda: ingest.state("late") == "running", "it runs by itself")
    assert ingest.types("late")[-5:] == [
        "command.completed", "source.starting", "source.failed", "command.failed", "source.running",
    ]  # fmt: skip


def test_fast_and_looped_harms_nobody(ingest: Ingest, record: Record) -> None:
    """Read as fast as possible, for ever: ten levels a second, about half a core, and others are served."""
    ingest.start()
    ingest.add("mad", record(5.0), loop=True, pace="fast")
    ingest.do("source.start", "mad")
    ingest.add("tone", record(1.0, name="tone.wav"), loop=True)
    begun, cpu, before = time.monotonic(), ingest.cpu(), len(ingest.levels("mad"))
    answered = time.monotonic()
    assert ingest.do("source.start", "tone").state == "running"
    assert time.monotonic() - answered < 1.0
    eventually(lambda: time.monotonic() - begun > 2.0, "two seconds")
    spent = time.monotonic() - begun
    assert (ingest.cpu() - cpu) / spent < 0.85
    assert (len(ingest.levels("mad")) - before) / spent < 12
    assert len(ingest.levels("tone")) / spent > 8


def test_three_operators_at_one_source(ingest: Ingest, record: Record) -> None:
    """Starts, stops and restarts from three at once: one result each, superseded ones name a newer command,
    and the last one's wish is what log, sound and the next process agree on."""
    ingest.start()
    ingest.add("tone", record(1.0), loop=True)

    def operate(seed: int) -> list[tuple[Answer, str]]:
        chance = random.Random(seed)
        submitter = ingest.hall.submitter()
        found = []
        for _ in range(20):
            type = chance.choice(["source.start", "source.stop", "source.restart"])
            found.append((submitter.submit(ingest.command(type, "tone"), timeout=20), type))
        return found

    with ThreadPoolExecutor(3) as pool:
        answers = [one for some in pool.map(operate, range(3)) for one in some]
    sequences = {answer.id: answer.sequence for answer, _ in answers}
    for answer, _ in answers:
        assert answer.outcome in ("completed", "superseded")
        assert ingest.results(answer.id) == [f"command.{answer.outcome}"]
        if answer.outcome == "superseded":
            assert answer.by is not None
            assert sequences[answer.by] > answer.sequence
    last = max(answers, key=lambda one: one[0].sequence)[1]
    wanted = "stopped" if last == "source.stop" else "running"
    source = ingest.source("tone")
    assert source is not None
    assert (source.desired, source.state) == (wanted, wanted)
    eventually(lambda: ingest.sounds("tone") == (wanted == "running"), f"the source is {wanted}", 3)
    assert ingest.verified()

    ingest.end()
    ingest.start()
    eventually(lambda: ingest.state("tone") == wanted, "the same after a restart")


@contextmanager
def server_away(hall: Hall, seconds: float) -> Iterator[None]:
    """The server hangs for a while."""
    info = hall.link.call("INFO", "server").decode()
    pid = int(next(line for line in info.splitlines() if line.startswith("process_id:")).split(":")[1])
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
        time.sleep(seconds)  # what is tested is the passing of this time
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Ingest]:
    """An ingest process on a server that no other test uses."""
    with running_valkey(tmp_path / "valkey") as redis:
        hall = Hall(redis, tmp_path)
        made = Ingest(hall, tmp_path)
        try:
            yield made
        finally:
            made.close()
            hall.close()


@pytest.mark.slow
def test_redis_away_for_a_while(alone: Ingest, record: Record, tmp_path: Path) -> None:
    """Audio goes on without Redis; what happened meanwhile is logged afterwards, and nothing else."""
    alone.start()
    path = record(1.0, name="vanishing.wav")
    alone.add("tone", record(1.0), loop=True)
    alone.add("vanishing", path, loop=True)
    for source in ("tone", "vanishing"):
        alone.do("source.start", source)
    eventually(lambda: alone.levels("tone"), "levels")
    last = alone.levels("tone")[-1]
    with server_away(alone.hall, 5.0):
        os.truncate(path, 1000)
    eventually(lambda: alone.state("vanishing") == "failed", "what happened meanwhile is logged")
    eventually(lambda: alone.levels("tone")[-1].at > last.at, "levels again")
    # The audio was read all the while, in its own time, by the same capture.
    level = alone.levels("tone")[-1]
    assert level.seconds - last.seconds == pytest.approx((level.at - last.at).total_seconds(), abs=0.5)
    assert alone.types("tone") == [
        "source.added", "command.completed", "source.starting", "source.running", "command.completed",
    ]  # fmt: skip

    def confirmed() -> bool:
        try:
            return alone.do("source.restart", "tone").state == "running"
        except (Unreachable, InDoubt):
            return False

    eventually(confirmed, "commands are confirmed again")
    assert alone.state("tone") == "running"
    assert alone.running.poll() is None
    assert alone.verified()


def test_a_server_that_may_forget_is_refused(alone: Ingest) -> None:
    """With a policy that may drop commands the process ends and says what to change."""
    alone.link.call("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    assert alone.launch().wait(20) != 0
    assert "maxmemory-policy" in alone.said
    assert "noeviction" in alone.said


@pytest.mark.slow
def test_idle_costs_next_to_nothing(ingest: Ingest) -> None:
    """Three lanes without a source take at most two hundredths of a core."""
    ingest.start()
    cpu = ingest.cpu()
    time.sleep(5)  # what is tested is the passing of this time
    assert (ingest.cpu() - cpu) / 5 < 0.02
