"""Capturing a source: a thread that opens, reads, meters, and comes back by itself after a failure.

It never waits for anything but the audio itself and the clock: what it has to say goes into queues.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from datetime import datetime
from typing import Protocol

import msgspec
import structlog

from ingest.file_source import BLOCK_SECONDS, FileSource, SourceFailed
from ingest.meters import Meter, stated
from streams.messages import Level, now
from streams.vocabulary import SourceFact, SourceSettings, SourceState

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
"""Seconds between attempts after a failure: the pause doubles, and half of it is left to chance."""
STEADY = 10.0
"""Seconds a source must have run before its next failure counts as the first one again."""
BEHIND = 1.0
"""Seconds a paced source may be behind and catch up; what is more is not made up for."""
PERIOD = BLOCK_SECONDS
"""Seconds between two levels."""
SHARE = 0.5
"""How much of its time a source that is read as fast as possible reads; the rest is for the others."""

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
    """One source's capture, from `start` until `stop` or the end of its audio.

    `report` is called from the audio's own thread with each state after "starting": it must not block.
    Once `stop` or `cancel` has returned, neither reports nor levels come any more, even where the
    thread hangs in a read.
    """

    def __init__(
        self,
        source: str,
        settings: SourceSettings,
        *,
        report: Callable[[Report], None],
        telemetry: Telemetry,
    ) -> None:
        self.source = source
        self.settings = settings
        self._report = report
        self._telemetry = telemetry
        self._stopping = threading.Event()
        self._telling = threading.Lock()
        self._seconds = 0.0
        self.blocks = 0
        """How many blocks of audio were read: one that hangs is told by this number standing still."""
        self._thread = threading.Thread(target=self._run, name=f"capture-{source}", daemon=True)

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread.start()

    def cancel(self) -> None:
        """Let it end; returns at once."""
        with self._telling:
            self._stopping.set()

    def stop(self, timeout: float = 1.0) -> bool:
        """End, and wait until it has ended, at most `timeout` seconds; return whether it has."""
        self.cancel()
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            before = self._seconds
            try:
                self._play()
                self._say("stopped", SourceFact(reason="ended", desired="stopped"))
                return
            except SourceFailed as error:
                self._say("failed", SourceFact(reason=str(error)))
            except Exception as error:  # a source harms only itself
                log.exception("capture failed", source=self.source)
                self._say("failed", SourceFact(reason=f"{type(error).__name__}: {error}"))
            failures = 1 if self._seconds - before >= STEADY else failures + 1
            limit = longest_pause(failures)
            self._stopping.wait(random.uniform(limit / 2, limit))

    def _play(self) -> None:
        audio = FileSource(self.settings)
        try:
            clock = _Clock() if audio.paced else _Turn()
            meter = Meter()
            frames = 0
            begun = self._seconds
            for block in audio.blocks():
                if self._stopping.is_set():
                    return
                self.blocks += 1
                if not frames:
                    self._say("running", SourceFact(rate=audio.rate, channels=audio.channels))
                frames += len(block)
                self._seconds = begun + frames / audio.rate
                meter.add(block)
                pause = clock.pause(frames / audio.rate)
                if pause is not None:
                    self._measure(meter)
                    self._stopping.wait(pause)
            self._measure(meter)
        finally:
            audio.close()

    def _measure(self, meter: Meter) -> None:
        if not meter.measured:
            return
        rms, peak = meter.read()
        level = Level(
            source=self.source,
            at=now(),
            rms_dbfs=stated(rms),
            peak_dbfs=stated(peak),
            seconds=round(self._seconds, 3),
        )
        with self._telling:
            if not self._stopping.is_set():
                self._telemetry.put(level)

    def _say(self, state: SourceState, fact: SourceFact) -> None:
        with self._telling:
            if not self._stopping.is_set():
                self._report(Report(state=state, fact=fact, at=now()))


def longest_pause(failures: int) -> float:
    """The longest pause in seconds after this many failures in a row (at least one)."""
    doublings = min(failures - 1, 10)
    return min(FIRST_PAUSE * 2.0**doublings, LONGEST_PAUSE)


class _Clock:
    """Real time: a block is due when what was played before it has been."""

    def __init__(self) -> None:
        self._begun = time.monotonic()

    def pause(self, played: float) -> float | None:
        """Seconds to wait before the next block; None to go on without saying anything yet."""
        ahead = self._begun + played - time.monotonic()
        if ahead < -BEHIND:
            self._begun -= ahead
        return max(ahead, 0.0)


class _Turn:
    """As fast as possible, for SHARE of the time: a level each PERIOD, of what was read in it."""

    def __init__(self) -> None:
        self._begun = time.monotonic()

    def pause(self, played: float) -> float | None:
        """Seconds to wait before the next block; None to go on without saying anything yet."""
        spent = time.monotonic() - self._begun
        if spent < PERIOD * SHARE:
            return None
        # No longer than a period, where a slow read or a stopped process took the time.
        pause = min(spent / SHARE - spent, PERIOD)
        self._begun += spent + pause
        return pause
