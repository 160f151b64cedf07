"""The alerts in a recording: read once, as fast as it goes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime

import msgspec
import numpy as np
import numpy.typing as npt

from ingest.file_source import SourceFailed
from ingest.listener import LOWEST_RATE, mono
from ingest.recording import Recording
from ingest.same.decoder import Decoder
from ingest.same.header import parse
from ingest.same.heard import BurstHeard, EndHeard, Heard, MessageHeard, ToneHeard
from streams.alerts import Header, Tone

AT_ONCE = 4.5
"""Seconds that are decoded together: four times as fast as in pieces of a tenth of a second."""

Samples = npt.NDArray[np.float32]


class Message(Header, frozen=True, kw_only=True):
    """A message with what its header says; times are seconds from the recording's beginning.

    `ended` is where its end of message was heard (None: it was not), `tones` the attention signals before.
    """

    start: float
    end: float
    bursts: int
    confidence: float
    confirmed: bool
    voted: bool
    ended: float | None = None
    tones: tuple[Tone, ...] = ()


def messages(recording: Recording, now: datetime, tick: Callable[[float], None]) -> Iterator[Message]:
    """Each message of the recording, once it is over. Raises SourceFailed after what could still be read.

    `now` tells the year of a header, which has none; `tick` is called with seconds that were read.
    """
    if recording.rate < LOWEST_RATE:
        raise SourceFailed(f"{recording.rate} Hz cannot carry an alert; it takes {LOWEST_RATE} Hz at least")
    decoder, failed, parts = Decoder(recording.rate), list[SourceFailed](), list[Samples]()

    def heard() -> Iterator[Heard]:
        try:
            for block in recording.blocks:
                parts.append(mono(block))
                tick(len(block) / recording.rate)
                if sum(map(len, parts)) >= AT_ONCE * recording.rate:
                    yield from decoder.feed(np.concatenate(parts))
                    parts.clear()
        except SourceFailed as error:
            failed.append(error)
        for part in parts:
            yield from decoder.feed(part)
        yield from decoder.finish()

    yield from _told(heard(), now)
    if failed:
        raise failed[0]


def _told(heard: Iterable[Heard], now: datetime) -> Iterator[Message]:
    """Each message, with its end and its tones."""
    open: Message | None = None
    for one in heard:
        match one:
            case MessageHeard():
                if open is not None:
                    yield open
                open = _message(one, now)
            case ToneHeard() if open is not None:
                tone = Tone(kind=one.kind, start=round(one.at, 3), seconds=round(one.seconds, 2))
                open = msgspec.structs.replace(open, tones=(*open.tones, tone))
            case EndHeard() if open is not None:
                yield msgspec.structs.replace(open, ended=round(one.at, 3))
                open = None
            case BurstHeard() | ToneHeard() | EndHeard():
                pass
    if open is not None:
        yield open


def _message(heard: MessageHeard, now: datetime) -> Message:
    return Message(
        start=round(heard.start, 3),
        end=round(heard.end, 3),
        bursts=heard.bursts,
        confidence=round(heard.confidence, 4),
        confirmed=heard.confirmed,
        voted=heard.voted,
        **msgspec.structs.asdict(parse(heard.header, now)),
    )
