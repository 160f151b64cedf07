"""Parked commands: the copies that lanes keep of what they could not process, until somebody decides."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec

from streams.connection import Link
from streams.messages import Command, decode_command
from streams.names import LaneKeys

PAGE = 500
"""Copies read in one round trip."""


class Copy(msgspec.Struct, frozen=True, kw_only=True):
    """A parked command: the bytes and signature it came with, and why it was set aside."""

    lane: str
    entry: str
    id: str
    raw: bytes
    signature: str
    why: str
    deliveries: int

    @property
    def at(self) -> datetime:
        """When it was parked, by the server's clock."""
        return datetime.fromtimestamp(int(self.entry.split("-")[0]) / 1000, UTC)

    @property
    def command(self) -> Command:
        """What was wished. Fields of a newer version are in `raw` alone."""
        return decode_command(self.raw)


def copies(link: Link, keys: LaneKeys, lane: str) -> Iterator[Copy]:
    """The parked commands of a lane, the oldest first; raises Unreachable."""
    after = "-"
    while page := link.call("XRANGE", keys.parked, after, "+", "COUNT", PAGE):
        for entry, fields in page:
            yield _copy(lane, entry.decode(), fields)
        after = f"({page[-1][0].decode()}"


def find(link: Link, keys: LaneKeys, lane: str, id: str) -> Copy | None:
    """The parked command `id` of the lane; None where there is none. Raises Unreachable."""
    return next((copy for copy in copies(link, keys, lane) if copy.id == id), None)


def remove(link: Link, keys: LaneKeys, lane: str, ids: Collection[str]) -> None:
    """Let the copies of these commands go, as far as they are there; raises Unreachable."""
    for entry in [copy.entry for copy in copies(link, keys, lane) if copy.id in ids]:
        link.call("XDEL", keys.parked, entry)


def _copy(lane: str, entry: str, fields: list[Any]) -> Copy:
    found = dict(zip(fields[::2], fields[1::2], strict=True))
    return Copy(
        lane=lane,
        entry=entry,
        id=found[b"i"].decode(),
        raw=found[b"c"],
        signature=found[b"s"].decode(),
        why=found[b"r"].decode(),
        deliveries=int(found[b"d"]),
    )
