"""Recordings as audio sources, read by libsndfile in blocks of a tenth of a second."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import soundfile

from ingest.meters import Block
from streams.vocabulary import FileSettings

BLOCK_SECONDS = 0.1


class SourceFailed(Exception):
    """Raised when a source cannot be read (any more); the text says why, for people."""


class FileSource:
    """An open recording: `rate` in Hz, `channels`, and its blocks. Constant memory."""

    def __init__(self, settings: FileSettings) -> None:
        """Open the recording. Raises SourceFailed."""
        self._settings = settings
        self._file = _opened(Path(settings.path))
        self.rate: int = self._file.samplerate
        self.channels: int = self._file.channels
        self.paced = settings.pace == "realtime"

    def blocks(self) -> Iterator[Block]:
        """Blocks of BLOCK_SECONDS, shape (frames, channels), no gap where it loops; raises SourceFailed."""
        frames = max(1, round(self.rate * BLOCK_SECONDS))
        since_rewind = 0
        while True:
            try:
                block: Block = self._file.read(frames, dtype="float32", always_2d=True)
            except (soundfile.SoundFileError, RuntimeError) as error:
                raise SourceFailed(f"{self._settings.path} cannot be read further: {error}") from None
            since_rewind += len(block)
            if len(block):
                yield block
            if len(block) == frames:
                continue
            if not self._settings.loop:
                return
            if not since_rewind:
                raise SourceFailed(f"{self._settings.path} holds no audio")
            since_rewind = 0
            self._file.seek(0)

    def close(self) -> None:
        """Close the recording."""
        self._file.close()


def _opened(path: Path) -> soundfile.SoundFile:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise SourceFailed(f"{path}: {error.strerror}") from None
    # A FIFO or a device would block its opener until somebody writes.
    if not stat.S_ISREG(mode):
        raise SourceFailed(f"{path} is not a regular file")
    try:
        with path.open("rb"):
            pass
        file = soundfile.SoundFile(path)
    except OSError as error:
        raise SourceFailed(f"{path}: {error.strerror}") from None
    except soundfile.SoundFileError:
        raise SourceFailed(f"{path} is no audio file that libsndfile can read") from None
    if not file.frames:
        file.close()
        raise SourceFailed(f"{path} holds no audio")
    return file
