"""Capturing a source: a thread that opens, reads, meters, and comes back by itself after a failure."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from datetime import datetime
from typing import Protocol

import msgspec
import structlog

from ingest.file_source import FileSource, SourceFailed
from ingest.meters import Block, peak_dbfs, rms_dbfs, stated
from streams.messages import Level, now
from streams.vocabulary import SourceFact, SourceSettings, SourceState

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
"""Seconds between attempts after a failure: full jitter below a limit that doubles."""
BEHIND = 1.0
"""Seconds a paced source may be behind; what is more is not made up for."""

log = structlog.get_logger(__name__)


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A source's state as its capture sees it."""

    state: SourceState
    fact: SourceFact
    at: datetime


class Telemetry(Protocol):
    """Where levels go; it never blocks."""

    def put(self, level: Level) -> None:
        """Take one measurement."""


class Capture:
    """One source's capture, from its making until `stop`.

    `report` is called from the audio's own thread for each state after the first (which whoever
    waits for `tried` finds in `last`), or for the first too where `tell_first`; it must not block.
    """

    def __init__(
        self,
        source: str,
        settings: SourceSettings,
        *,
        report: Callable[[Capture, Report], None],
        telemetry: Telemetry,
        tell_first: bool,
    ) -> None:
        self.source = source
        self.settings = settings
        self._report = report
        self._telemetry = telemetry
        self._tell = tell_first
        self._stopping = threading.Event()
        self._seconds = 0.0
        self.tried = threading.Event()
        """Set once the first attempt has succeeded or failed."""
        self.last = Report(state="starting", fact=SourceFact(), at=now())
        self.first = self.last
        """What the first attempt came to, once `tried` is set."""
        self._thread = threading.Thread(target=self._run, name=f"capture-{source}", daemon=True)

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread.start()

    def stop(self) -> None:
        """End, and wait until it has ended (at most a second)."""
        self._stopping.set()
        self._thread.join(1.0)

    def _run(self) -> None:
        pause = FIRST_PAUSE
        while not self._stopping.is_set():
            before = self._seconds
            try:
                self._play()
                if not self._stopping.is_set():
                    self._say("stopped", SourceFact(reason="ended", desired="stopped"))
                return
            except SourceFailed as error:
                self._say("failed", SourceFact(reason=str(error)))
            except Exception as error:  # a source harms only itself
                log.exception("capture failed", source=self.source)
                self._say("failed", SourceFact(reason=f"{type(error).__name__}: {error}"))
            pause = FIRST_PAUSE if self._seconds > before else min(pause * 2, LONGEST_PAUSE)
            self._stopping.wait(random.uniform(0, pause))

    def _play(self) -> None:
        audio = FileSource(self.settings)
        try:
            begun = time.monotonic()
            played = 0.0
            running = False
            for block in audio.blocks():
                if self._stopping.is_set():
                    return
                played += len(block) / audio.rate
                self._seconds += len(block) / audio.rate
                if not running:
                    running = True
                    self._say("running", SourceFact(rate=audio.rate, channels=audio.channels))
                self._measure(block)
                if audio.paced:
                    ahead = begun + played - time.monotonic()
                    if ahead < -BEHIND:
                        begun -= ahead
                    self._stopping.wait(max(ahead, 0))
        finally:
            audio.close()

    def _measure(self, block: Block) -> None:
        self._telemetry.put(
            Level(
                source=self.source,
                at=now(),
                rms_dbfs=stated(rms_dbfs(block)),
                peak_dbfs=stated(peak_dbfs(block)),
                seconds=round(self._seconds, 3),
            )
        )

    def _say(self, state: SourceState, fact: SourceFact) -> None:
        self.last = Report(state=state, fact=fact, at=now())
        if self._tell and not self._stopping.is_set():
            self._report(self, self.last)
        self._tell = True
        if not self.tried.is_set():
            self.first = self.last
            self.tried.set()
