"""Writing levels into the lanes' telemetry streams. Audio never waits for it.

One thread writes for the whole process, all lanes in one round trip, and sleeps while there is
nothing to write.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

import structlog
from redis.exceptions import ResponseError

from streams.backoff import Backoff
from streams.connection import Link, Unreachable
from streams.looking import looked_at
from streams.messages import Level, canonical
from streams.names import StationKeys

PERIOD = 0.05
"""Seconds between two writes, at least."""
GATHER = 0.02
"""Seconds to wait for more after the first: the meters tell all sources' levels one right after the other."""
IDLE = 0.25
"""Seconds between two looks whether to stop, while there is nothing to write."""
HELD = 20_000
"""Levels held while a write is in progress; the oldest are dropped first."""
KEPT = 6000
"""Entries kept in a stream, about: ten minutes."""
KEPT_LEVELS = 100_000
"""Levels kept in a stream, about: where a lane has many sources, its entries are larger and fewer."""
LOOK_EVERY = 1.0
"""Seconds between two looks whose spectrum is wanted."""

log = structlog.get_logger(__name__)


class Looks:
    """Asks whose spectrum is looked at. `run` is the body of a thread."""

    def __init__(self, link: Link, keys: StationKeys, tell: Callable[[frozenset[str]], None]) -> None:
        self._link, self._keys, self._tell = link, keys, tell

    def run(self, stop: threading.Event) -> None:
        """Ask each second until `stop` is set; while nobody can be asked, nobody looks."""
        backoff = Backoff(stop)
        while not stop.is_set():
            try:
                self._tell(looked_at(self._link, self._keys))
                backoff.reset()
                stop.wait(LOOK_EVERY)
            except (Unreachable, ResponseError):
                self._tell(frozenset())
                backoff.wait()
        self._link.close()


class LaneTelemetry:
    """Where the levels of one lane's sources go."""

    def __init__(self, writer: TelemetryWriter, key: str) -> None:
        self._writer = writer
        self._key = key

    def put(self, level: Level) -> None:
        """Take one measurement; never blocks."""
        self._writer.put(self._key, level)


class TelemetryWriter:
    """Batches levels: of each lane an entry for each round of the meters. `run` is the body of a thread."""

    def __init__(self, link: Link, keys: StationKeys) -> None:
        self._link = link
        self._keys = keys
        self._levels: deque[tuple[str, Level]] = deque(maxlen=HELD)
        self._some = threading.Event()
        self.dropped = 0
        """How many levels were not written: Redis was away, or slower than the audio."""

    def lane(self, lane: str) -> LaneTelemetry:
        """What a lane puts its levels into."""
        return LaneTelemetry(self, self._keys.lane(lane).telemetry)

    def put(self, key: str, level: Level) -> None:
        """Take one measurement for the stream `key`; never blocks."""
        if len(self._levels) == HELD:
            self.dropped += 1
        self._levels.append((key, level))
        if not self._some.is_set():
            self._some.set()

    def run(self, stop: threading.Event) -> None:
        """Write until `stop` is set; what cannot be written is dropped, it is of no use later."""
        backoff = Backoff(stop)
        while not stop.is_set():
            if not self._some.wait(IDLE):
                continue
            stop.wait(GATHER)
            self._some.clear()
            try:
                self.write()
                if backoff.failures:
                    log.info("telemetry is written again", dropped=self.dropped)
                backoff.reset()
                stop.wait(PERIOD - GATHER)
            except (Unreachable, ResponseError) as error:
                if backoff.failures == 0:
                    log.warning("telemetry cannot be written", detail=str(error))
                backoff.wait()
            except Exception:  # one level that cannot be written must not end all others
                log.exception("telemetry failed")
        self._link.close()

    def write(self) -> None:
        """Write what was put so far. Raises Unreachable, ResponseError."""
        lanes: dict[str, list[Level]] = {}
        for _ in range(len(self._levels)):
            key, level = self._levels.popleft()
            lanes.setdefault(key, []).append(level)
        adds = [
            ("XADD", key, "MAXLEN", "~", min(KEPT, KEPT_LEVELS // len(some)), "*", "l", canonical(some))
            for key, some in lanes.items()
        ]
        try:
            replies = self._link.batch(adds) if adds else []
        except Unreachable:
            self.dropped += sum(map(len, lanes.values()))
            raise
        for some, reply in zip(lanes.values(), replies, strict=True):
            if isinstance(reply, ResponseError):
                self.dropped += len(some)
        for reply in replies:
            if isinstance(reply, ResponseError):
                raise reply
