"""Captures: paced by the clock, back after failures, silent once stopped, harmless to others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest import pace as module
from ingest.capture import LONGEST_PAUSE, Capture, longest_pause
from ingest.equipment import Equipment
from ingest.meters import Gauge, Meters
from ingest.pace import BEHIND
from streams.vocabulary import FileSettings
from tests.fix_ingest import Heard, Tap, equipment, unrecorded
from tests.fix_servers import eventually

Record = Callable[..., Path]


@contextmanager
def capturing(
    heard: Heard, path: Path | str, equipped: Equipment | None = None, **settings: object
) -> Iterator[Capture]:
    """A capture meanwhile."""
    played = FileSettings(path=str(path), **settings)  # type: ignore[arg-type]
    capture = Capture(
        "s", played, report=heard.report, hear=heard.hear, watch=heard.watch,
        telemetry=heard, equipment=equipped or equipment(), evidence=unrecorded(),
    )  # fmt: skip
    capture.start()
    try:
        yield capture
    finally:
        capture.stop()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Failures are followed by short pauses."""
    monkeypatch.setattr("ingest.capture.FIRST_PAUSE", 0.02)
    monkeypatch.setattr("ingest.capture.LONGEST_PAUSE", 0.1)


def test_a_recording_is_played_in_its_own_time(record: Record, heard: Heard) -> None:
    """A second of audio takes a second, is heard at once, and gives a level each tenth of it."""
    with capturing(heard, record(1.0, channels=2)):
        begun = time.monotonic()
        eventually(lambda: heard.states() == ["running"], "running", 0.5)
        assert time.monotonic() - begun < 0.5
        eventually(lambda: heard.states() == ["running", "stopped"], "its end", 5)
        assert time.monotonic() - begun == pytest.approx(1.0, abs=0.3)
        eventually(lambda: heard.levels[-1].seconds == 1.0, "the last level")
    running, stopped = (report.fact for report in heard.reports)
    assert (running.rate, running.channels) == (8000, 2)
    assert (stopped.reason, stopped.desired) == ("ended", "stopped")
    # Tenths that come late are told together.
    assert {level.seconds for level in heard.levels} <= {round(0.1 * n, 3) for n in range(1, 11)}
    assert len(heard.levels) >= 5
    assert {(level.rms_dbfs, level.peak_dbfs) for level in heard.levels} == {(-9.03, -6.02)}


def test_the_clock_of_a_recording_is_ours(record: Record, heard: Heard) -> None:
    """It is paced by ours, so there is no other whose drift could be watched."""
    asked: list[bool] = []

    class Watched(Meters):
        def gauge(self, *place: Any, clocked: bool = True, **more: Any) -> Gauge:
            asked.append(clocked)
            return super().gauge(*place, clocked=clocked, **more)

    with capturing(heard, record(0.2), Equipment(Watched())):
        eventually(lambda: heard.states() == ["running", "stopped"], "its end", 5)
    assert asked == [False]


class Times:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> Times:
    made = Times()
    monkeypatch.setattr("ingest.pace.time", SimpleNamespace(monotonic=made.monotonic))
    return made


@given(late=st.lists(st.floats(0, 0.09), min_size=1, max_size=300))
def test_small_delays_do_not_add_up(late: list[float]) -> None:
    """However late each wait ends, the next block is due by the clock: after any time there is no drift."""
    times = Times()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "time", times)
        clock = module.RealTime()
        for number, delay in enumerate(late, 1):
            pause = clock.pause(number * 0.1)
            assert pause is not None
            times.now += pause + delay
    assert times.now - 1000.0 == pytest.approx(len(late) * 0.1 + late[-1])


def test_catching_up_is_bounded(times: Times) -> None:
    """After an hour's stop, a second of audio is played at once to catch up, and the rest is let go."""
    clock = module.RealTime()
    assert clock.pause(0.1) == pytest.approx(0.1)
    times.now += 3600.0
    at_once = 0
    played = 0.2
    while clock.pause(played) == 0.0:
        played += 0.1
        at_once += 1
        assert at_once < 100
    assert at_once * 0.1 <= BEHIND + 0.2


def test_a_process_that_was_stopped_goes_on(record: Record, tmp_path: Path) -> None:
    """SIGSTOP for three seconds, then SIGCONT: the capture goes on in real time, a second behind at most."""
    path = record(1.0)
    program = f"""
import sys, time
from ingest.capture import Capture
from streams.vocabulary import FileSettings
from tests.fix_ingest import equipment, unrecorded
class Out:
    def put(self, level): print(level.seconds, flush=True)
played, nobody = FileSettings(path={str(path)!r}, loop=True), lambda told: None
Capture(
    "s", played, report=nobody, hear=nobody, watch=nobody, telemetry=Out(), equipment=equipment(),
    evidence=unrecorded(),
).start()
time.sleep(60)
"""
    root = Path(__file__).parent.parent
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=root)
    assert child.stdout is not None
    try:
        before = float([child.stdout.readline() for _ in range(5)][-1])
        os.kill(child.pid, signal.SIGSTOP)
        time.sleep(3)  # what is tested is the passing of this time
        os.kill(child.pid, signal.SIGCONT)
        resumed = time.monotonic()
        after = before
        while time.monotonic() - resumed < 2.0:
            after = float(child.stdout.readline())
        assert 2.0 - 0.5 < after - before < 2.0 + BEHIND + 0.6
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def test_as_fast_as_it_can_be_read(record: Record, heard: Heard) -> None:
    """Two minutes are read in far less, and their levels come at the usual rate, each of all audio since."""
    begun = time.monotonic()
    with capturing(heard, record(120.0), pace="fast"):
        eventually(lambda: heard.states() == ["running", "stopped"], "its end", 60)
        eventually(lambda: heard.levels[-1].seconds == 120.0, "the last level")
    took = time.monotonic() - begun
    assert took < 30
    assert len(heard.levels) <= took / 0.1 + 10
    assert {level.rms_dbfs for level in heard.levels} == {-9.03}


@pytest.mark.usefixtures("impatient")
def test_it_comes_back_by_itself(record: Record, heard: Heard, tmp_path: Path) -> None:
    """A file that is not there fails with the reason, again and again, and plays as soon as it is there."""
    path = tmp_path / "later.wav"
    with capturing(heard, path, loop=True):
        eventually(lambda: len(heard.reports) >= 2, "a few attempts")
        assert set(heard.states()) == {"failed"}
        assert heard.reports[0].fact.reason == f"{path}: No such file or directory"
        record(0.5).rename(path)
        eventually(lambda: heard.states()[-1] == "running", "running")


@pytest.mark.usefixtures("impatient")
def test_any_error_harms_only_its_source(tap: Tap, heard: Heard, record: Record) -> None:
    """An error that nobody foresaw is the source's failure; the capture goes on trying."""
    other = Heard()
    with capturing(heard, "/tap/1", loop=True), capturing(other, "/tap/2", loop=True):
        eventually(lambda: heard.states() == other.states() == ["running"], "both running")
        tap.error = ZeroDivisionError("a bug")
        eventually(lambda: "failed" in heard.states(), "the failure")
        assert heard.reports[1].fact.reason == "ZeroDivisionError: a bug"
        tap.error = None
        eventually(lambda: heard.states()[-1] == other.states()[-1] == "running", "both again")


def test_stopped_at_once(record: Record, heard: Heard) -> None:
    """A stop ends a capture within 0.2 s, in the middle of a pause for the clock."""
    with capturing(heard, record(5.0), loop=True) as capture:
        eventually(lambda: heard.levels, "a level")
        begun = time.monotonic()
        assert capture.stop()
        assert time.monotonic() - begun < 0.2
        levels = len(heard.levels)
        time.sleep(0.3)  # nothing may come now, and there is nothing to wait for
        assert len(heard.levels) == levels
        assert heard.states() == ["running"]


def test_a_pause_after_a_failure_is_cut_short_by_a_stop(heard: Heard) -> None:
    """Nobody waits for the next attempt of a source that is stopped."""
    with capturing(heard, "/nowhere/at/all") as capture:
        eventually(lambda: heard.states() == ["failed"], "the failure")
        begun = time.monotonic()
        assert capture.stop()
        assert time.monotonic() - begun < 0.2


def test_a_read_that_hangs_is_left_behind_silent(tap: Tap, heard: Heard) -> None:
    """Where a read hangs, stop says so after its timeout; what the read gives afterwards is not heard."""
    with capturing(heard, "/tap", loop=True) as capture:
        eventually(lambda: heard.levels, "a level")
        tap.open.clear()
        blocks = -1
        while blocks != capture.blocks:
            blocks = capture.blocks
            time.sleep(0.2)
        assert not capture.stop(0.1)
        reports, levels = len(heard.reports), len(heard.levels)
        tap.open.set()
        assert capture.stop(5)
        assert (len(heard.reports), len(heard.levels)) == (reports, levels)


def test_nothing_is_left_of_what_has_ended(record: Record, heard: Heard) -> None:
    """No thread is left once a recording has been played."""
    with capturing(heard, record(0.3)):
        eventually(lambda: heard.states()[-1:] == ["stopped"], "its end")
        eventually(
            lambda: not [t for t in threading.enumerate() if t.name == "capture-s"], "the thread's end"
        )


@given(failures=st.integers(1, 10_000))
def test_pauses_double_up_to_half_a_minute(failures: int) -> None:
    """1 s, 2 s, 4 s … 30 s, and never longer."""
    assert longest_pause(failures) == min(2.0 ** (failures - 1) if failures < 20 else 1e9, LONGEST_PAUSE)
