"""Writing levels into a lane's telemetry stream. Audio never waits for it."""

from __future__ import annotations

import threading
from collections import deque

import structlog
from redis.exceptions import ResponseError

from streams.connection import Link, Unreachable
from streams.messages import Level, canonical
from streams.names import LaneKeys

PERIOD = 0.1
"""Seconds between two writes."""
HELD = 2000
"""Levels held while they cannot be written; the oldest are dropped first."""
KEPT = 6000
"""Entries kept in the stream, about: ten minutes."""
RETRY = 1.0
"""Seconds between attempts while Redis is away."""

log = structlog.get_logger(__name__)


class TelemetryWriter:
    """Batches the levels of all sources of a lane into one entry each tenth of a second."""

    def __init__(self, link: Link, keys: LaneKeys) -> None:
        self._link = link
        self._key = keys.telemetry
        self._levels: deque[Level] = deque(maxlen=HELD)
        self.dropped = 0
        """Levels that were never written because Redis was away for too long."""

    def put(self, level: Level) -> None:
        """Take one measurement; never blocks."""
        if len(self._levels) == HELD:
            self.dropped += 1
        self._levels.append(level)

    def run(self, stop: threading.Event) -> None:
        """Write until `stop` is set; the body of a thread."""
        away = False
        while not stop.wait(RETRY if away else PERIOD):
            batch = [self._levels.popleft() for _ in range(len(self._levels))]
            if not batch:
                continue
            try:
                self._link.call("XADD", self._key, "MAXLEN", "~", KEPT, "*", "l", canonical(batch))
                away = False
            except (Unreachable, ResponseError) as error:
                self.dropped += len(batch)
                if not away:
                    log.warning("telemetry cannot be written", detail=str(error))
                away = True
        self._link.close()
