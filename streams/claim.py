"""Claiming a source's id for one lane, in the station's hash of ids: whoever comes first has it."""

from __future__ import annotations

from typing import Any

from streams.connection import Link
from streams.names import StationKeys


def claim(link: Link, keys: StationKeys, source: str, lane: str) -> str:
    """Claim the id for the lane; return the lane that has it now. Raises Unreachable, ResponseError."""
    while True:
        replies: list[Any] = link.batch(
            [("HSETNX", keys.sources, source, lane), ("HGET", keys.sources, source)]
        )
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        # None: it was freed, or lost in a failover, between the two.
        if replies[1] is not None:
            return str(replies[1].decode())
