"""The body of a process that listens to a sound card through PortAudio.

One process for each card: PortAudio knows only the cards that were there when it began, and what it does
when a card or its server goes away (hang, or abort) harms nobody else.
"""

from __future__ import annotations

import os
from queue import Empty, Full, Queue
from typing import Any

import msgspec
from msgspec import UNSET

from ingest.decoding.wire import (
    AUDIO,
    BLOCK_SECONDS,
    FAILED,
    FORMAT,
    LOST,
    SECONDS,
    CardTask,
    Format,
    send,
)

WAIT = 0.1
"""Seconds after which who waits looks up."""
HELD = 50
"""Blocks held while the node is late: five seconds; beyond that the card's newest are lost, and told."""
MISSING = "sounddevice or PortAudio is missing: pip install 'tocsin[device]', and Debian's libportaudio2"


class NoCard(Exception):
    """Raised when there is no such card, or none can be listened to; the text says why, for people."""


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """A sound card's input, as this machine knows it; `rate` in Hz is its own."""

    name: str
    api: str
    channels: int
    rate: int
    default: bool


def cards() -> list[Card]:
    """The inputs of this machine, as they were when this process first asked. Raises NoCard."""
    library = portaudio()
    default = library.default.device[0]
    return [
        Card(
            name=one["name"],
            api=library.query_hostapis(one["hostapi"])["name"],
            channels=one["max_input_channels"],
            rate=round(one["default_samplerate"]),
            default=one["index"] == default,
        )
        for one in library.query_devices()
        if one["max_input_channels"] > 0
    ]


def portaudio() -> Any:
    """The library. Raises NoCard."""
    # Only here: an extra, and a library of the system that need not be there.
    try:
        import sounddevice
    except (ImportError, OSError):
        raise NoCard(MISSING) from None
    return sounddevice


def capture(target: int, task: CardTask) -> int:
    """Write what the card gives into a pipe until either ends; the exit code. Never raises."""
    # What PortAudio's drivers print at every attempt says nothing that an operator could use.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    try:
        try:
            _Capture(target, task).run()
        except NoCard as error:
            send(target, FAILED, str(error).encode())
    except BrokenPipeError:
        return 0  # nobody listens any more
    return 1


class _Capture:
    """An open card."""

    def __init__(self, target: int, task: CardTask) -> None:
        library = portaudio()
        self._target = target
        self._name = task.device
        self._queue: Queue[bytes] = Queue(HELD)
        self._lost = 0
        """Blocks that nobody took in time; one for each loss of the driver, which says not how much."""
        found = _found(library, task.device)
        self._channels = min(found["max_input_channels"], 2) if task.channels is UNSET else task.channels
        self._rate = round(found["default_samplerate"]) if task.rate is UNSET else task.rate
        try:
            self._stream = library.RawInputStream(
                device=found["index"],
                samplerate=self._rate,
                channels=self._channels,
                blocksize=max(1, round(self._rate * BLOCK_SECONDS)),
                dtype="float32",
                callback=self._take,
            )
            self._stream.start()
        except (library.PortAudioError, ValueError) as error:
            raise NoCard(f"device {self._name!r} cannot be opened: {error}") from None

    def run(self) -> None:
        """Pass on what it gives. Raises NoCard where it gives nothing any more, BrokenPipeError."""
        told = Format(
            codec="pcm_f32le",
            container="card",
            given_rate=self._rate,
            given_channels=self._channels,
            rate=self._rate,
            channels=self._channels,
        )
        send(self._target, FORMAT, msgspec.json.encode(told))
        lost = 0
        while True:
            try:
                block = self._queue.get(timeout=WAIT)
            except Empty:
                if not self._stream.active:
                    raise NoCard(f"device {self._name!r} gives nothing any more") from None
                continue
            if self._lost != lost:
                lost = self._lost
                send(self._target, LOST, SECONDS.pack(lost * BLOCK_SECONDS))
            send(self._target, AUDIO, block)

    def _take(self, data: Any, frames: int, at: Any, status: Any) -> None:
        """Keep what the card gives; called by PortAudio's own thread, which must not wait."""
        if status.input_overflow:
            self._lost += 1
        try:
            self._queue.put_nowait(bytes(data))
        except Full:
            self._lost += 1


def _found(library: Any, name: str) -> Any:
    """The input of that name: of its whole name, else of a part that only one has. Raises NoCard."""
    inputs = [one for one in library.query_devices() if one["max_input_channels"] > 0]
    exact = [one for one in inputs if one["name"] == name]
    matching = exact or [one for one in inputs if name.lower() in one["name"].lower()]
    if not matching:
        known = ", ".join(repr(one["name"]) for one in inputs) or "no input at all"
        raise NoCard(f"there is no device {name!r} here; there is {known}")
    if len(matching) > 1 and not exact:
        named = ", ".join(repr(one["name"]) for one in matching)
        raise NoCard(f"device {name!r} may be any of {named}: give the whole name")
    return matching[0]
