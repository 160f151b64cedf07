"""Heartbeats of ingest nodes: read without trusting them, kept in Postgres, judged.

A node writes the hash `…:node:NAME` every 5 s with a time to live of 60 s; its field `time` says when.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import Connection, select
from sqlalchemy.dialects.postgresql import insert

from projections.tables import heartbeats
from projections.views import STALE_AFTER, BreakerStandings, Health, SourceView, age_seconds
from streams.connection import Link
from streams.names import StationKeys

DOWN_AFTER = 60.0
"""Seconds: the heartbeat's time to live in Redis. Nobody still expects that node to be merely late."""
EARLIEST = datetime(2020, 1, 1, tzinfo=UTC)
"""A time before this is a clock that was never set, not a heartbeat 55 years old."""


def heartbeat_time(value: Any) -> datetime | None:
    """The time that a heartbeat gives: RFC 3339, or seconds or milliseconds since 1970.

    None for anything else. Never raises, whatever a node has written.
    """
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if not isinstance(value, (str, int, float)):
        return None
    time = _from_text(str(value).strip())
    return time if time is not None and time >= EARLIEST else None


def _from_text(text: str) -> datetime | None:
    try:
        seconds = float(text)
    except ValueError:
        pass
    else:
        try:
            return datetime.fromtimestamp(seconds / 1000 if seconds > 1e11 else seconds, UTC)
        except (ValueError, OverflowError, OSError):
            return None
    try:
        time = datetime.fromisoformat(text)
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def read_heartbeats(link: Link, keys: StationKeys, nodes: list[str]) -> dict[str, datetime]:
    """The latest heartbeat of each node that has one in Redis. Raises Unreachable."""
    if not nodes:
        return {}
    replies = link.batch([("HGET", keys.node(node), "time") for node in nodes])
    times = {node: heartbeat_time(reply) for node, reply in zip(nodes, replies, strict=True)}
    return {node: time for node, time in times.items() if time is not None}


def read_breakers(link: Link, keys: StationKeys, nodes: list[str]) -> dict[str, BreakerStandings | None]:
    """How each node's breakers stand by its heartbeat; None where that does not say. Raises Unreachable."""
    replies = link.batch([("HGET", keys.node(node), "breakers") for node in nodes]) if nodes else []
    return {node: breaker_standings(reply) for node, reply in zip(nodes, replies, strict=True)}


def breaker_standings(reply: Any) -> BreakerStandings | None:
    """A heartbeat's field `breakers`; None where it says nothing that this version can read."""
    try:
        return msgspec.json.decode(reply, type=BreakerStandings) if isinstance(reply, bytes) else None
    except msgspec.DecodeError:
        return None


def clock_offset(reply: Any) -> float | None:
    """A heartbeat's field `clock`: seconds that its clock is ahead of Redis'; None where it says none."""
    try:
        offset = float(reply) if isinstance(reply, bytes) else math.nan
    except ValueError:
        return None
    return offset if math.isfinite(offset) else None


def keep_heartbeats(connection: Connection, beats: Mapping[str, datetime]) -> None:
    """Keep the heartbeats in Postgres, each unless a later one is there."""
    if not beats:
        return
    put = insert(heartbeats)
    put = put.on_conflict_do_update(
        index_elements=["node"], set_={"at": put.excluded.at}, where=heartbeats.c.at < put.excluded.at
    )
    connection.execute(put, [{"node": node, "at": at} for node, at in sorted(beats.items())])


def kept_heartbeats(connection: Connection) -> dict[str, datetime]:
    """The last heartbeat of each node, as kept in Postgres."""
    return {row.node: row.at for row in connection.execute(select(heartbeats.c.node, heartbeats.c.at))}


def judge(beats: Mapping[str, datetime | None], at: datetime, *, told_by: str = "redis") -> Health:
    """The service's health at `at`: as good as the worst of the nodes that are expected to be alive.

    `beats` holds the last heartbeat of each, None where none was ever seen.
    """
    if not beats:
        return Health(
            status="down",
            healthy=False,
            message="no ingest node was ever seen",
            age_seconds=None,
            last_heartbeat=None,
        )
    node, last = min(beats.items(), key=lambda item: (item[1] or datetime.min.replace(tzinfo=UTC), item[0]))
    age = age_seconds(last, at)
    suffix = "" if told_by == "redis" else " (Redis is away: judged by what Postgres keeps)"
    if age is None:
        status, message = "down", f"no heartbeat of ingest node {node} was ever seen"
    elif age <= STALE_AFTER:
        status, message = "healthy", f"the last heartbeat of every ingest node is at most {age:.1f} s old"
    else:
        status = "stale" if age <= DOWN_AFTER else "down"
        message = f"ingest node {node} was last heard {_ago(age)} ago"
    return Health(
        status=status,  # type: ignore[arg-type]  # one of the three literals above
        healthy=status == "healthy",
        message=message + suffix,
        age_seconds=age,
        last_heartbeat=last,
    )


def doubted(view: SourceView, beat: datetime | None, at: datetime) -> SourceView:
    """The source as it is known at `at`; `beat` is the last heartbeat of its node, None: none was ever seen.

    What a node that is no longer heard said of a source is as old as its last heartbeat, and `trouble`
    says so: it looks neither running nor stopped. A source that is to stay stopped needs no node.
    """
    if view.state == "stopped" and view.desired == "stopped":
        return view
    age = age_seconds(beat or view.updated_at, at)
    if age is None or age <= STALE_AFTER:
        return view
    said = f"was last heard at {beat:%Y-%m-%d %H:%M:%S} UTC" if beat else "was never heard"
    return msgspec.structs.replace(
        view,
        as_of=min(beat or view.updated_at, view.as_of or at),
        trouble=view.trouble or f"ingest node {view.node} {said}",
        level=None,
    )


def _ago(age: float) -> str:
    return f"{age:.0f} s" if age < 600 else str(timedelta(seconds=round(age)))
