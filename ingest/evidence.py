"""What is kept of a source's sound: its latest minute in memory, and what of it is to be recorded.

The audio's own thread only marks where recordings begin and end; the recorder's thread writes them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Protocol

from uuid_utils import uuid7

from ingest.meters import Block
from ingest.on_air import OnAir
from ingest.ring import Ring
from streams.alerts import AlertBurst, AlertEnded, AlertFact, AlertReceived
from streams.messages import now
from streams.recordings import RecordingFact, RecordingKind
from streams.sound import RecordingsSection

PATIENCE = 2.0
"""Seconds that audio without a clock of its own waits for a disk that is slower than it."""

AGAIN = 60.0
"""Seconds after which a continuous recording that failed is tried again."""

Tell = Callable[[RecordingFact], None]
Place = tuple[str, str]
"""Lane and source."""


class Take:
    """One recording in the making: a span of a ring, whose end may not be known yet."""

    def __init__(
        self,
        place: Place,
        kind: RecordingKind,
        ring: Ring,
        start: int,
        most: float,
        *,
        tell: Tell,
        injected: bool,
    ) -> None:
        self.id = str(uuid7())
        self.lane, self.source = place
        self.kind, self.ring, self.tell, self.injected = kind, ring, tell, injected
        self.start = self.at = max(start, ring.oldest)
        """The first frame, and the one to be written next."""
        self.limit = self.start + round(most * ring.rate)
        self.end: int | None = None
        """The frame before which it ends; None while nobody knows."""
        self.begun_at: datetime = now() - timedelta(seconds=(ring.written - self.start) / ring.rate)
        self.hearings: list[str] = []
        self.lost = 0
        """Frames that were gone before they could be written."""
        self.failed = False
        """Whether it was given up."""

    @property
    def until(self) -> int:
        """The frame before which it ends, as far as is known."""
        return self.limit if self.end is None else min(self.end, self.limit)

    @property
    def over(self) -> bool:
        """Whether all of it has been heard."""
        return self.ring.written >= self.until

    def close(self) -> None:
        """End it with what has been heard, where it does not end before."""
        self.end = min(self.until, self.ring.written)


class Recorder(Protocol):
    """What writes takes to disk, in a thread of its own."""

    def begin(self, take: Take) -> None:
        """Write this from now on; never waits."""


class Evidence:
    """A source's ring and recordings. All but `always` is called by the audio's thread.

    `on_air` is told of the ring, so that people can listen to it.
    """

    def __init__(
        self,
        place: Place,
        section: RecordingsSection,
        recorder: Recorder | None,
        tell: Tell,
        *,
        injected: bool = False,
        on_air: OnAir | None = None,
    ) -> None:
        self._place, self._section, self._recorder, self._tell = place, section, recorder, tell
        self._on_air = on_air
        self._injected = injected
        self._ring: Ring | None = None
        self._base = 0.0
        self._live = True
        self._alert: Take | None = None
        self._segment: Take | None = None
        self._always = False
        self._not_before = 0.0

    def always(self, wanted: bool) -> None:
        """Say whether all of it is to be recorded, in segments."""
        self._always = wanted

    def open(self, rate: int, channels: int, offset: float, *, live: bool) -> None:
        """The source was opened (again), `offset` seconds of its audio having been heard before."""
        self._live = live
        if self._ring is None or (self._ring.rate, self._ring.channels) != (rate, channels):
            self.close()
            self._ring = Ring(rate, channels, self._section.ring_seconds)
            self._base = offset
        if self._on_air is not None:
            self._on_air.put(self._place[1], self._ring)

    def add(self, block: Block) -> None:
        """Keep the newest audio."""
        ring = self._ring
        if ring is None or self._recorder is None:
            return
        ring.add(block)
        if self._alert is not None and self._alert.over:
            self._alert = None
        if self._segment is not None and not self._always:
            self._segment.close()
        if self._segment is not None and self._segment.failed:
            self._not_before = time.monotonic() + AGAIN
        start = ring.written - len(block)
        if self._segment is not None and (self._segment.over or self._segment.failed):
            # The next begins with the frame after its last.
            start = max(start, self._segment.until)
            self._segment = None
        if self._always and self._segment is None and time.monotonic() >= self._not_before:
            self._segment = self._begin("continuous", ring, start, self._section.segment_seconds)

    def note(self, fact: AlertFact | RecordingFact) -> None:
        """Record what is heard: from before the first burst to after the end of message."""
        ring = self._ring
        if ring is None or self._recorder is None:
            return
        if isinstance(fact, AlertBurst):
            if self._alert is None:
                start = self._frame(ring, fact.start - self._section.before_seconds)
                self._alert = self._begin("alert", ring, start, self._section.longest_seconds)
            self._alert.end = None
        elif isinstance(fact, AlertReceived) and self._alert is not None:
            self._alert.hearings.append(fact.hearing)
        elif isinstance(fact, AlertEnded) and self._alert is not None:
            self._alert.end = self._frame(ring, fact.end + self._section.after_seconds)

    def close(self) -> None:
        """No more audio comes: what is being recorded ends here."""
        for take in (self._alert, self._segment):
            if take is not None:
                take.close()
        self._alert = self._segment = None
        if self._on_air is not None and self._ring is not None:
            self._on_air.drop(self._place[1], self._ring)

    def _begin(self, kind: RecordingKind, ring: Ring, start: int, most: float) -> Take:
        take = Take(self._place, kind, ring, start, most, tell=self._tell, injected=self._injected)
        if self._recorder is not None:
            self._recorder.begin(take)
        return take

    def _frame(self, ring: Ring, seconds: float) -> int:
        return max(0, round((seconds - self._base) * ring.rate))

    def make_room(self, frames: int) -> None:
        """Let the disk keep up with audio that comes faster than it sounds, before so much of it is added."""
        ring = self._ring
        if ring is None or self._live:
            return
        until = time.monotonic() + PATIENCE
        takes = [take for take in (self._alert, self._segment) if take is not None]
        while any(take.at < ring.written + frames - ring.frames for take in takes):
            if time.monotonic() > until:
                return
            time.sleep(0.01)
