"""Fetching a stream: through playlists and redirects to the bytes of its audio."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from itertools import chain

import structlog

from ingest.file_source import SourceFailed
from ingest.net.client import Client, Response, all_of, shown
from ingest.net.fence import Fence
from ingest.net.hls import Hls
from ingest.net.icy import Icy
from ingest.net.playlists import ENOUGH, entries, is_hls, kind_of
from ingest.net.sdp import Description, parsed
from streams.inputs import FetchSection

DEEPEST = 4
"""Playlists that may name one another."""

log = structlog.get_logger(__name__)


class Fetch:
    """Fetches one stream, in a thread of its own.

    `take` gets its bytes and says whether more are wanted, `receive` what an SDP describes instead. `gather`
    is as for `Client`.
    `status` tells people how far it has come, `title` what is played by the stream's own word.
    """

    def __init__(
        self,
        fence: Fence,
        fetch: FetchSection,
        *,
        take: Callable[[bytes], bool],
        receive: Callable[[Description], None],
        gather: Callable[[], float],
    ) -> None:
        self.status = "connecting"
        self.title: str | None = None
        self.in_segments = False
        """Whether it comes in pieces of some seconds."""
        self.received = 0
        """Bytes of audio so far."""
        self._fence = fence
        self._fetch = fetch
        self._client = Client(fence, fetch, gather)
        self._take = take
        self._receive = receive
        self._stop = threading.Event()

    def run(self, url: str) -> None:
        """Fetch until the stream ends, nobody wants more, or `close`. Raises SourceFailed."""
        self._follow(url, 0)

    def describe(self, text: str) -> None:
        """Receive what an SDP describes. Raises SourceFailed."""
        described = parsed(text)
        self._fence.check_rtp(described.address)
        self.status = f"receiving at {described.address}:{described.port}"
        self._receive(described)

    def close(self) -> None:
        """End it, from any thread."""
        self._stop.set()
        self._client.close()

    def _follow(self, url: str, depth: int) -> None:
        if depth > DEEPEST:
            raise SourceFailed(f"{shown(url)}: more than {DEEPEST} playlists that name one another")
        self.status = f"connecting to {shown(url)}"
        self._client.gathers = False
        with self._client.get(url, {"Icy-MetaData": "1"}) as response:
            self.status = f"connected to {shown(response.url)}"
            head = _head(response.data)
            kind = kind_of(head, response.headers.get("content-type", ""), response.url)
            data = chain([head], response.data)
            if kind == "media":
                self._play(response, data)
                return
            text = all_of(data, self._fetch.playlist_bytes, response.url).decode("utf-8", "replace")
        if kind == "sdp":
            self.describe(text)
        elif is_hls(text):
            self.in_segments = True
            hls = Hls(self._client, self._fetch, self._stop)
            for piece in hls.pieces(response.url, text):
                if not self._give(piece):
                    return
        else:
            self._any_of(entries(kind, text, response.url), response.url, depth)

    def _any_of(self, urls: list[str], playlist: str, depth: int) -> None:
        """Play the first that can be played; the failure of the last is told where none can."""
        if not urls:
            raise SourceFailed(f"{shown(playlist)}: the playlist names nothing")
        for url in urls:
            before = self.received
            try:
                self._follow(url, depth + 1)
                return
            except SourceFailed as error:
                if self._stop.is_set() or self.received > before or url == urls[-1]:
                    raise
                log.info("entry of a playlist cannot be played", url=shown(url), detail=str(error))

    def _play(self, response: Response, data: Iterator[bytes]) -> None:
        woven = Icy(response.headers)
        self._client.gathers = True
        for part in data:
            audio = woven.audio(part)
            self.title = woven.title
            if audio and not self._give(audio):
                return

    def _give(self, data: bytes) -> bool:
        self.received += len(data)
        return self._take(data) and not self._stop.is_set()


def _head(data: Iterator[bytes]) -> bytes:
    """The first bytes, enough to tell what they are."""
    head = b""
    while len(head) < ENOUGH and (part := next(data, b"")):
        head += part
    return head
