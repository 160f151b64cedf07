"""Sound cards as sources: each is listened to by a process of its own."""

from __future__ import annotations

import time
from collections.abc import Iterator

from ingest.audio import Pace
from ingest.backlog import Waiting
from ingest.decoding.nursery import Nursery
from ingest.decoding.wire import CardTask
from ingest.file_source import SourceFailed
from ingest.meters import Block
from streams.vocabulary import DeviceSettings


class DeviceSource:
    """A sound card; opening it begins at once, and `blocks` says how that went."""

    is_live = True
    title = None
    pace: Pace = "live"

    def __init__(self, settings: DeviceSettings, give_up_after: float, nursery: Nursery) -> None:
        """Begin to listen. Raises SourceFailed."""
        self._name = settings.device
        self._patience = give_up_after
        self._process = nursery.start(
            CardTask(device=settings.device, rate=settings.capture_rate, channels=settings.capture_channels)
        )

    @property
    def rate(self) -> int:
        """Samples per second of its blocks; 0 before the first."""
        return self._process.format.rate if self._process.format else 0

    @property
    def channels(self) -> int:
        """Channels of its blocks; 0 before the first."""
        return self._process.format.channels if self._process.format else 0

    @property
    def status(self) -> str:
        """How far it has come, for people."""
        return f"device {self._name!r} is {'open' if self._process.format else 'being opened'}"

    @property
    def waiting(self) -> Waiting:
        """What it gave and nobody has read."""
        return self._process.waiting

    def blocks(self) -> Iterator[Block]:
        """What it hears. Raises SourceFailed where it hears nothing any more: it was unplugged, say."""
        heard = time.monotonic()
        for block in self._process.blocks():
            if not len(block) and time.monotonic() - heard >= self._patience:
                raise SourceFailed(f"device {self._name!r} gives nothing any more")
            yield block
            # The time that the listener took for the last block is not the card's.
            heard = time.monotonic() if len(block) else heard
        raise SourceFailed(f"device {self._name!r} gives nothing any more")

    def close(self) -> None:
        """End the process, whatever PortAudio does there."""
        self._process.close()
