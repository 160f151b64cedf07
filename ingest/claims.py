"""Which lane an id belongs to, for as long as there is a source of that id.

The hash `…:sources` maps ids to lanes. A submitter reserves an id there before it submits an add;
the lane's owner makes sure of it before it logs the add, and frees it once a removal stands in the
log. So an id is never in two lanes, and free again for any lane after a removal.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

import msgspec
import structlog
from redis.exceptions import ResponseError

from streams.connection import Link, Unreachable
from streams.names import StationKeys

LOOK_AGAIN = 0.2
"""Seconds between two looks whether a removal stands in the log, whether Redis is back, whether to stop."""
GIVE_UP = 600.0
"""Seconds after which a removal that never stood in the log is no longer waited for."""

log = structlog.get_logger(__name__)


class _Removal(msgspec.Struct, frozen=True):
    source: str
    lane: str
    command: str | None
    exists: Callable[[], bool]
    until: float


class Claims:
    """The claims of one node's lanes. `run` is the body of a thread; the rest is called from any."""

    def __init__(self, link: Link, keys: StationKeys) -> None:
        self._link = link
        self._keys = keys
        self._using = threading.Lock()
        self._removals: deque[_Removal] = deque()
        self._some = threading.Event()

    def claim(self, source: str, lane: str) -> str:
        """Claim the id for the lane; return the lane that has it now. Raises Unreachable."""
        with self._using:
            self._link.call("HSETNX", self._keys.sources, source, lane)
            found: bytes = self._link.call("HGET", self._keys.sources, source)
        return found.decode()

    def release(self, source: str, lane: str, exists: Callable[[], bool], command: str | None = None) -> None:
        """Free the id once the result of `command` stands in the log (None: at once); never waits.

        `exists` tells whether there is, or is about to be, a source of this id in the lane again.
        """
        self._removals.append(_Removal(source, lane, command, exists, time.monotonic() + GIVE_UP))
        self._some.set()

    def run(self, stop: threading.Event) -> None:
        """Free what was released until `stop` is set."""
        while not stop.is_set():
            if not self._removals:
                self._some.wait(LOOK_AGAIN)
                self._some.clear()
                continue
            for _ in range(len(self._removals)):
                removal = self._removals.popleft()
                if time.monotonic() < removal.until and not self._freed(removal):
                    self._removals.append(removal)
            if self._removals:
                stop.wait(LOOK_AGAIN)
        with self._using:
            self._link.close()

    def _freed(self, removal: _Removal) -> bool:
        """Free the id where that is due; whether nothing is left to do."""
        try:
            with self._using:
                if removal.command and not self._stands(removal.lane, removal.command):
                    return False
                # No add can come in between: it claims the id under the same lock.
                if removal.exists():
                    return True
                if self._link.call("HGET", self._keys.sources, removal.source) == removal.lane.encode():
                    self._link.call("HDEL", self._keys.sources, removal.source)
            return True
        except (Unreachable, ResponseError) as error:
            log.debug("claim not freed yet", source=removal.source, detail=str(error))
            return False

    def _stands(self, lane: str, command: str) -> bool:
        mark: bytes | None = self._link.call("HGET", self._keys.lane(lane).ids, command)
        # A mark is digest, sequence, entry and answer; one that is forgotten had its answer long ago.
        return mark is None or not mark.endswith(b" ")
