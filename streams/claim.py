"""Claiming a source's id for one lane, in the station's hash of ids: whoever comes first has it."""

from __future__ import annotations

from streams.connection import Link
from streams.names import StationKeys


def claim(link: Link, keys: StationKeys, source: str, lane: str) -> str:
    """Claim the id for the lane; return the lane that has it now. Raises Unreachable, ResponseError."""
    while True:
        link.call("HSETNX", keys.sources, source, lane)
        found: bytes | None = link.call("HGET", keys.sources, source)
        # None: it was freed, or lost in a failover, between the two.
        if found is not None:
            return found.decode()
