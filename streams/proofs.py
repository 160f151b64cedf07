"""Proving what nobody waits for: events become durable, and visible, beside the lane's own thread.

A result asked for at `memory` was told as soon as it stood, and a plain event is told to nobody: the
owner need not wait for replicas before it takes the next command. Readers see such events once the
proof is there, a few milliseconds later.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec

from streams.connection import Link
from streams.durability import Prover, replication_id
from streams.lease import Lease, renewal
from streams.messages import Durability
from streams.names import LaneKeys
from streams.steps import step

LINGER = 0.004
"""Seconds before a proof, in which more may come that it proves as well."""
BUSY_LINGER = 0.02
"""The same right behind another proof: where one follows the other, each is to prove more."""
BUSY = 0.05
"""Seconds behind a proof for which that holds."""
REST = 2.0
"""Seconds without anything to prove after which the thread ends."""
PATIENCE = 10.0
"""Seconds to wait for durability before the lane is taken anew."""


class WatermarkRefused(Exception):
    """Raised when the primary does not take a watermark: another history stands there."""


class Appended(msgspec.Struct, frozen=True):
    """The last event of an append, and the lease under which it was made."""

    seq: int
    hash: str
    token: int
    lease: Lease


class Watermark:
    """Raises a lane's watermark over one link."""

    def __init__(self, link: Link, keys: LaneKeys) -> None:
        self._link = link
        self._keys = keys
        # Of no connection yet: also the first is asked, though nothing went over it before.
        self._replid: tuple[int, str] = (-1, "")

    def raising(self, seq: int, hash: str, token: int) -> tuple[Any, ...]:
        """The command that raises it; it holds for the primary that this link is connected to now."""
        if self._replid[0] != self._link.generation:
            replid = replication_id(self._link)
            self._replid = (self._link.generation, replid)
        keys = self._keys
        return ("FCALL", "tocsin_raise", 2, keys.head, keys.events, seq, hash, token, self._replid[1])


class Proofs:
    """What of one lane's log is still to be proven; the thread that does so lives while there is some."""

    def __init__(
        self,
        link: Link,
        keys: LaneKeys,
        prover: Prover,
        durability: Durability,
        failed: Callable[[Exception], None],
    ) -> None:
        self._link = link
        self._keys = keys
        self._prover = prover
        self._durability = durability
        self._failed = failed
        self._watermark = Watermark(link, keys)
        self._changed = threading.Condition()
        self._due: Appended | None = None
        self._busy = False
        self._running = False
        self._last = float("-inf")
        """When the latest proof was there, by the monotonic clock."""

    def add(self, appended: Appended) -> None:
        """Prove everything up to `appended`, soon."""
        with self._changed:
            self._due = appended
            if not self._running:
                self._running = True
                threading.Thread(target=self._run, name="proofs", daemon=True).start()
            elif not self._busy:
                self._changed.notify_all()

    def proven(self, seq: int) -> None:
        """Take note that everything up to `seq` was proven by somebody who waited for it."""
        with self._changed:
            if self._due is not None and self._due.seq <= seq:
                self._due = None
                self._changed.notify_all()

    def clear(self) -> None:
        """Forget what is to be proven: the next owner begins with that."""
        with self._changed:
            self._due = None
            self._changed.notify_all()

    def finish(self, timeout: float) -> None:
        """Wait until there is nothing to prove any more, at most `timeout` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._due is None, timeout)

    def _run(self) -> None:
        while (appended := self._next()) is not None:
            try:
                self._prove(appended)
            except Exception as error:
                self._link.close()
                with self._changed:
                    due, self._due = self._due is not None, None
                    self._changed.notify_all()
                if due:
                    self._failed(error)

    def _next(self) -> Appended | None:
        """What is to be proven next, after LINGER; None ends the thread."""
        with self._changed:
            while True:
                self._busy = False
                if not self._changed.wait_for(lambda: self._due is not None, REST):
                    self._running = False
                    self._link.close()
                    return None
                self._busy = True
                linger = BUSY_LINGER if time.monotonic() - self._last < BUSY else LINGER
                self._changed.wait_for(lambda: self._due is None, linger)
                if self._due is not None:
                    return self._due

    def _prove(self, appended: Appended) -> None:
        mark = renewal(self._keys, appended.lease)
        self._prover.prove(self._link, mark, self._durability, timeout=PATIENCE)
        step("proven later")
        reply = self._link.call(*self._watermark.raising(appended.seq, appended.hash, appended.token))
        if reply != b"ok":
            raise WatermarkRefused(f"watermark not raised to {appended.seq}: {reply!r}")
        step("raised later")
        self._last = time.monotonic()
        self.proven(appended.seq)
