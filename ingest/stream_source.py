"""Audio from the network: fetched by a thread behind the fence, decoded by a process of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import structlog

from ingest.audio import Pace
from ingest.backlog import NOTHING, Waiting
from ingest.decoding.nursery import WAIT, Decoder, Nursery
from ingest.decoding.wire import Task
from ingest.file_source import SourceFailed
from ingest.meters import Block
from ingest.net.fence import Fence
from ingest.net.fetch import Fetch
from ingest.net.sdp import Description
from streams.inputs import FetchSection
from streams.vocabulary import StreamSettings

PATIENCE = 1.2
"""Times that bytes gather, after which nothing came."""
LET_GO = 1.0
"""Seconds to wait for the thread that fetches; one that hangs in a connect ends by itself later."""

log = structlog.get_logger(__name__)


class StreamSource:
    """A stream, as its settings say; connecting begins at once, and `blocks` says how that went.

    `gather` is as for `Client`.
    """

    is_live = True

    def __init__(
        self,
        settings: StreamSettings,
        fence: Fence,
        fetch: FetchSection,
        nursery: Nursery,
        gather: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._limits = fetch
        self._nursery = nursery
        self._gather = gather
        self._fetch = Fetch(fence, fetch, take=self._take, receive=self._receive, gather=gather)
        self._decoder: Decoder | None = None
        self._failure: SourceFailed | None = None
        self._ended = False
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="fetch", daemon=True)
        self._thread.start()

    @property
    def rate(self) -> int:
        """Samples per second of its blocks; 0 before the first."""
        told = self._decoder.format if self._decoder else None
        return told.rate if told else 0

    @property
    def channels(self) -> int:
        """Channels of its blocks; 0 before the first."""
        told = self._decoder.format if self._decoder else None
        return told.channels if told else 0

    @property
    def pace(self) -> Pace:
        """Its own; segments come in bunches and are played by our clock."""
        return "clock" if self._fetch.in_segments else "live"

    @property
    def status(self) -> str:
        """How far it has come, for people."""
        return self._fetch.status

    @property
    def title(self) -> str | None:
        """What is played, by the stream's own word: woven into its audio, or a part of that."""
        told = self._decoder.format if self._decoder else None
        return self._fetch.title or (told.title if told else None)

    @property
    def waiting(self) -> Waiting:
        """What is decoded and nobody has read."""
        return self._decoder.waiting if self._decoder else NOTHING

    def blocks(self) -> Iterator[Block]:
        """What is decoded. A live stream has no end of its own: where it ends, it has failed."""
        decoder = None
        while decoder is None:
            with self._changed:
                if self._decoder is None and self._failure is None:
                    self._changed.wait(WAIT)
                decoder = self._decoder
                if decoder is None and self._failure is not None:
                    raise self._failure
            if decoder is None:
                yield np.zeros((0, 1), np.float32)
        heard = time.monotonic()
        for block in decoder.blocks(lambda: patience(self._gather())):
            if len(block):
                heard = time.monotonic()
            # A little later than who fetches: that nothing comes is the better word for it.
            elif time.monotonic() - heard > self._limits.give_up_after + WAIT:
                raise SourceFailed(f"{self.status}, but no audio for {self._limits.give_up_after:g} s")
            yield block
            # The time that the listener took for the last block is not the stream's.
            heard = max(heard, time.monotonic()) if len(block) else heard
        raise self._failure or SourceFailed(f"{self.status}, and the stream has ended")

    def close(self) -> None:
        """Break the connection off, and end the decoder."""
        with self._changed:
            self._closed = True
            decoder = self._decoder
        self._fetch.close()
        if decoder is not None:
            decoder.close()
        self._thread.join(LET_GO)

    def _run(self) -> None:
        """Fetch; the body of a thread."""
        try:
            if self._settings.sdp:
                self._fetch.describe(self._settings.sdp)
            else:
                self._fetch.run(self._settings.url)
            failure = None if self._decoder else SourceFailed(f"{self.status}, but there was nothing to play")
        except SourceFailed as error:
            failure = error
        except Exception as error:  # a source harms only itself
            log.exception("fetching failed")
            failure = SourceFailed(f"{type(error).__name__}: {error}")
        with self._changed:
            self._failure = self._failure or failure
            self._changed.notify_all()
        if self._decoder is not None and not self._receives:
            self._decoder.end()

    _receives = False

    def _take(self, data: bytes) -> bool:
        return (self._decoder or self._begin("")).feed(data)

    def _receive(self, described: Description) -> None:
        self._receives = True
        self._begin(described.text)

    def _begin(self, sdp: str) -> Decoder:
        wanted = self._settings
        task = Task(gain_db=wanted.gain_db, channel=wanted.channel, rate=wanted.rate, sdp=sdp)
        decoder = self._nursery.start(task)
        with self._changed:
            if self._closed:
                decoder.close()
                raise SourceFailed("it was closed")
            self._decoder = decoder
            self._changed.notify_all()
        return decoder


def patience(gathering: float) -> float:
    """Seconds after which nothing came, where bytes gather for so many: nobody looks up in between."""
    return max(WAIT, PATIENCE * gathering)
