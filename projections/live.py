"""The live feed: a few threads read for all pages that are open, and every page is told what is new.

Topics: `sources` (all of them), `changed` (what of them changed), `levels` (ten times a second),
`commands`, `alerts`, `conditions`, `episodes`, `station`, and `unavailable` where nothing can be read.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import datetime
from typing import Any, get_args, get_type_hints

import msgspec
import structlog
from redis.exceptions import ResponseError

from projections.board import NOTHING, Board, same
from projections.levels import Heard, Levels
from projections.reads import Away
from projections.views import Envelope, LevelView, SourceView
from streams.backoff import JITTER, Backoff
from streams.connection import Unreachable
from streams.messages import now

PERIOD = 0.2
"""Seconds between two samples of the sources."""
LEVELS_EVERY = 0.09
"""Seconds between two frames of levels: no longer than between two measurements."""
AT_LEAST_EVERY = 1.0
"""Seconds after which a frame is sent though nothing changed: silence would mean that we are gone."""
TOPICS_AT_LEAST_EVERY = 5.0
"""Seconds after which the other topics are sent again though nothing changed: their ages are of interest."""
RETRY = (500, 1500)
"""Milliseconds after which a client should come back: drawn from this range, lest all come at once."""
LINGER = 5.0
"""Seconds for which sampling goes on when the last page has left: it may be back in a moment."""
UNSHOWN = ("seconds", "decoded")


def figures_of(kind: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Where in a struct its single figures are, meters within it too: what of a level goes into a frame."""
    found: list[tuple[str, ...]] = []
    for name, hint in get_type_hints(kind).items():
        kinds = {one for one in (*get_args(hint), hint) if isinstance(one, type)}
        if name not in UNSHOWN and kinds & {float, int}:
            found.append((*path, name))
        for part in kinds:
            if issubclass(part, msgspec.Struct):
                found += figures_of(part, (*path, name))
    return found


FIGURES = figures_of(LevelView)


class Topic(msgspec.Struct):
    """What is asked for every so many seconds while somebody looks. `ask` may raise Away."""

    name: str
    every: float
    ask: Callable[[], Any]
    due: float = 0.0
    shown: Any = None
    sent: float = float("-inf")


class Live:
    """Samples while anyone listens, and wakes the listeners."""

    def __init__(
        self,
        sample: Callable[[], Envelope[list[SourceView]]],
        topics: Mapping[str, tuple[float, Callable[[], Any]]],
        levels: Callable[[Callable[[], list[str]], threading.Event], Levels],
    ) -> None:
        self._sample = sample
        self._topics = [Topic(name, every, ask) for name, (every, ask) in topics.items()]
        self._make_levels = levels
        self._board = Board()
        self._latest: Envelope[list[SourceView]] | None = None
        self._sent_at = float("-inf")
        self._listeners: set[asyncio.Event] = set()
        self._left_at = float("-inf")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wanted = threading.Event()
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._log = structlog.get_logger("projections.live")

    def start(self) -> None:
        """Start the threads."""
        bodies = {"live": self._run, "live-levels": self._hear}
        bodies |= {f"live-{topic.name}": self._asking(topic) for topic in self._topics}
        self._threads = [
            threading.Thread(target=body, name=name, daemon=True) for name, body in bodies.items()
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the sampling and every feed. Any thread may call it, more than once."""
        self._stopping.set()
        self._wanted.set()
        self._wake()

    def join(self) -> None:
        """Wait for the threads to end, but not for long: a server that does not answer may hold them up."""
        until = time.monotonic() + 1.0
        for thread in self._threads:
            thread.join(timeout=max(0.0, until - time.monotonic()))

    async def feed(self, last_event_id: str = "") -> AsyncIterator[bytes]:
        """The bytes of an event stream: what a page that has seen `last_event_id` lacks, then what is new."""
        news = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._listeners.add(news)
        if not self._wanted.is_set():
            self._begin()
        seen = self._board.resumed(last_event_id) if last_event_id else NOTHING
        try:
            yield f"retry: {JITTER.randint(*RETRY)}\n\n".encode()
            while not self._stopping.is_set():
                seen, frames = self._board.after(seen)
                if frames:
                    yield frames
                await news.wait()
                news.clear()
        finally:
            self._listeners.discard(news)
            self._left_at = time.monotonic()

    def _begin(self) -> None:
        """Sample again, from nothing: nobody has looked after the board for a while."""
        self._board.wipe()
        self._latest = None
        for topic in self._topics:
            topic.sent = float("-inf")
        self._wanted.set()

    def _rest(self) -> None:
        """Stop sampling where the last page has left, and has not come back."""
        if not self._listeners and time.monotonic() - self._left_at > LINGER and not self._stopping.is_set():
            self._wanted.clear()
            if self._listeners:  # one came in this moment
                self._wanted.set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._rest()
            self._wanted.wait()
            began = time.monotonic()
            try:
                self._look()
            except Exception:  # the feed outlives whatever goes wrong in one sample
                self._log.exception("sampling failed")
                self._lose("internal error")
            self._stopping.wait(max(0.01, PERIOD - (time.monotonic() - began)))

    def _look(self) -> None:
        try:
            read = self._sample()
        except Away as error:
            self._lose(str(error))
            return
        when = time.monotonic()
        if same(self._latest, read) and when - self._sent_at < AT_LEAST_EVERY:
            return
        self._latest, self._sent_at = read, when
        self._board.put_sources(read)
        self._wake()

    def _lose(self, message: str) -> None:
        when = time.monotonic()
        if self._latest is None and when - self._sent_at < AT_LEAST_EVERY:
            return
        self._latest, self._sent_at = None, when
        self._board.put_unavailable(message)
        self._wake()

    def _hear(self) -> None:
        """Tell levels while they are wanted; each time from what is measured then."""
        backoff = Backoff(self._stopping)
        while not self._stopping.is_set():
            self._wanted.wait()
            levels = None
            try:
                levels = self._make_levels(self._lanes, self._stopping)
                while self._wanted.is_set() and not self._stopping.is_set():
                    self._tell(levels)
                    backoff.reset()
            except (Unreachable, ResponseError):
                backoff.wait()
            except Exception:
                self._log.exception("levels failed")
                backoff.wait()
            finally:
                if levels is not None:
                    levels.close()

    def _tell(self, levels: Levels) -> None:
        began = time.monotonic()
        if not self._lanes():
            self._stopping.wait(PERIOD)
            return
        levels.listen()
        heard = levels.take()
        self._board.put("levels", msgspec.json.encode(figures(heard, self._latest, now())))
        self._wake()
        self._stopping.wait(max(0.0, LEVELS_EVERY - (time.monotonic() - began)))

    def _lanes(self) -> list[str]:
        latest = self._latest
        return sorted({view.lane for view in latest.data}) if latest is not None else []

    def _asking(self, topic: Topic) -> Callable[[], None]:
        def run() -> None:
            while not self._stopping.is_set():
                self._wanted.wait()
                try:
                    self._ask(topic)
                except Exception:
                    self._log.exception("asking failed", topic=topic.name)
                self._stopping.wait(topic.every)

        return run

    def _ask(self, topic: Topic) -> None:
        try:
            found = topic.ask()
        except Away as error:
            found = {"data": None, "message": str(error)}
        shown = found.data if isinstance(found, Envelope) else found
        when = time.monotonic()
        if shown == topic.shown and when - topic.sent < TOPICS_AT_LEAST_EVERY:
            return
        topic.shown, topic.sent = shown, when
        self._board.put(topic.name, msgspec.json.encode(found))
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


def figures(
    heard: Mapping[Heard, LevelView], read: Envelope[list[SourceView]] | None, at: datetime
) -> dict[str, Any]:
    """A frame of levels: for each running source its figures, and how many seconds ago they were measured."""
    views = read.data if read is not None else []
    found = {}
    for view in views:
        level = heard.get((view.lane, view.id))
        if level is not None and view.state == "running" and not view.trouble:
            age = round((at - level.at).total_seconds(), 3)
            found[view.id] = [age, *(_figure(level, path) for path in FIGURES)]
    return {"at": at, "fields": ["age", *(path[-1] for path in FIGURES)], "levels": found}


def _figure(level: Any, path: tuple[str, ...]) -> float | None:
    for name in path:
        level = getattr(level, name, None)
    return None if level is None else round(level, 2)
