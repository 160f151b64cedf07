"""What tests of ingest share: recordings, a place for levels, and audio that hangs, floods or breaks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ingest.backlog import NOTHING
from ingest.capture import Report, Watched
from ingest.equipment import Equipment
from ingest.evidence import Evidence
from ingest.file_source import SourceFailed
from ingest.listener import Noted
from ingest.meters import Block, Meters
from streams.messages import Level
from streams.sound import RecordingsSection
from streams.vocabulary import FileSettings

RATE = 8000


class Heard:
    """What captures put out: their reports, their levels and what was heard, in order."""

    def __init__(self) -> None:
        self.reports: list[Report] = []
        self.levels: list[Level] = []
        self.alerts: list[Noted] = []
        self.watched: list[Watched] = []

    def report(self, report: Report) -> None:
        self.reports.append(report)

    def hear(self, noted: Noted) -> None:
        self.alerts.append(noted)

    def watch(self, watched: Watched) -> None:
        self.watched.append(watched)

    def put(self, level: Level) -> None:
        self.levels.append(level)

    def states(self) -> list[str]:
        return [report.state for report in self.reports]


@cache
def equipment() -> Equipment:
    """What a node gives to its captures; its meters run as long as the tests."""
    meters = Meters()
    threading.Thread(target=meters.run, args=(threading.Event(),), name="meters", daemon=True).start()
    return Equipment(meters)


def unrecorded() -> Evidence:
    """Evidence of a source that nobody records."""
    return Evidence(("node.here", "s"), RecordingsSection(), None, lambda fact: None)


class Tap:
    """Audio in the place of a file's, which a test turns on and off: `FileSource` as captures use it.

    It gives silent blocks as fast as they are wanted; while `closed`, a read hangs.
    """

    def __init__(self) -> None:
        self.is_live, self.waiting, self.title = False, NOTHING, None
        self.open = threading.Event()
        self.open.set()
        self.opened = 0
        self.error: Exception | None = None

    def __call__(self, settings: FileSettings, *, length: Callable[[], float] | None = None) -> Tap:
        self.opened += 1
        self.rate, self.channels, self.pace = RATE, 1, "clock" if settings.pace == "realtime" else "fast"
        if not settings.path.startswith("/tap"):
            raise SourceFailed(f"{settings.path}: not connected")
        return self

    def blocks(self) -> Iterator[Block]:
        while True:
            self.open.wait(30)
            if self.error is not None:
                raise self.error
            yield np.full((RATE // 10, 1), 0.5, np.float32)

    def close(self) -> None:
        pass


@pytest.fixture
def heard() -> Heard:
    """A listener for one capture or more."""
    return Heard()


@pytest.fixture
def tap(monkeypatch: pytest.MonkeyPatch) -> Iterator[Tap]:
    """Audio that the test turns on and off; sources of the path /tap… have it."""
    made = Tap()
    monkeypatch.setattr("ingest.inputs.FileSource", made)
    yield made
    made.error = SourceFailed("the test is over")
    made.open.set()


@pytest.fixture
def record(tmp_path: Path) -> Callable[..., Path]:
    """Makes recordings: `record(seconds)` is a 440 Hz sine of half of full scale."""

    def make(seconds: float, name: str = "sine.wav", rate: int = RATE, channels: int = 1) -> Path:
        sine = 0.5 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)
        path = tmp_path / name
        soundfile.write(path, np.repeat(sine[:, np.newaxis], channels, axis=1), rate, subtype="PCM_16")
        return path

    return make
