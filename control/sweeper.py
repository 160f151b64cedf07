"""Lets the copies of parked commands go, once the log says durably that they were retried or dropped."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterable

import msgspec
import structlog
from redis.exceptions import ResponseError

from control.parked import remove
from streams.backoff import Backoff
from streams.connection import Link, Unreachable
from streams.history import Archive, ArchiveAway, EventsMissing
from streams.messages import GENESIS, Event, Logged
from streams.names import STATION_LANE, StationKeys
from streams.tail import Position, PositionAhead, Tail
from streams.vocabulary import ParkedClosed

CLOSING = frozenset({"parked.retried", "parked.dropped"})
BLOCK = 1.0
"""Seconds to wait for an event before looking whether to stop."""
SWEEP = 30.0
"""Seconds between two looks for copies that came back: a failover may have put them back."""

log = structlog.get_logger(__name__)


def closed_by(event: Event) -> ParkedClosed | None:
    """Which parked command the event closes; None where it closes none."""
    return msgspec.convert(event.data, ParkedClosed) if event.type in CLOSING else None


class Sweeper:
    """Follows the station lane's log. `run` is the body of a thread.

    It begins with the parked commands `closed` already, as of the event `after`.
    """

    def __init__(
        self,
        link: Link,
        keys: StationKeys,
        after: Position,
        closed: Iterable[tuple[str, str]],
        archive: Archive | None = None,
    ) -> None:
        self._link = link
        self._keys = keys
        self._after = after
        self._archive = archive
        self._closed: defaultdict[str, set[str]] = defaultdict(set)
        self._due: set[str] = set()
        self._sweep_at = time.monotonic()
        for lane, id in closed:
            self._closed[lane].add(id)
        self.stop = threading.Event()

    def run(self) -> None:
        """Let copies go until `stop` is set, waiting for a primary where there is none."""
        tail = Tail(self._link, self._keys.lane(STATION_LANE), self._after, self._archive)
        backoff = Backoff(self.stop)
        while not self.stop.is_set():
            try:
                self._remove()
                self._note(tail.read(block=BLOCK))
                backoff.reset()
            except PositionAhead:
                # A failover took events back. What stands is read again: letting go twice does no harm.
                tail.after = Position(0, GENESIS)
                backoff.wait()
            except (Unreachable, ResponseError, ArchiveAway, EventsMissing) as error:
                if backoff.failures == 0:
                    log.warning("parked copies are not swept", detail=str(error))
                backoff.wait()
        self._link.close()

    def _note(self, events: Iterable[Logged]) -> None:
        for logged in events:
            if closed := closed_by(logged.event):
                self._closed[closed.lane].add(closed.id)
                self._due.add(closed.lane)

    def _remove(self) -> None:
        if time.monotonic() >= self._sweep_at:
            self._due.update(self._closed)
            self._sweep_at = time.monotonic() + SWEEP
        for lane in list(self._due):
            remove(self._link, self._keys.lane(lane), lane, self._closed[lane])
            self._due.discard(lane)
