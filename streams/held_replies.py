"""Replies to commands of durability `archive`: they go out once the result is archived, not before.

The archive tells how far it is by the lane's key `archived`. It is asked for only
while replies wait, by a thread that ends with them, over a connection of its own.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import msgspec
import structlog
from redis.exceptions import ResponseError

from streams.connection import Link, Unreachable
from streams.names import LaneKeys
from streams.steps import step

SHORTEST, LONGEST = 0.003, 1.0
"""Seconds between two looks: a twentieth of how long the oldest reply has been waiting, within these."""

log = structlog.get_logger(__name__)

Command = Sequence[Any]


class _Held(msgspec.Struct, frozen=True):
    """The replies to the results of one append, whose last event has this seq and hash."""

    seq: int
    hash: str
    replies: Sequence[Command]
    since: float


class HeldReplies:
    """Replies of one lane's owner that wait for the archive. Any thread may add."""

    def __init__(self, link: Link, keys: LaneKeys) -> None:
        self._link = link
        self._keys = keys
        self._lock = threading.Lock()
        self._waiting: deque[_Held] = deque()
        self._running = False
        self._cleared = threading.Event()

    def add(self, seq: int, hash: str, replies: Sequence[Command]) -> None:
        """Send `replies` once the event with this seq *and* hash is archived."""
        with self._lock:
            self._waiting.append(_Held(seq, hash, replies, time.monotonic()))
            self._cleared.clear()
            if not self._running:
                self._running = True
                threading.Thread(target=self._run, name="held-replies", daemon=True).start()

    def clear(self) -> None:
        """Forget them: whoever waits asks again by the id."""
        with self._lock:
            self._waiting.clear()
            self._cleared.set()

    def _run(self) -> None:
        while (oldest := self._oldest()) is not None:
            self._cleared.wait(min(max((time.monotonic() - oldest.since) / 20, SHORTEST), LONGEST))
            try:
                self._send()
            except Unreachable:
                self._link.close()
            except ResponseError as error:
                log.warning("held replies not sent", detail=str(error))

    def _oldest(self) -> _Held | None:
        """What has been waiting longest; None ends the thread."""
        with self._lock:
            if self._waiting:
                return self._waiting[0]
            self._running = False
            self._link.close()
            return None

    def _send(self) -> None:
        archived = int(self._link.call("HGET", self._keys.archived, "seq") or 0)
        with self._lock:
            due = [held for held in self._waiting if held.seq <= archived]
        if not due:
            return
        # The number alone could be that of another event: a failover may have taken ours.
        stands = self._link.call("XRANGE", self._keys.events, due[-1].seq, due[-1].seq)
        if stands and stands[0][1][3].decode() == due[-1].hash:
            step("held replies due")
            self._link.batch([reply for held in due for reply in held.replies])
            step("held replies sent")
        with self._lock:
            self._waiting = deque(held for held in self._waiting if held not in due)
