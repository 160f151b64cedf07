"""Who looks at a spectrum: readers say so, for a few seconds at a time, and nodes send it only meanwhile.

The key `looking` of the station is a sorted set of source ids, each with the Unix time until which
somebody looks; it expires by itself once nobody does.
"""

from __future__ import annotations

import time
from typing import Any

from streams.connection import Link
from streams.names import StationKeys

LOOKS_FOR = 10
"""Seconds that one look lasts; who goes on looking says so again before."""
TIME_TO_LIVE = 60
"""Seconds after which the key is gone, where nobody looks any more."""


def look(link: Link, keys: StationKeys, source: str) -> None:
    """Say that the source's spectrum is looked at, from now on for LOOKS_FOR seconds. Raises Unreachable."""
    until = time.time() + LOOKS_FOR
    link.batch([("ZADD", keys.looking, until, source), ("EXPIRE", keys.looking, TIME_TO_LIVE)])


def looked_at(link: Link, keys: StationKeys) -> frozenset[str]:
    """The sources whose spectrum somebody looks at now. Raises Unreachable, ResponseError."""
    found: list[Any] = link.call("ZRANGE", keys.looking, time.time(), "+inf", "BYSCORE")
    return frozenset(source.decode() for source in found)
