"""The lease of a lane: who may write, for how long, and with which fence."""

from __future__ import annotations

import secrets
import time

import msgspec

from streams.connection import Link
from streams.names import LaneKeys
from streams.steps import step

LENGTH = 12.0
"""Seconds a lease lasts: at least Sentinel's down-after + FAILOVER, so that a failover moves no lane."""
FAILOVER = 8.0
"""Seconds from when a primary is deemed down until its lanes' leases are renewed at another, at most."""
RENEW = 3.0
"""Seconds between renewals."""


class LeaseLost(Exception):
    """Raised when the lane's lease is not (or no longer) held by this owner."""


class Held(msgspec.Struct, frozen=True):
    """Somebody else holds the lease, for at least `seconds` more unless released."""

    fence: str
    seconds: float


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """A lease as acquired. `head` is where the log stood then: seq and hash."""

    fence: str
    token: int
    head_seq: int
    head_hash: str
    until: float
    """Valid until this time of the owner's monotonic clock, counted from before the request."""


def new_nonce() -> str:
    """What tells an acquisition from all others."""
    return secrets.token_hex(8)


def acquire(link: Link, keys: LaneKeys, owner: str, before: str = "", nonce: str = "") -> Lease | Held:
    """Try to take the lane; `before` is a fence of our own that may still stand. Raises Unreachable.

    A `nonce` (default: a new one) tells afterwards whether a lease whose answer was lost is ours.
    """
    asked = time.monotonic()
    reply = link.call(
        "FCALL", "tocsin_acquire", 3, keys.lease, keys.head, keys.commands,
        owner, nonce or new_nonce(), int(LENGTH * 1000), before,
    )  # fmt: skip
    if reply[0] == b"held":
        return Held(reply[1].decode(), max(reply[2], 0) / 1000)
    step("lease taken")
    return Lease(
        fence=reply[1].decode(),
        token=reply[2],
        head_seq=int(reply[3]),
        head_hash=reply[4].decode(),
        until=asked + LENGTH,
    )


def renewal(keys: LaneKeys, lease: Lease) -> tuple[str | int, ...]:
    """The command that renews the lease; it also serves as the mark before a WAIT."""
    return ("FCALL", "tocsin_renew", 1, keys.lease, lease.fence, int(LENGTH * 1000))


def renew(link: Link, keys: LaneKeys, lease: Lease) -> Lease:
    """Renew the lease; raises LeaseLost, Unreachable."""
    asked = time.monotonic()
    if not link.call(*renewal(keys, lease)):
        raise LeaseLost(f"the lease {lease.fence!r} is no longer held")
    return msgspec.structs.replace(lease, until=asked + LENGTH)


def release(link: Link, keys: LaneKeys, lease: Lease) -> None:
    """Give the lane up; harmless when it was lost already."""
    step("releasing")
    link.call("FCALL", "tocsin_release", 1, keys.lease, lease.fence)
    step("released")
