"""The station at a glance: what was asked of Redis and Postgres, put together. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import datetime

from projections.health import health_of
from projections.scrape import Facts, LaneFacts
from projections.tables import ARCHIVE
from projections.views import (
    BreakersView,
    Dashboard,
    Envelope,
    Health,
    LaneHealth,
    SourceView,
    Standing,
)


def dashboard(
    facts: Facts, sources: list[SourceView], service: Health, breakers: BreakersView, at: datetime
) -> Dashboard:
    """What `facts` make of the station."""
    beats = _beats(facts)
    known = facts.redis is not None or facts.postgres is not None
    healths = [health_of(source, at, beat=beats.get(source.node), beats_known=known) for source in sources]
    lanes = lane_healths(facts)
    return Dashboard(
        score=min((health.score for health in healths), default=None),
        service=service,
        sources=healths,
        counts=dict(Counter(source.state for source in sources)),
        lanes=lanes,
        breakers=breakers,
        redis="away" if facts.redis is None else "up",
        postgres="away" if facts.postgres is None else "up",
        troubles=_troubles(facts, service, lanes or []),
    )


def _beats(facts: Facts) -> dict[str, datetime]:
    """Each node's last heartbeat, by Redis or else by Postgres."""
    kept = facts.postgres.beats if facts.postgres else {}
    nodes = facts.redis.nodes if facts.redis else {}
    return {**kept, **{name: node.beat for name, node in nodes.items() if node.beat is not None}}


def lane_healths(facts: Facts) -> list[LaneHealth] | None:
    """Each lane as Redis and Postgres know it; None where neither can be asked."""
    if facts.redis is None and facts.postgres is None:
        return None
    in_redis: Mapping[str, LaneFacts] = facts.redis.lanes if facts.redis else {}
    standings: dict[str, list[Standing]] = {}
    for standing in facts.postgres.standings if facts.postgres else ():
        standings.setdefault(standing.lane, []).append(standing)
    return [
        _lane(lane, in_redis.get(lane), standings.get(lane, [])) for lane in sorted({*in_redis, *standings})
    ]


def _lane(lane: str, redis: LaneFacts | None, standings: list[Standing]) -> LaneHealth:
    head = redis.head if redis else None
    folded = min((one.seq for one in standings if one.projection != ARCHIVE), default=None)
    archived = next((one.seq for one in standings if one.projection == ARCHIVE), None)
    return LaneHealth(
        lane=lane,
        owner=redis.owner if redis else None,
        waiting=redis.lengths["commands"] if redis else None,
        parked=redis.lengths["parked"] if redis else None,
        head=head,
        folded=folded,
        behind=_behind(head, folded),
        unarchived=_behind(head, archived),
        trouble=next((f"{one.projection}: {one.trouble}" for one in standings if one.trouble), None),
    )


def _behind(head: int | None, seq: int | None) -> int | None:
    return None if head is None or seq is None else max(0, head - seq)


def _troubles(facts: Facts, service: Health, lanes: list[LaneHealth]) -> list[str]:
    """What somebody should look at, in words."""
    said = [] if service.healthy else [service.message]
    if facts.redis is None:
        said.append("Redis is away: this is the last that was known")
    if facts.postgres is None:
        said.append("Postgres is away")
    for lane in lanes:
        if lane.waiting and lane.owner is None:
            said.append(f"{lane.waiting} commands wait in lane {lane.lane} and nobody executes them")
        if lane.trouble:
            said.append(f"lane {lane.lane} is not followed further: {lane.trouble}")
    return said


def shown(read: Envelope[list[SourceView]], data: Dashboard) -> Envelope[Dashboard]:
    """The dashboard with what the sources it shows say of their age."""
    return Envelope(data=data, source=read.source, age_seconds=read.age_seconds, stale=read.stale)
