"""Sound cards as sources, through PortAudio: blocks come by its callback into a queue that cannot grow."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from queue import Empty, Full, Queue
from typing import Any

import msgspec
import numpy as np
from msgspec import UNSET

from ingest.audio import Pace
from ingest.backlog import Waiting
from ingest.file_source import BLOCK_SECONDS, SourceFailed
from ingest.meters import Block
from streams.vocabulary import DeviceSettings

WAIT = 0.1
"""Seconds after which who waits looks up."""
LET_GO = 1.0
"""Seconds to wait for a device to be closed."""
HELD = 50
"""Blocks held while the listener is late: five seconds; beyond that the card's newest are lost, and told."""
MISSING = "sounddevice or PortAudio is missing: pip install 'tocsin[device]', and Debian's libportaudio2"


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """A sound card's input, as this machine knows it; `rate` in Hz is its own."""

    name: str
    api: str
    channels: int
    rate: int
    default: bool


def devices() -> list[Device]:
    """The inputs of this machine. Raises SourceFailed."""
    library = _library()
    default = library.default.device[0]
    return [
        Device(
            name=one["name"],
            api=library.query_hostapis(one["hostapi"])["name"],
            channels=one["max_input_channels"],
            rate=round(one["default_samplerate"]),
            default=one["index"] == default,
        )
        for one in library.query_devices()
        if one["max_input_channels"] > 0
    ]


class DeviceSource:
    """An open sound card."""

    is_live = True
    title = None
    pace: Pace = "live"

    def __init__(self, settings: DeviceSettings, give_up_after: float) -> None:
        """Open it. Raises SourceFailed."""
        library = _library()
        self._name = settings.device
        self._patience = give_up_after
        self._queue: Queue[Block] = Queue(HELD)
        self.lost = 0
        """Blocks that nobody took in time; one for each loss of the driver, which says not how much."""
        found = _found(library, settings.device)
        wished = settings.capture_channels
        self.channels = min(found["max_input_channels"], 2) if wished is UNSET else wished
        rate = settings.capture_rate
        self.rate = round(found["default_samplerate"]) if rate is UNSET else rate
        try:
            self._stream = library.InputStream(
                device=found["index"],
                samplerate=self.rate,
                channels=self.channels,
                blocksize=max(1, round(self.rate * BLOCK_SECONDS)),
                dtype="float32",
                callback=self._take,
            )
            self._stream.start()
        except (library.PortAudioError, ValueError) as error:
            raise SourceFailed(f"device {self._name!r} cannot be opened: {error}") from None

    @property
    def status(self) -> str:
        """What is open, for people."""
        return f"device {self._name!r} is open"

    @property
    def waiting(self) -> Waiting:
        """What the card gave and nobody has read."""
        return Waiting(
            seconds=self._queue.qsize() * BLOCK_SECONDS,
            most=self._queue.maxsize * BLOCK_SECONDS,
            dropped=self.lost * BLOCK_SECONDS,
        )

    def blocks(self) -> Iterator[Block]:
        """What it hears. Raises SourceFailed where it hears nothing any more: it was unplugged, say."""
        idle = 0.0
        while True:
            try:
                block = self._queue.get(timeout=WAIT)
            except Empty:
                idle += WAIT
                if idle >= self._patience or not self._stream.active:
                    raise SourceFailed(f"device {self._name!r} gives nothing any more") from None
                yield np.zeros((0, self.channels), np.float32)
                continue
            idle = 0.0
            yield block

    def close(self) -> None:
        """Close it; one whose server has died may never let itself be closed, and is left behind."""
        closing = threading.Thread(target=self._close, name="close-device", daemon=True)
        closing.start()
        closing.join(LET_GO)

    def _close(self) -> None:
        self._stream.abort()
        self._stream.close()

    def _take(self, data: Block, frames: int, at: Any, status: Any) -> None:
        """Keep what the card gives; called by PortAudio's own thread, which must not wait."""
        if status.input_overflow:
            self.lost += 1
        try:
            self._queue.put_nowait(data.copy())
        except Full:
            self.lost += 1


def _library() -> Any:
    # Only here: an extra, and a library of the system that need not be there.
    try:
        import sounddevice
    except (ImportError, OSError):
        raise SourceFailed(MISSING) from None
    return sounddevice


def _found(library: Any, name: str) -> Any:
    """The input of that name: of its whole name, else of a part that only one has. Raises SourceFailed."""
    inputs = [one for one in library.query_devices() if one["max_input_channels"] > 0]
    exact = [one for one in inputs if one["name"] == name]
    matching = exact or [one for one in inputs if name.lower() in one["name"].lower()]
    if not matching:
        known = ", ".join(repr(one["name"]) for one in inputs) or "no input at all"
        raise SourceFailed(f"there is no device {name!r} here; there is {known}")
    if len(matching) > 1 and not exact:
        named = ", ".join(repr(one["name"]) for one in matching)
        raise SourceFailed(f"device {name!r} may be any of {named}: give the whole name")
    return matching[0]
