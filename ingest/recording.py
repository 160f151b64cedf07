"""Recordings of any kind, read once from beginning to end: by libsndfile, else by FFmpeg, or raw PCM."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import msgspec
import numpy as np

from ingest.file_source import RATES, FileSource, NotReadable, SourceFailed
from ingest.meters import Block
from streams.vocabulary import FileSettings

BLOCK_SECONDS = 0.5
"""Of audio read at a time."""


class Recording(msgspec.Struct, frozen=True):
    """Audio that is read once: `rate` in Hz, `seconds` in all (None: nobody says), and its blocks.

    Reading the blocks raises SourceFailed where the recording breaks off.
    """

    rate: int
    seconds: float | None
    blocks: Iterator[Block]


def opened(path: str) -> Recording:
    """Open a recording: what libsndfile does not know, FFmpeg may. Raises SourceFailed."""
    try:
        source = FileSource(FileSettings(path=path, pace="fast"), length=lambda: BLOCK_SECONDS)
    except NotReadable:
        return _by_ffmpeg(path)
    return Recording(source.rate, source.seconds, source.blocks())


def raw(stream: BinaryIO, rate: int) -> Recording:
    """Mono samples of 16 bits, signed, little-endian, as they come."""
    return Recording(rate, None, _samples(stream, rate))


def _samples(stream: BinaryIO, rate: int) -> Iterator[Block]:
    rest = b""
    while data := stream.read(2 * max(1, int(rate * BLOCK_SECONDS))):
        data = rest + data
        whole = len(data) // 2 * 2
        rest = data[whole:]
        yield (np.frombuffer(data[:whole], "<i2") / 32768).astype(np.float32)


def _by_ffmpeg(path: str) -> Recording:
    # Only here: it takes a tenth of a second, and most recordings do not need it.
    import av

    try:
        container = av.open(path, metadata_errors="replace")
    except (av.FFmpegError, OSError, ValueError):
        raise SourceFailed(f"{path} is no audio that libsndfile or FFmpeg can read") from None
    if not container.streams.audio:
        container.close()
        raise SourceFailed(f"{path} has no audio in it")
    stream = container.streams.audio[0]
    if not RATES[0] <= stream.rate <= RATES[1]:
        container.close()
        raise SourceFailed(f"{path} says it has {stream.rate} Hz; {RATES[0]} to {RATES[1]} Hz can be read")
    seconds = None if container.duration is None else container.duration / av.time_base

    def blocks() -> Iterator[Block]:
        resampler = av.AudioResampler(format="flt", layout="mono", rate=stream.rate)
        try:
            with container:
                for frame in container.decode(stream):
                    for part in resampler.resample(frame):
                        yield part.to_ndarray()[0]
                for part in resampler.resample(None):
                    yield part.to_ndarray()[0]
        except av.FFmpegError as error:
            raise SourceFailed(f"{path} cannot be read further: {error.strerror}") from None

    return Recording(stream.rate, seconds, blocks())
