"""Listening for alerts in a source's audio: the decoder beside the capture, and what it hears as facts.

It runs in the capture's own thread, so that no audio waits in a queue that could overflow: what was
read has been listened to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta

import msgspec
import numpy as np
import structlog
from uuid_utils import uuid7

from ingest.meters import Block
from ingest.ring import is_finite
from ingest.same.decoder import Decoder
from ingest.same.header import parse
from ingest.same.heard import BurstHeard, EndHeard, Heard, MessageHeard, ToneHeard
from streams.alerts import AlertBurst, AlertEnded, AlertFact, AlertReceived, Tone
from streams.messages import now
from streams.recordings import RecordingFact

LOWEST_RATE = 6_000
"""Samples per second below which audio cannot carry the tones of a burst: it is not listened to."""
TOGETHER = 0.28
"""Seconds of audio that are listened to at a time: three of the blocks that most sources come in. By each
itself it costs twice as much, and a burst lasts longer."""
TRY_AGAIN = 10.0
"""Seconds of audio after which a decoder that failed is replaced by a new one."""

log = structlog.get_logger(__name__)


class Noted(msgspec.Struct, frozen=True):
    """A fact of an alert or a recording, and the time at which it was heard."""

    fact: AlertFact | RecordingFact
    at: datetime


class Listener:
    """Listens to one source from its first sample on, or from where it was opened again.

    `offset` are the seconds of audio that the source had before, `live` whether a second of audio
    takes a second. `tell` is called from the audio's thread with each fact: it must not block. `injected`
    marks all that is heard as a test.
    """

    def __init__(
        self,
        source: str,
        rate: int,
        *,
        offset: float,
        live: bool,
        tell: Callable[[Noted], None],
        injected: bool = False,
    ) -> None:
        self.decoded = offset
        """Seconds of audio that went through the decoder, with those before `offset`."""
        self._source = source
        self._rate = rate
        self._live = live
        self._tell = tell
        self._injected = injected
        self._decoder: Decoder | None = None
        self._again = offset if rate >= LOWEST_RATE else math.inf
        self._begun = self._read = offset
        self._held: list[Block] = []
        self._held_frames = 0
        self._alert: AlertReceived | None = None
        self._tones: list[Tone] = []

    def add(self, block: Block) -> None:
        """Listen to one block, shape (frames, channels), the newest there is, or keep it for the next."""
        before = self._read
        self._read += len(block) / self._rate
        if self._decoder is None and before < self._again:
            return
        self._held.append(block)
        self._held_frames += len(block)
        if self._held_frames >= TOGETHER * self._rate:
            self._listen()

    def _listen(self) -> None:
        """Listen to what was kept."""
        frames, blocks = self._held_frames, self._held
        self._held, self._held_frames = [], 0
        if not frames:
            return
        try:
            if self._decoder is None:
                self._decoder, self._begun = Decoder(self._rate), self._read - frames / self._rate
            samples = np.concatenate([mono(block) for block in blocks])
            heard = self._decoder.feed(samples)
        except Exception:  # the capture goes on without it; that nothing is decoded is watched elsewhere
            log.exception("decoder failed", source=self._source)
            self._decoder, self._again = None, self._read + TRY_AGAIN
            return
        self.decoded += frames / self._rate
        self._note(heard)

    def finish(self) -> None:
        """The audio ends here: tell what was still being listened to."""
        self._listen()
        if self._decoder is not None:
            try:
                self._note(self._decoder.finish())
            except Exception:  # as above
                log.exception("decoder failed", source=self._source)

    def _note(self, heard: Iterable[Heard]) -> None:
        for one in heard:
            moment, fact = self._fact(one)
            if fact is not None:
                if self._injected:
                    fact = msgspec.structs.replace(fact, injected=True)
                self._tell(Noted(fact, self._time(moment)))

    def _fact(self, heard: Heard) -> tuple[float, AlertFact | None]:
        """When it was heard, in seconds of audio, and what there is to be logged of it."""
        begun = self._begun
        match heard:
            case BurstHeard():
                start, end = _at(begun, heard.at), _at(begun, heard.until)
                confidence = round(heard.confidence, 4)
                return end, AlertBurst(text=heard.text, confidence=confidence, start=start, end=end)
            case MessageHeard():
                self._alert, self._tones = received(heard, begun, now()), []
                return self._alert.end, self._alert
            case ToneHeard():
                start = _at(begun, heard.at)
                self._tones.append(Tone(kind=heard.kind, start=start, seconds=round(heard.seconds, 2)))
                return start, None
            case EndHeard():
                alert, tones = self._alert, tuple(self._tones)
                self._alert, self._tones = None, []
                end = _at(begun, heard.at)
                if alert is None:
                    return end, AlertEnded(end=end)
                return end, AlertEnded(
                    hearing=alert.hearing,
                    header=alert.header,
                    issued_at=alert.issued_at,
                    end=end,
                    tones=tones,
                )

    def _time(self, moment: float) -> datetime:
        """When that moment of the audio was, where it plays as fast as it was recorded; else now."""
        return now() - timedelta(seconds=max(0.0, self._read - moment)) if self._live else now()


def received(heard: MessageHeard, begun: float, at: datetime) -> AlertReceived:
    """What was received, with what its header says, about `at`, by a decoder begun at `begun` seconds."""
    header = parse(heard.header, at)
    return AlertReceived(
        hearing=str(uuid7()),
        bursts=heard.bursts,
        confidence=round(heard.confidence, 4),
        confirmed=heard.confirmed,
        voted=heard.voted,
        start=_at(begun, heard.start),
        end=_at(begun, heard.end),
        **msgspec.structs.asdict(header),
    )


def mono(block: Block) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """The channels mixed into one; what is no sample counts as silence or full scale, as for the meter."""
    mixed = block if block.ndim == 1 else block[:, 0] if block.shape[1] == 1 else block.mean(axis=1)
    if not is_finite(mixed):
        mixed = np.nan_to_num(mixed, nan=0.0, posinf=1.0, neginf=-1.0)
    return np.ascontiguousarray(mixed, dtype=np.float32)


def _at(begun: float, seconds: float) -> float:
    return round(begun + seconds, 3)
