"""What every kind of source gives: blocks of samples, in time, until it fails or ends."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, Protocol

from ingest.backlog import Waiting
from ingest.file_source import SourceFailed
from ingest.meters import Block
from ingest.signal_path import SignalPath
from streams.vocabulary import SourceSettings

Pace = Literal["clock", "fast", "live"]
"""Who says when the next block is due: our clock, nobody (as fast as it can be read), or the source."""


class Audio(Protocol):
    """An open source. `pace`, `rate` in Hz and `channels` are known once the first block has come."""

    @property
    def pace(self) -> Pace: ...

    @property
    def rate(self) -> int: ...

    @property
    def channels(self) -> int: ...

    @property
    def is_live(self) -> bool:
        """Whether it comes as it happens, so that its silences and stalls tell something."""

    @property
    def status(self) -> str:
        """How far its connection has come, for people."""

    @property
    def title(self) -> str | None:
        """What is played, by its own word; None where it says nothing."""

    @property
    def waiting(self) -> Waiting:
        """What it has received and nobody has read; asked by the thread that takes its blocks."""

    def blocks(self) -> Iterator[Block]:
        """Its blocks, float32, shape (frames, channels), about a tenth of a second each.

        An empty one says that nothing came for a while and it is still waited for. Raises SourceFailed.
        """

    def close(self) -> None:
        """Let go of all that it holds; returns soon, also where a read hangs in another thread."""


class Shaped:
    """Audio after its signal path."""

    def __init__(self, audio: Audio, wanted: SourceSettings) -> None:
        self._audio = audio
        self._path = SignalPath(wanted)

    @property
    def rate(self) -> int:
        """Samples per second of what leaves."""
        return self._path.rate or self._audio.rate

    @property
    def channels(self) -> int:
        """Channels of what leaves."""
        return self._path.channels or self._audio.channels

    @property
    def pace(self) -> Pace:
        """The audio's pace."""
        return self._audio.pace

    @property
    def is_live(self) -> bool:
        """Whether the audio is."""
        return self._audio.is_live

    @property
    def status(self) -> str:
        """How far the audio's connection has come."""
        return self._audio.status

    @property
    def title(self) -> str | None:
        """What is played, by the audio's own word."""
        return self._audio.title

    @property
    def waiting(self) -> Waiting:
        """What of the audio waits."""
        return self._audio.waiting

    def blocks(self) -> Iterator[Block]:
        """The audio's blocks, shaped; raises SourceFailed."""
        failure: SourceFailed | None = None
        try:
            for block in self._audio.blocks():
                yield self._path.feed(block, self._audio.rate) if len(block) else block
        except SourceFailed as error:
            failure = error
        # What came before a failure was audio all the same.
        rest = self._path.flush()
        if len(rest):
            yield rest
        if failure is not None:
            raise failure

    def close(self) -> None:
        """Close the audio."""
        self._audio.close()
