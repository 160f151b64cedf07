"""The ingest nodes as their heartbeats tell: what they run, their disks, how far off their clocks are."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from projections.heartbeats import DOWN_AFTER, breaker_standings, clock_offset, heartbeat_time
from projections.scrape import Disk
from projections.views import BreakerStandings
from streams.connection import Link
from streams.names import StationKeys

FIELDS = ("time", "address", "version", "lanes", "sources", "breakers", "disk", "clock")


class NodeView(msgspec.Struct, frozen=True, kw_only=True):
    """An ingest node. What its heartbeat does not say is None.

    `age_seconds` is since its last heartbeat, by Redis' clock; `clock_offset` by how many seconds its own
    clock is ahead of that (negative: behind): as it measured, or an older version as its heartbeat shows.
    """

    name: str
    beat: datetime | None = None
    age_seconds: float | None = None
    clock_offset: float | None = None
    address: str | None = None
    version: str | None = None
    lanes: list[str] | None = None
    sources: dict[str, int] | None = None
    breakers: BreakerStandings | None = None
    disk: Disk | None = None


def read_nodes(link: Link, keys: StationKeys, names: Iterable[str]) -> list[NodeView]:
    """The nodes of these names. Raises Unreachable."""
    wanted = sorted(names)
    if not wanted:
        return []
    seconds, microseconds = link.call("TIME")
    at = datetime.fromtimestamp(int(seconds), UTC) + timedelta(microseconds=int(microseconds))
    asked = [
        question
        for name in wanted
        for question in (("HMGET", keys.node(name), *FIELDS), ("PTTL", keys.node(name)))
    ]
    replies = link.batch(asked)
    return [node(name, replies[2 * n], replies[2 * n + 1], at) for n, name in enumerate(wanted)]


def node(name: str, reply: Any, left: Any, at: datetime) -> NodeView:
    """What a heartbeat's fields make of the node, `left` ms before it is forgotten. Never raises."""
    if not isinstance(reply, list) or reply[0] is None:
        return NodeView(name=name)
    told = dict(zip(FIELDS, reply, strict=True))
    beat = heartbeat_time(told["time"])
    age, offset = None, clock_offset(told["clock"])
    if isinstance(left, int) and 0 <= left <= DOWN_AFTER * 1000:
        age = round(DOWN_AFTER - left / 1000, 3)
        if beat is not None and offset is None:
            offset = round((beat - (at - timedelta(seconds=age))).total_seconds(), 3)
    return NodeView(
        name=name,
        beat=beat,
        age_seconds=age,
        clock_offset=offset,
        address=_text(told["address"]),
        version=_text(told["version"]),
        lanes=_decoded(told["lanes"], list[str]),
        sources=_decoded(told["sources"], dict[str, int]),
        breakers=breaker_standings(told["breakers"]),
        disk=_decoded(told["disk"], Disk),
    )


def _text(reply: Any) -> str | None:
    return reply.decode("utf-8", "replace") if isinstance(reply, bytes) else None


def _decoded(reply: Any, kind: Any) -> Any:
    try:
        return msgspec.json.decode(reply, type=kind) if isinstance(reply, bytes) else None
    except msgspec.MsgspecError:
        return None
