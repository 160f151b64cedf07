"""What waits to be read: told as it is, and a condition where its reader is too slow."""

from __future__ import annotations

import os
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

from ingest.backlog import BEHIND_AFTER, Backlog, Waiting, capacity, unread
from ingest.capture import Capture
from ingest.evidence import Evidence
from ingest.inputs import Inputs
from ingest.meters import Block
from streams.inputs import FetchSection, PipeSection
from streams.sound import RecordingsSection
from streams.vocabulary import PipeSettings
from tests.fix_ingest import Heard, equipment
from tests.fix_servers import eventually

RATE = 48_000
FULL = Waiting(seconds=0.9, most=1.0)
INTO_TIME = """
import sys, time
begun, sent = time.monotonic(), 0
while True:
    while sent > (time.monotonic() - begun) * 48000:
        time.sleep(0.01)
    sys.stdout.buffer.write(bytes(4800 * 8))
    sys.stdout.buffer.flush()
    sent += 4800
"""


class Slow(Evidence):
    """Keeps no audio, and takes twice as long for it as it lasts."""

    def make_room(self, frames: int) -> None:
        time.sleep(2 * frames / RATE)

    def add(self, block: Block) -> None:
        pass


def test_a_pipe_says_what_it_holds() -> None:
    """Bytes that were written and not read; a closed pipe holds nothing."""
    out, into = os.pipe()
    os.write(into, bytes(1000))
    assert unread(out) == 1000
    assert os.read(out, 400) == bytes(400)
    assert unread(out) == 600
    assert capacity(out) >= 4096
    os.close(into)
    os.close(out)
    assert unread(out) == 0


def test_only_what_waits_for_long_and_for_its_reader_is_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    """A burst is read in time, and what our clock holds back is meant to wait: neither is a fault."""
    times = SimpleNamespace(now=100.0)
    monkeypatch.setattr("ingest.backlog.time", SimpleNamespace(monotonic=lambda: times.now))
    backlog = Backlog()
    for held in (False, True):
        assert backlog.seen(FULL, held).most == 0.0
        times.now += BEHIND_AFTER - 0.1
        assert backlog.seen(FULL, held).most == 0.0
        assert backlog.seen(FULL, held).seconds == 0.9
        times.now += 0.1
    assert backlog.seen(FULL, False).most == 0.0
    times.now += BEHIND_AFTER
    assert backlog.seen(FULL, False) == FULL
    assert backlog.seen(Waiting(seconds=0.1, most=1.0), False).most == 0.0
    assert backlog.seen(FULL, False).most == 0.0


def test_a_source_that_is_read_too_slowly_is_told_about(
    heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program writes in its own time, its reader takes twice as long: levels say so, then a condition."""
    monkeypatch.setattr("ingest.backlog.BEHIND_AFTER", 0.3)
    command = (sys.executable, "-c", INTO_TIME)
    pipe = PipeSection(command=command, rate=RATE, channels=2, format="f32le")
    capture = Capture(
        "s", PipeSettings(pipe="it"), report=heard.report, hear=heard.hear, watch=heard.watch,
        telemetry=heard, equipment=equipment(),
        evidence=Slow(("node.here", "s"), RecordingsSection(), None, lambda fact: None),
        inputs=Inputs(FetchSection(), {"it": pipe}),
    )  # fmt: skip
    capture.start()
    try:
        eventually(lambda: heard.watched and "buffer" in heard.watched[-1].conditions, "the condition", 20)
        readings = heard.levels[-1].readings
        assert readings is not None
        assert readings.buffered_seconds >= 0.1
        assert readings.dropped_seconds == 0.0
    finally:
        capture.stop()


def test_a_minute_of_each_source_is_held() -> None:
    """Unless the settings say otherwise, what was heard a minute ago can still be recorded."""
    evidence = Evidence(("node.here", "s"), RecordingsSection(), None, lambda fact: None)
    evidence.open(100, 1, 0.0, live=True)
    ring = evidence._ring
    assert ring is not None
    for number in range(900):
        ring.add(np.full((10, 1), number / 32768, np.float32))
    begin, held = ring.read(0, 100_000)
    assert (begin, len(held)) == (3000, 60 * 100)
    assert (held[0, 0], held[-1, 0]) == (300, 899)
