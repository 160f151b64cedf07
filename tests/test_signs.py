"""What is told of a connection: healthy, silent, stalled and faster than real time, each apart."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from structlog.testing import capture_logs

from ingest.capture import Capture
from ingest.inputs import Inputs
from ingest.pace import BURST, Live
from ingest.signs import FAST, HEALTHY, Sign, Signs
from streams.vocabulary import StreamSettings
from tests.fix_ingest import Heard, equipment, unrecorded
from tests.fix_servers import eventually

SILENT = Sign("running", "connected, but silent: below −60 dBFS for 10 s")
LOUD = np.full((800, 1), 0.1, np.float32)
QUIET = np.full((800, 1), 0.0005, np.float32)


class Times:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> Times:
    made = Times()
    clock = SimpleNamespace(monotonic=lambda: made.now)
    monkeypatch.setattr("ingest.signs.time", clock)
    monkeypatch.setattr("ingest.pace.time", clock)
    return made


def test_health_is_told_once(times: Times) -> None:
    """The first audio is news; the next is not."""
    signs = Signs(10.0, -60.0)
    assert [signs.heard(LOUD, 8000, False) for _ in range(3)] == [HEALTHY, None, None]


def test_silence_is_told_after_its_time(times: Times) -> None:
    """Ten seconds below −60 dBFS, not one less and not a single quiet block; a loud block ends it."""
    signs = Signs(10.0, -60.0)
    assert signs.heard(LOUD, 8000, False) == HEALTHY
    assert [signs.heard(QUIET, 8000, False) for _ in range(99)] == [None] * 99
    assert signs.heard(LOUD, 8000, False) is None
    told = [signs.heard(QUIET, 8000, False) for _ in range(100)]
    assert [sign for sign in told if sign] == [SILENT]
    assert told[-1] == SILENT
    assert signs.heard(LOUD, 8000, False) == HEALTHY


def test_silence_is_what_the_meters_call_silence(times: Times) -> None:
    """A hum of −66 dBFS is sound where the settings say so, and its level decides, not a click in it."""
    signs = Signs(10.0, -70.0)
    assert [signs.heard(QUIET, 8000, False) for _ in range(120)][1:] == [None] * 119
    signs, click = Signs(10.0, -60.0), QUIET.copy()
    click[7] = 0.005
    told = [signs.heard(click, 8000, False) for _ in range(100)]
    assert told[-1] == SILENT


def test_a_stall_is_told_once_and_ends_with_the_next_audio(times: Times) -> None:
    """Connected, but nothing comes: told after its time with how far the connection is."""
    signs = Signs(10.0, -60.0)
    signs.heard(LOUD, 8000, False)
    times.now += 9.9
    assert signs.nothing("connected to x") is None
    times.now += 0.2
    stalled = signs.nothing("connected to x")
    assert stalled is not None
    assert (stalled.state, stalled.reason) == ("stalled", "connected to x, but nothing came for 10 s")
    times.now += 10
    assert signs.nothing("connected to x") is None
    assert signs.heard(LOUD, 8000, False) == HEALTHY


def test_faster_than_real_time_is_told(times: Times) -> None:
    """Who is held back is fast."""
    signs = Signs(10.0, -60.0)
    assert [signs.heard(LOUD, 8000, held) for held in (False, True, True, False)] == [
        HEALTHY, FAST, None, HEALTHY,
    ]  # fmt: skip


def played(times: Times, live: Live, seconds: float, speed: float) -> tuple[float, bool]:
    """Feed so much audio at a speed; how long it was held back, and whether that was told."""
    held, at = 0.0, live._played
    for number in range(1, round(seconds * 10) + 1):
        pause = live.pause(at + number * 0.1) or 0.0
        times.now += max(0.1 / speed, pause)
        held += pause
    return held, live.held


def test_a_burst_is_taken_and_a_flood_is_held(times: Times) -> None:
    """What a server has in store comes at once; one that goes on so is read as fast as it plays."""
    assert played(times, Live(), BURST - 1, 100) == (0.0, False)
    held, told = played(times, live := Live(), 120, 100)
    assert held == pytest.approx(60, rel=0.05)
    assert told
    assert played(times, live, 60, 0.9)[1] is False


def test_a_clock_that_is_a_little_fast_is_no_flood(times: Times) -> None:
    """A sender whose clock runs 0.1 % fast for ten hours is never held back."""
    assert played(times, Live(), 36_000, 1.001) == (0.0, False)


def test_what_a_network_held_up_may_come_at_once(times: Times) -> None:
    """After a stall of half a minute what was missed comes in a second, and is taken."""
    live = Live()
    played(times, live, 60, 1.0)
    times.now += 30
    assert played(times, live, 30, 30.0) == (0.0, False)


def test_each_attempt_is_in_the_nodes_log_and_few_are_facts(
    inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of attempts that fail alike the 1st and the 10th are told, with its number; the log has all of them."""
    monkeypatch.setattr("ingest.capture.FIRST_PAUSE", 0.001)
    monkeypatch.setattr("ingest.capture.LONGEST_PAUSE", 0.001)
    told = Heard()
    capture = Capture(
        "s", StreamSettings(url="http://127.0.0.1:1/"),
        report=told.report, hear=told.hear, watch=told.watch, telemetry=told, inputs=inputs,
        equipment=equipment(), evidence=unrecorded(),
    )  # fmt: skip
    with capture_logs() as lines:
        capture.start()
        eventually(lambda: len(lines) >= 12, "a dozen attempts")
        capture.stop()
    attempts = [line["attempt"] for line in lines if line["event"] == "attempt failed"]
    assert attempts == list(range(1, len(attempts) + 1))
    refused = "http://127.0.0.1:1/: 127.0.0.1:1: Connection refused"
    assert [report.fact.reason for report in told.reports] == [refused, f"{refused} (attempt 10)"]
