"""Which lane an id belongs to, for as long as there is a source of that id.

The hash `…:sources` maps ids to lanes. A submitter reserves an id there before it submits an add;
the lane's owner makes sure of it before it logs the add, and frees it once a removal stands in the
log. So an id is never in two lanes, and free again for any lane after a removal. What stands in a
lane's log is claimed again whenever the lane is taken over.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable

import msgspec
import structlog
from redis.exceptions import ResponseError

from streams.admission import has_answer
from streams.backoff import Backoff
from streams.claim import claim
from streams.connection import Link, Unreachable
from streams.names import StationKeys

LOOK_AGAIN = 0.2
"""Seconds between two looks whether a removal stands in the log, whether to stop."""
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
        self._renewals: deque[tuple[str, Callable[[], Iterable[str]]]] = deque()
        self._some = threading.Event()

    def claim(self, source: str, lane: str) -> str:
        """Claim the id for the lane; return the lane that has it now. Raises Unreachable."""
        with self._using:
            return claim(self._link, self._keys, source, lane)

    def renew(self, lane: str, sources: Callable[[], Iterable[str]]) -> None:
        """Claim the ids of the sources that the lane has, where a loss of Redis took that; never waits."""
        self._renewals.append((lane, sources))
        self._some.set()

    def release(self, source: str, lane: str, exists: Callable[[], bool], command: str | None = None) -> None:
        """Free the id once the result of `command` stands in the log (None: at once); never waits.

        `exists` tells whether there is, or is about to be, a source of this id in the lane again.
        """
        self._removals.append(_Removal(source, lane, command, exists, time.monotonic() + GIVE_UP))
        self._some.set()

    def run(self, stop: threading.Event) -> None:
        """Free what was released until `stop` is set."""
        backoff = Backoff(stop)
        while not stop.is_set():
            if not (self._removals or self._renewals):
                self._some.wait(LOOK_AGAIN)
                self._some.clear()
                continue
            try:
                self._renew_all()
                self._free_what_is_due()
                backoff.reset()
            except (Unreachable, ResponseError) as error:
                log.debug("claims not freed yet", detail=str(error))
                # Where it is one removal's own trouble, the others come first.
                self._removals.rotate(-1)
                backoff.wait()
            if self._removals:
                stop.wait(LOOK_AGAIN)
        with self._using:
            self._link.close()

    def _renew_all(self) -> None:
        """Raises Unreachable; then what is not claimed stays to be."""
        while self._renewals:
            lane, sources = self._renewals[0]
            with self._using:
                # No removal's release can come in between: it frees under the same lock.
                found = sorted(sources())
                claims = [("HSETNX", self._keys.sources, source, lane) for source in found]
                made = self._link.batch(claims) if claims else []
            if errors := [reply for reply in made if isinstance(reply, ResponseError)]:
                raise errors[0]
            if new := [source for source, reply in zip(found, made, strict=True) if reply]:
                log.warning("claims were lost and are made again", lane=lane, sources=new)
            self._renewals.popleft()

    def _free_what_is_due(self) -> None:
        """Raises Unreachable, ResponseError; then all that is not done stays to be done."""
        for _ in range(len(self._removals)):
            removal = self._removals[0]
            done = time.monotonic() >= removal.until or self._freed(removal)
            self._removals.popleft()
            if not done:
                self._removals.append(removal)

    def _freed(self, removal: _Removal) -> bool:
        """Free the id where that is due; whether nothing is left to do."""
        with self._using:
            if removal.command and not self._stands(removal.lane, removal.command):
                return False
            # No add can come in between: it claims the id under the same lock.
            if removal.exists():
                return True
            if self._link.call("HGET", self._keys.sources, removal.source) == removal.lane.encode():
                self._link.call("HDEL", self._keys.sources, removal.source)
        return True

    def _stands(self, lane: str, command: str) -> bool:
        mark: bytes | None = self._link.call("HGET", self._keys.lane(lane).ids, command)
        # One that is forgotten had its answer long ago.
        return mark is None or has_answer(mark)
