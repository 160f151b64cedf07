"""Recordings as audio sources, read by libsndfile block by block."""

from __future__ import annotations

import math
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile

from ingest.backlog import NOTHING
from ingest.meters import Block
from ingest.turns import LATEST
from streams.vocabulary import FileSettings

BLOCK_SECONDS = 0.1
RATES = (1_000, 768_000)
"""Lowest and highest sample rate taken, in Hz: a header can say anything; a block must fit in memory."""
MOST_CHANNELS = 64
ESTIMATED = frozenset({"MP3"})
"""Formats whose header does not say how long they are."""
UNKNOWN = 2**62
"""At least this many frames is how libsndfile says that it does not know how many there are."""


class SourceFailed(Exception):
    """Raised when a source cannot be read (any more); the text says why, for people."""


class NotReadable(SourceFailed):
    """Raised when libsndfile does not know what kind of file it is; another reader may."""


class _Unsought(soundfile.SoundFile):  # type: ignore[misc]  # comes without types
    """A recording that is read straight on.

    SoundFile.read seeks to where it already is after every read of what can be sought in. That costs a
    search in long Ogg files, and the MP3 decoder loses the bits that a frame borrows from the one before:
    block by block, little is left of the sound.
    """

    def seekable(self) -> bool:
        """Whether reads may seek: no. `seek` itself works all the same."""
        return False


class FileSource:
    """An open recording: `rate` in Hz, `channels`, and its blocks. Constant memory."""

    is_live = False
    title = None
    waiting = NOTHING

    def __init__(
        self, settings: FileSettings, *, length: Callable[[], float] = lambda: BLOCK_SECONDS
    ) -> None:
        """Open the recording; `length` says of how many seconds the next block is to be.

        Raises SourceFailed, NotReadable.
        """
        self._path = settings.path
        self._loop = settings.loop
        self._file = _opened(Path(settings.path))
        self.rate: int = self._file.samplerate
        self.channels: int = self._file.channels
        self.pace: Literal["clock", "fast"] = "clock" if settings.pace == "realtime" else "fast"
        self.status = f"playing {settings.path}"
        self._length = length
        self._at = 0

    @property
    def seconds(self) -> float | None:
        """How long it is by its own word; None where it does not say."""
        frames = self._file.frames
        return frames / self.rate if frames < UNKNOWN else None

    def blocks(self) -> Iterator[Block]:
        """Its blocks, shape (frames, channels); the last of what does not loop is shorter.

        Where it loops, a block goes on at the beginning without a gap. Raises SourceFailed.
        """
        longest = round(self.rate * LATEST)
        if self._loop and self._file.frames < longest:
            yield from self._repeated(longest)
            return
        while True:
            wanted = self._wanted()
            block = self._read(wanted)
            while self._loop and len(block) < wanted:
                self._rewind()
                more = self._read(wanted - len(block))
                if not len(more):
                    raise SourceFailed(f"{self._path} holds no audio")
                block = np.concatenate([block, more])
            if len(block):
                yield block
            if len(block) < wanted:
                return

    def close(self) -> None:
        """Close the recording."""
        self._file.close()

    def _repeated(self, longest: int) -> Iterator[Block]:
        """A recording shorter than a block, read once: rewinding for each pass could take longer than it."""
        whole = self._read(longest)
        if not len(whole):
            raise SourceFailed(f"{self._path} holds no audio")
        repeated = np.concatenate([whole] * (math.ceil(longest / len(whole)) + 1))
        offset = 0
        while True:
            frames = min(self._wanted(), longest)
            yield repeated[offset : offset + frames]
            offset = (offset + frames) % len(whole)

    def _wanted(self) -> int:
        return max(1, round(self.rate * self._length()))

    def _read(self, frames: int) -> Block:
        try:
            block: Block = self._file.read(frames, dtype="float32", always_2d=True)
        except (soundfile.SoundFileError, RuntimeError) as error:
            raise SourceFailed(f"{self._path} cannot be read further: {error}") from None
        self._at += len(block)
        length = self._file.frames
        if len(block) < frames and self._at < length < UNKNOWN and self._file.format not in ESTIMATED:
            raise SourceFailed(f"{self._path} was cut short: it ends after {self._at} of its {length} frames")
        return block

    def _rewind(self) -> None:
        try:
            self._file.seek(0)
            self._at = 0
        except (soundfile.SoundFileError, RuntimeError) as error:
            raise SourceFailed(f"{self._path} cannot be played again: {error}") from None


def _opened(path: Path) -> soundfile.SoundFile:
    try:
        mode = path.stat().st_mode
        # A FIFO or a device would block its opener until somebody writes.
        if not stat.S_ISREG(mode):
            raise SourceFailed(f"{path} is not a regular file")
        with path.open("rb"):
            pass
        file = _Unsought(path)
    except OSError as error:
        raise SourceFailed(f"{path}: {error.strerror}") from None
    except soundfile.SoundFileError:
        raise NotReadable(f"{path} is no audio file that libsndfile can read") from None
    fault = _fault(file)
    if fault:
        file.close()
        raise SourceFailed(f"{path} {fault}")
    return file


def _fault(file: soundfile.SoundFile) -> str | None:
    """What stands in the way of playing it."""
    lowest, highest = RATES
    if not file.frames:
        return "holds no audio"
    if not lowest <= file.samplerate <= highest:
        return f"says it has {file.samplerate} Hz; {lowest} to {highest} Hz can be played"
    if file.channels > MOST_CHANNELS:
        return f"says it has {file.channels} channels; at most {MOST_CHANNELS} can be played"
    return None
