"""The body of a decoding process: bytes of some audio format in, samples out.

It opens nothing and connects to nothing: what it decodes comes through a pipe. FFmpeg is told which
formats it may find there, and none of them refers to anything else.
"""

from __future__ import annotations

import io
import os
import resource
import select
import wave
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from typing import NamedTuple

import av
import msgspec
import numpy as np
from av.audio.fifo import AudioFifo
from av.audio.frame import AudioFrame
from numpy.typing import NDArray

from ingest.decoding.border import Border
from ingest.decoding.gaps import Gaps
from ingest.decoding.wire import (
    AUDIO,
    BLOCK_SECONDS,
    FAILED,
    FORMAT,
    LOST,
    MOST,
    SECONDS,
    Format,
    Task,
    send,
)
from ingest.decoding.words import printable
from ingest.signal_path import SignalPath

FORMATS = "mp3,aac,ogg,flac,wav,w64,aiff,au,mpegts,mov,matroska,asf,ac3,eac3,caf,amr,tta,wv"
"""What FFmpeg may recognise. Playlists are none of it: those are read by the node, behind its fence."""
OPTIONS = {
    "format_whitelist": FORMATS,
    "protocol_whitelist": "none",
    "probesize": "65536",
    "analyzeduration": "1000000",
    "fflags": "discardcorrupt",
}
RTP_OPTIONS = {"protocol_whitelist": "rtp,udp", "format_whitelist": "sdp,rtp,rtsp"}
BUFFER = 4096
"""Bytes that FFmpeg reads at a time: few, so that a slow stream is heard soon."""
MOST_SECONDS = 0.5
"""Of audio that are given away at once: what comes in bunches, and from servers that send ahead."""
PIECE = 0.15
"""Of audio that are shaped at a time."""
GIVE_UP = 2 * 1024 * 1024
"""Bytes without any audio in them after which they are no audio."""
CHANGED = 32 * 1024
"""Bytes without audio after which what once was decoded must have become something else."""
MEMORY = 2 * 1024**3
"""Bytes of address space: an allocation that a lying header asks for fails before it hurts others."""
REHEARSED = 48_000
"""Hz of what is decoded before any stream is."""
RATES = (1_000, 768_000)
MOST_CHANNELS = 64
_SCALES = {"u8": 128.0, "s16": 32768.0, "s32": 2147483648.0, "flt": 1.0, "dbl": 1.0}

Samples = NDArray[np.float32]


class Refused(Exception):
    """Raised when what comes is nothing that can be decoded; the text says why, for people."""


class Given(NamedTuple):
    """What frames have in common that can be shaped together."""

    codec: str
    container: str
    rate: int
    layout: str
    channels: int
    samples: str
    time_base: Fraction | None
    title: str | None


class Feed:
    """The pipe as FFmpeg reads it, with how much of it was read since audio last came of it.

    `meanwhile` is called before more is waited for.
    """

    def __init__(self, pipe: int, meanwhile: Callable[[], None]) -> None:
        self._pipe = pipe
        self._meanwhile = meanwhile
        self._readable = select.poll()
        self._readable.register(pipe, select.POLLIN)
        self._held = b""
        self._turned = False
        self._border = Border()
        self._ended = False
        self.idle = 0

    def read(self, size: int) -> bytes:
        """What there is, at most `size` bytes; none at the end, and where another format begins."""
        if self._turned:
            return b""
        data, self._held = self._held[:size], self._held[size:]
        if not data:
            if not self._readable.poll(0):
                self._meanwhile()
            data = os.read(self._pipe, size)
            self._ended = not data
        at = self._border.find(data)
        if at is not None:
            data, self._held = data[:at], data[at:] + self._held
            self._turned = True
        self.idle += len(data)
        return data

    def turn(self) -> None:
        """Go on behind the place where another format began."""
        self._turned = False
        self._border = Border()

    def exhausted(self) -> bool:
        """Whether nothing comes any more."""
        return self._ended and not self._held


class Sink:
    """Where samples go: shaped, as many at once as came, for each frame by itself costs far more."""

    def __init__(self, pipe: int, task: Task) -> None:
        self._pipe = pipe
        self._path = SignalPath(task)
        self._given: Given | None = None
        self._gathered = AudioFifo()
        self._told: Format | None = None

    def put(
        self,
        frame: AudioFrame,
        codec: str,
        container: str,
        title: str | None = None,
        most: float = MOST_SECONDS,
    ) -> None:
        """Take a decoded frame, and give away what came where that is `most` seconds. Raises Refused."""
        given = Given(
            codec, container, frame.sample_rate, frame.layout.name, frame.layout.nb_channels,
            frame.format.name, frame.time_base, title,
        )  # fmt: skip
        if given != self._given:
            self.pour()
            _check(frame)
            self._given, self._gathered = given, AudioFifo()
        frame.pts = None  # gaps are somebody else's
        self._gathered.write(frame)
        if self._gathered.samples >= given.rate * most:
            self.pour()

    def pour(self) -> None:
        """Give away what has come."""
        given = self._given
        if given is None or not self._gathered.samples:
            return
        shaped = np.concatenate(list(self._shaped(given.rate)))
        told = Format(
            codec=given.codec,
            container=given.container,
            given_rate=given.rate,
            given_channels=given.channels,
            rate=self._path.rate,
            channels=self._path.channels,
            title=given.title,
        )
        if told != self._told:
            self._told = told
            send(self._pipe, FORMAT, msgspec.json.encode(told))
        self._hand_over(shaped)

    def _shaped(self, rate: int) -> Iterator[Samples]:
        """What has come, in small pieces: so the process stays small."""
        while (frames := self._gathered.read(int(rate * PIECE), partial=True)) is not None:
            yield self._path.feed(samples_of(frames), rate)

    def finish(self) -> None:
        """The audio ends here."""
        self.pour()
        if self._told:
            self._hand_over(self._path.flush())

    def lost(self, seconds: float) -> None:
        """Say how much audio was lost on its way, so far."""
        send(self._pipe, LOST, SECONDS.pack(seconds))

    def fail(self, why: str) -> None:
        """Say why there will be no more."""
        send(self._pipe, FAILED, why.encode())

    def _hand_over(self, samples: Samples) -> None:
        step = MOST // (4 * samples.shape[1])
        for at in range(0, len(samples), step):
            part = np.ascontiguousarray(samples[at : at + step], np.float32)
            send(self._pipe, AUDIO, part.data)


def _check(frame: AudioFrame) -> None:
    """Raises Refused where what a frame says of itself is beyond all reason."""
    channels, rate, kind = frame.layout.nb_channels, frame.sample_rate, _kind(frame)
    if not RATES[0] <= rate <= RATES[1]:
        raise Refused(f"it says it has {rate} Hz; {RATES[0]} to {RATES[1]} Hz can be played")
    if not 1 <= channels <= MOST_CHANNELS:
        raise Refused(f"it says it has {channels} channels; at most {MOST_CHANNELS} can be played")
    if kind not in _SCALES:
        raise Refused(f"its samples are of the kind {frame.format.name!r}, which cannot be played")


def samples_of(frame: AudioFrame) -> Samples:
    """A frame's samples, shape (frames, channels), full scale ±1."""
    kind, found = _kind(frame), frame.to_ndarray()
    array = found.T if frame.format.is_planar else found.reshape(-1, frame.layout.nb_channels)
    samples = array.astype(np.float32, copy=False)
    if kind == "u8":
        samples = samples - np.float32(128.0)
    return samples if _SCALES[kind] == 1.0 else samples * np.float32(1.0 / _SCALES[kind])


def _kind(frame: AudioFrame) -> str:
    return frame.format.name.removesuffix("p")


def title_of(comments: Mapping[str, str]) -> str | None:
    """What is played, by the comments that came with it."""
    told = {name.lower(): text for name, text in comments.items()}
    named = [told[name] for name in ("artist", "title") if told.get(name)]
    return printable(" - ".join(named)) if told.get("title") else None


def decode(source: int, target: int, task: Task) -> int:
    """Decode from one pipe into another until either ends; the exit code. Never raises."""
    limit()
    sink = Sink(target, task)
    try:
        if task.sdp:
            _decode_rtp(task.sdp, sink)
        else:
            _decode(Feed(source, sink.pour), sink)
        sink.finish()
    except BrokenPipeError:
        return 0  # nobody listens any more
    except Refused as error:
        sink.pour()
        sink.fail(str(error))
        return 1
    except (av.FFmpegError, MemoryError, ValueError) as error:
        sink.fail(f"{type(error).__name__}: {error}")
        return 1
    return 0


def rehearse() -> None:
    """Decode a second of silence into nothing: what Python and the libraries lay out at their first use is in
    memory once for all that are forked afterwards.
    """
    recording = io.BytesIO()
    with wave.open(recording, "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(REHEARSED)
        file.writeframes(bytes(4 * REHEARSED))
    heard, said = os.memfd_create("rehearsal"), os.open(os.devnull, os.O_WRONLY)
    try:
        os.write(heard, recording.getvalue())
        os.lseek(heard, 0, os.SEEK_SET)
        sink = Sink(said, Task(channel="mix", rate=REHEARSED // 2))
        _decode(Feed(heard, sink.pour), sink)
        sink.finish()
    finally:
        os.close(heard)
        os.close(said)


def limit() -> None:
    """Bound what this process may take: it works on what strangers send."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))


def _decode(feed: Feed, sink: Sink) -> None:
    """Decode whatever comes, and begin anew where it becomes something else."""
    heard = False
    while not feed.exhausted():
        try:
            container = av.open(
                feed, mode="r", options=OPTIONS, buffer_size=BUFFER, metadata_errors="replace"
            )
        except (av.FFmpegError, ValueError) as error:
            if feed.exhausted() and not heard:
                raise Refused(f"no audio format was recognised in {feed.idle} bytes") from error
            if feed.idle > GIVE_UP:
                raise Refused(f"no audio in {feed.idle} bytes; the last was given up: {error}") from error
            feed.turn()
            continue
        with container:
            streams = container.streams.audio
            title = title_of({**(streams[0].metadata if streams else {}), **container.metadata})
            name = container.format.name
            for frame, codec in _frames(container, feed):
                if comments := frame.metadata:
                    # Ogg tells them anew where one piece follows another.
                    title = title_of(comments)
                sink.put(frame, codec, name, title)
                feed.idle = 0
                heard = True
        feed.turn()
        if feed.idle > GIVE_UP:
            raise Refused(f"no audio in {feed.idle} bytes")


def _frames(
    container: av.container.InputContainer, feed: Feed | None = None
) -> Iterator[tuple[AudioFrame, str]]:
    """The frames until the end, or until what comes by a feed cannot be this format any more."""
    if not container.streams.audio:
        raise Refused(f"there is no audio in it, only {_kinds(container)}")
    stream = container.streams.audio[0]
    codec = stream.codec_context.name
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.FFmpegError:
            return
        if packet is None:
            return
        try:
            for frame in packet.decode():
                if isinstance(frame, AudioFrame) and frame.samples:
                    yield frame, codec
        except av.FFmpegError:
            # A damaged packet; the next may be whole.
            pass
        if feed is not None and feed.idle > CHANGED:
            return


def _decode_rtp(sdp: str, sink: Sink) -> None:
    """Receive what the description says, and decode it."""
    description = _Text(sdp.encode())
    with av.open(description, mode="r", format="sdp", options=RTP_OPTIONS) as container:
        gaps = Gaps()
        for frame, codec in _frames(container):
            if frame.pts is not None and frame.time_base and frame.sample_rate > 0:
                begin = float(frame.pts * frame.time_base)
                if gaps.seen(begin, frame.samples / frame.sample_rate):
                    sink.lost(gaps.seconds)
            sink.put(frame, codec, "rtp", most=BLOCK_SECONDS)


class _Text:
    """A text that FFmpeg reads like a file."""

    def __init__(self, text: bytes) -> None:
        self._text = text

    def read(self, size: int) -> bytes:
        data, self._text = self._text[:size], self._text[size:]
        return data


def _kinds(container: av.container.InputContainer) -> str:
    return ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
