"""Taking a lane's commands from its stream, fenced, and telling the server's time by the answers."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

from streams.admission import MAX_DELIVERIES, Delivery, parse_delivery
from streams.connection import Link
from streams.lease import Lease, LeaseLost
from streams.names import LaneKeys

COUNT = 128
"""Commands taken at once."""


class Intake:
    """Takes one lane's commands for its owner, who is `consumer` in the group."""

    def __init__(self, link: Link, keys: LaneKeys, consumer: str) -> None:
        self._link = link
        self._keys = keys
        self._consumer = consumer
        self._server_time = (0.0, datetime.fromtimestamp(0, UTC))

    def take(
        self, lease: Lease | None, mode: str, wake: tuple[Any, ...] | None = None, block: float = 0.0
    ) -> tuple[list[Delivery], str | None]:
        """Take commands; `wake` is a command to block on first, `block` seconds, in the same round trip.

        `mode` is "new", or the entry after which pending ones are wanted; beside these comes the entry to
        go on after, None where there are no more. Raises LeaseLost, Unreachable, ResponseError.
        """
        keys = self._keys
        if lease is None or time.monotonic() > lease.until:
            raise LeaseLost(f"no valid lease of lane {keys.lane!r}")
        take = (
            "FCALL", "tocsin_take", 3, keys.lease, keys.commands, keys.ids,
            lease.fence, self._consumer, COUNT, mode, MAX_DELIVERIES,
        )  # fmt: skip
        replies = self._link.batch([wake, take] if wake else [take], timeout=block if wake else None)
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        status, *rest = replies[-1]
        if status != b"ok":
            raise LeaseLost(f"the lease of lane {keys.lane!r} is another's")
        self._server_time = (time.monotonic(), datetime.fromtimestamp(rest[0] / 1000, UTC))
        taken = [parse_delivery(*row) for row in rest[1]]
        return taken, rest[2].decode() if len(rest) > 2 else None

    def last_entry(self) -> str:
        """The id of the last command that was put into the stream."""
        flat = self._link.call("XINFO", "STREAM", self._keys.commands)
        info = dict(zip(flat[::2], flat[1::2], strict=True))
        entry: bytes = info[b"last-generated-id"]
        return entry.decode()

    def now(self) -> datetime:
        """The server's time, by its last answer and our monotonic clock since."""
        at, server = self._server_time
        return server + timedelta(seconds=time.monotonic() - at)
