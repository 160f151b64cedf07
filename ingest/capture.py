"""Capturing a source: a thread that opens, reads, meters, and comes back by itself after a failure.

It never waits for anything but the audio itself and the clock: what it has to say goes into queues.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Protocol

import msgspec
import structlog

from ingest.audio import Audio
from ingest.backlog import Backlog
from ingest.chain import Chain
from ingest.equipment import Equipment
from ingest.evidence import Evidence
from ingest.file_source import BLOCK_SECONDS, SourceFailed
from ingest.inputs import Inputs
from ingest.listener import Noted
from ingest.pace import Clock, clock
from ingest.signs import HEALTHY, Sign, Signs
from streams.alerts import MeasuredKind
from streams.backoff import JITTER
from streams.messages import Level, now
from streams.vocabulary import LoggedSettings, SourceFact, SourceState

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
"""Seconds between attempts after a failure: the pause doubles, and half of it is left to chance."""
MILESTONES = frozenset(10**power for power in range(8))
"""Attempts that are told although nothing but their number has changed."""
STEADY = 10.0
"""Seconds a source must have run before its next failure counts as the first one again."""
log = structlog.get_logger(__name__)


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A source's state as its capture sees it."""

    state: SourceState
    fact: SourceFact
    at: datetime


class Watched(msgspec.Struct, frozen=True):
    """The conditions that a source's meters have open now, each with its reason."""

    conditions: Mapping[MeasuredKind, str]


class Telemetry(Protocol):
    """Where levels go; it never blocks."""

    def put(self, level: Level) -> None:
        """Take one measurement."""


class Capture:
    """One source's capture, from `start` until `stop` or the end of its audio.

    `report` is called from the audio's own thread with each state after "starting", `hear` with each
    fact of an alert, `watch` from the meters' with the conditions that are open: none may block. Once `stop`
    or `cancel` has returned, nothing comes any more, even where the thread hangs in a read.
    """

    def __init__(
        self,
        source: str,
        settings: LoggedSettings,
        *,
        report: Callable[[Report], None],
        hear: Callable[[Noted], None],
        watch: Callable[[Watched], None],
        telemetry: Telemetry,
        equipment: Equipment,
        evidence: Evidence,
        inputs: Inputs | None = None,
    ) -> None:
        self.source = source
        self._inputs = inputs or Inputs()
        self.settings = settings
        self._report = report
        self._hear = hear
        self._watch = watch
        self._equipment = equipment
        self.evidence = evidence
        self._telemetry = telemetry
        self._stopping = threading.Event()
        self._telling = threading.Lock()
        self._seconds = 0.0
        self._why = ""
        self.blocks = 0
        """How many blocks of audio were read: one that hangs is told by this number standing still."""
        self.decoded = 0.0
        """Seconds of audio that went through the decoder."""
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
        try:
            self._go_on()
        finally:
            self.evidence.close()

    def _go_on(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            before = self._seconds
            try:
                self._play()
                self._say("stopped", SourceFact(reason="ended", desired="stopped"))
                return
            except SourceFailed as error:
                why = str(error)
            except Exception as error:  # a source harms only itself
                log.exception("capture failed", source=self.source)
                why = f"{type(error).__name__}: {error}"
            failures = 1 if self._seconds - before >= STEADY else failures + 1
            limit = longest_pause(failures)
            pause = JITTER.uniform(limit / 2, limit)
            self._fail(why, failures, pause)
            self._stopping.wait(pause)

    def _fail(self, why: str, attempt: int, pause: float) -> None:
        """Say that an attempt failed: each to the node's own log, the 1st, 10th, 100th … as a fact.

        Otherwise a server that is away for a night would fill the log with the same sentence.
        """
        if self._stopping.is_set():
            return
        log.info("attempt failed", source=self.source, attempt=attempt, detail=why, again_in=round(pause, 2))
        if why != self._why or attempt in MILESTONES:
            self._why = why
            reason = why if attempt == 1 else f"{why} (attempt {attempt})"
            self._say("failed", SourceFact(reason=reason))

    def _play(self) -> None:
        audio = self._inputs.open(self.settings)
        chain: Chain | None = None
        try:
            signs = Signs(self._inputs.stalled_after, self._equipment.meters.silence)
            due: Clock | None = None
            backlog, held = Backlog(), False
            frames = 0
            begun = self._seconds
            for block in audio.blocks():
                if self._stopping.is_set():
                    return
                if not len(block):
                    self._show(signs.nothing(audio.status) if audio.is_live else None, audio)
                    continue
                self.blocks += 1
                if chain is None or due is None:
                    due = clock(audio.pace)
                    chain = self._chain(audio, begun)
                    self._show(None if audio.is_live else HEALTHY, audio)
                frames += len(block)
                self._seconds = begun + frames / audio.rate
                if audio.is_live:
                    self._show(signs.heard(block, audio.rate, due.held), audio)
                chain.add(block, backlog.seen(audio.waiting, held), audio.title)
                self.decoded = chain.decoded
                pause = due.pause(frames / audio.rate)
                held = pause > 0.0
                if held:
                    self._stopping.wait(pause)
                while audio.pace == "fast" and chain.full and not self._stopping.wait(BLOCK_SECONDS):
                    pass  # it can wait, so that all of it is measured
        finally:
            self._inputs.closed(audio)
            audio.close()
            if chain is not None:
                chain.close()
                if not self._stopping.is_set():
                    chain.finish()

    def _chain(self, audio: Audio, begun: float) -> Chain:
        live = audio.pace != "fast"
        gauge = self._equipment.meters.gauge(
            self.source, audio.rate, audio.channels, offset=begun, live=live, clocked=audio.pace == "live",
            put=self._put, watch=self._warn,
        )  # fmt: skip
        return Chain(
            self.source, audio.rate, audio.channels, offset=begun, live=live,
            evidence=self.evidence, gauge=gauge, tell=self._tell,
        )  # fmt: skip

    def _show(self, sign: Sign | None, audio: Audio) -> None:
        """Say how the connection is, where that is news."""
        if sign is None:
            return
        heard = sign.state == "running"
        fact = SourceFact(
            reason=sign.reason,
            rate=audio.rate if heard else None,
            channels=audio.channels if heard else None,
        )
        self._say(sign.state, fact)

    def _put(self, level: Level) -> None:
        with self._telling:
            if not self._stopping.is_set():
                self._telemetry.put(level)

    def _warn(self, conditions: Mapping[MeasuredKind, str]) -> None:
        with self._telling:
            if not self._stopping.is_set():
                self._watch(Watched(conditions))

    def _tell(self, noted: Noted) -> None:
        with self._telling:
            if not self._stopping.is_set():
                self._hear(noted)

    def _say(self, state: SourceState, fact: SourceFact) -> None:
        with self._telling:
            if not self._stopping.is_set():
                self._report(Report(state=state, fact=fact, at=now()))


def longest_pause(failures: int) -> float:
    """The longest pause in seconds after this many failures in a row (at least one)."""
    doublings = min(failures - 1, 10)
    return min(FIRST_PAUSE * 2.0**doublings, LONGEST_PAUSE)
