"""One node's hold on a lane: the lease, acquired, renewed in between whatever takes long, and given up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from streams.connection import Link
from streams.lease import Held, Lease, LeaseLost, acquire, new_nonce, release, renew
from streams.names import LaneKeys


class Tenure:
    """The lease of one lane in the hands of `owner`; only the lane's own thread asks."""

    def __init__(self, link: Link, keys: LaneKeys, owner: str) -> None:
        self._link = link
        self._keys = keys
        self._owner = owner
        self.nonce = new_nonce()
        """What tells the next acquisition from all others."""
        self._ours = {self.nonce}
        """All of this owner's: a replica that was behind may still name an older one of its leases."""
        self.lease: Lease | None = None
        self.renew_at = 0.0
        """When the lease is to be renewed, by the monotonic clock."""

    def acquire(self, stop: threading.Event, lost: Callable[[Held], None]) -> Lease | None:
        """Take the lane as soon as nobody else holds it; None where `stop` is set before.

        `lost` is told that somebody else holds it, whenever that is so. Raises Unreachable.
        """
        before = self.lease.fence if self.lease else ""
        while not stop.is_set():
            asked = time.monotonic()
            got = acquire(self._link, self._keys, self._owner, before, self.nonce)
            if isinstance(got, Lease):
                self.nonce = new_nonce()
                self._ours.add(self.nonce)
                self.lease, self.renew_at = got, asked
                return got
            if got.fence.split(" ")[-1] in self._ours:
                # We acquired it, and the answer was lost, or a later acquisition.
                before = got.fence
                continue
            lost(got)
            before = ""
            stop.wait(min(max(got.seconds, 0.05), 1.0))
        return None

    def tend(self, every: float) -> Lease | None:
        """Renew the lease each `every` seconds; the new one where due. Raises LeaseLost, Unreachable."""
        if time.monotonic() < self.renew_at:
            return None
        if self.lease is None:
            raise LeaseLost("no lease is held")
        self.renew_at = time.monotonic() + every
        self.lease = renew(self._link, self._keys, self.lease)
        return self.lease

    def release(self) -> None:
        """Free the lane. Raises Unreachable."""
        if self.lease is not None:
            release(self._link, self._keys, self.lease)
