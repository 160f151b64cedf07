"""The live feed: one thread reads the sources, and every page that is open is told.

A frame is the whole state, so a page that was away needs only the latest one.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from secrets import token_hex
from typing import Any

import msgspec
import structlog

from projections.reads import Away
from projections.views import Envelope, SourceView

PERIOD = 0.2
"""Seconds between two samples."""
AT_LEAST_EVERY = 1.0
"""Seconds after which a frame is sent though nothing changed: silence would mean that we are gone."""
RETRY = 1000
"""Milliseconds after which a client should come back."""


class Live:
    """Samples the sources while anyone listens, and wakes the listeners."""

    def __init__(self, sample: Callable[[], Envelope[list[SourceView]]]) -> None:
        self._sample = sample
        self._boot = token_hex(4)
        self._count = 0
        self._frame: tuple[str, bytes] = ("", b"")
        self._shown: Any = None
        self._sent_at = float("-inf")
        self._listeners: set[asyncio.Event] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wanted = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._log = structlog.get_logger("projections.live")

    def start(self) -> None:
        """Start the sampling thread."""
        self._thread = threading.Thread(target=self._run, name="live", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the sampling and every feed. Any thread may call it, more than once."""
        self._stopping.set()
        self._wanted.set()
        self._wake()

    def join(self) -> None:
        """Wait for the sampling to end, but not for long: a server that does not answer may hold it up."""
        if self._thread is not None:
            self._thread.join(timeout=1.0)

    async def feed(self) -> AsyncIterator[bytes]:
        """The bytes of an event stream: the latest frame at once, then each new one."""
        news = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._listeners.add(news)
        self._wanted.set()
        sent = self._frame[0]  # what was sampled before anyone listened may be old
        try:
            yield f"retry: {RETRY}\n\n".encode()
            while not self._stopping.is_set():
                await news.wait()
                news.clear()
                number, frame = self._frame
                if number != sent and not self._stopping.is_set():
                    sent = number
                    yield frame
        finally:
            self._listeners.discard(news)
            if not self._listeners:
                self._wanted.clear()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wanted.wait()
            began = time.monotonic()
            try:
                self._look()
            except Exception:  # the feed outlives whatever goes wrong in one sample
                self._log.exception("sampling failed")
                self._publish("unavailable", b'{"message":"internal error"}')
            self._stopping.wait(max(0.01, PERIOD - (time.monotonic() - began)))

    def _look(self) -> None:
        try:
            read = self._sample()
        except Away as error:
            message = msgspec.json.encode({"message": str(error)})
            if self._shown != message or self._overdue():
                self._shown = message
                self._publish("unavailable", message)
            return
        shown = (read.source, read.stale, [msgspec.structs.replace(view, as_of=None) for view in read.data])
        if self._shown != shown or self._overdue():
            self._shown = shown
            self._publish("sources", msgspec.json.encode(read))

    def _overdue(self) -> bool:
        return time.monotonic() - self._sent_at >= AT_LEAST_EVERY

    def _publish(self, event: str, data: bytes) -> None:
        self._count += 1
        number = f"{self._boot}-{self._count}"
        self._frame = (number, b"event: %s\nid: %s\ndata: %s\n\n" % (event.encode(), number.encode(), data))
        self._sent_at = time.monotonic()
        self._wake()

    def _wake(self) -> None:
        loop = self._loop
        if loop is not None and not loop.is_closed():
            try:
                loop.call_soon_threadsafe(self._tell_all)
            except RuntimeError:
                return  # the loop closed in this moment: nobody listens any more

    def _tell_all(self) -> None:
        for news in self._listeners:
            news.set()
