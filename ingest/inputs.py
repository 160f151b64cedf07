"""Opening sources of every kind, by what this node's configuration allows."""

from __future__ import annotations

from ingest.audio import Audio, Shaped
from ingest.decoding.nursery import Nursery
from ingest.device_source import DeviceSource
from ingest.file_source import BLOCK_SECONDS, FileSource, SourceFailed
from ingest.net.fence import Fence
from ingest.pipe_source import PipeSource
from ingest.signal_path import is_neutral
from ingest.stream_source import StreamSource
from ingest.turns import gathering
from streams.inputs import FetchSection, Pipes, PipeSection
from streams.vocabulary import (
    DeviceSettings,
    FileSettings,
    ForeignSettings,
    LoggedSettings,
    PipeSettings,
    SourceSettings,
    StreamSettings,
)


class Inputs:
    """What the sources of a process have in common. Thread-safe."""

    def __init__(
        self,
        fetch: FetchSection | None = None,
        pipes: Pipes | None = None,
        *,
        nursery: Nursery | None = None,
        fence: Fence | None = None,
    ) -> None:
        self._fetch = fetch or FetchSection()
        self._pipes = pipes or {}
        self.stalled_after = self._fetch.stalled_after
        self._fence = fence or Fence(self._fetch)
        self._nursery = nursery or Nursery()
        self._open: set[Audio] = set()

    def open(self, settings: LoggedSettings) -> Audio:
        """The source, opened; where that takes its time, its blocks say so. Raises SourceFailed."""
        if isinstance(settings, ForeignSettings):
            raise SourceFailed(f"only a newer version can run it: {settings.why}")
        opened = self._opened(settings)
        neutral = is_neutral(settings) or isinstance(opened, StreamSource)
        audio = opened if neutral else Shaped(opened, settings)
        self._open.add(audio)
        return audio

    def closed(self, audio: Audio) -> None:
        """Say that it is not read any more: the fewer there are, the sooner each is looked after."""
        self._open.discard(audio)

    def close(self) -> None:
        """Let go of what the sources had in common."""
        self._nursery.close()

    def _opened(self, settings: SourceSettings) -> Audio:
        match settings:
            case FileSettings():
                if settings.pace != "realtime":
                    return FileSource(settings)
                return FileSource(settings, length=lambda: max(BLOCK_SECONDS, self._gather()))
            case PipeSettings():
                return PipeSource(settings.pipe, self._section(settings.pipe), self._fetch.give_up_after)
            case DeviceSettings():
                return DeviceSource(settings, self._fetch.give_up_after, self._nursery)
            case StreamSettings():
                # Its signal path is where it is decoded: what leaves there is less, and on another core.
                return StreamSource(settings, self._fence, self._fetch, self._nursery, self._gather)

    def _gather(self) -> float:
        return gathering(len(self._open))

    def _section(self, pipe: str) -> PipeSection:
        if pipe not in self._pipes:
            known = ", ".join(sorted(self._pipes)) or "none"
            raise SourceFailed(f"this node has no [pipes.{pipe}] in its settings; it has {known}")
        return self._pipes[pipe]
