"""What the station runs on: lanes, Redis and its Sentinels, nodes, projections."""

from __future__ import annotations

import msgspec

from projections.dashboard import lane_healths
from projections.reads import REDIS_AWAY, Away, Reads
from projections.scrape import Scrape
from projections.screens.nodes import NodeView, read_nodes
from projections.screens.redis_standing import RedisStanding, RedisView
from projections.views import BreakersView, Envelope, Health, LaneHealth, Standing, envelope
from streams.messages import now


class System(msgspec.Struct, frozen=True, kw_only=True):
    """What the station runs on. What cannot be asked now is None."""

    service: Health
    redis: RedisView
    postgres: str
    replicas: int | None
    replicas_wanted: int
    lanes: list[LaneHealth] | None
    nodes: list[NodeView] | None
    breakers: BreakersView
    projections: list[Standing] | None


class Pulse(msgspec.Struct, frozen=True, kw_only=True):
    """How the station is, in short: what every page shows."""

    service: Health
    redis: RedisView


def read_system(reads: Reads, scrape: Scrape, redis: RedisStanding) -> Envelope[System]:
    """What the station runs on now. Never raises: what does not answer is part of what is told."""
    facts, at = scrape.look(), now()
    nodes = None
    if facts.redis is not None:
        try:
            with reads.links.borrow() as link:
                nodes = read_nodes(link, reads.keys, facts.redis.nodes)
        except REDIS_AWAY:
            nodes = None
    try:
        standings = reads.standings()
    except Away:
        standings = None
    data = System(
        service=reads.service(),
        redis=redis.look(away=facts.redis is None),
        postgres="away" if facts.postgres is None else "up",
        replicas=facts.redis.replicas if facts.redis else None,
        replicas_wanted=facts.replicas,
        lanes=lane_healths(facts),
        nodes=nodes,
        breakers=reads.breaker_standings(),
        projections=standings,
    )
    if facts.redis is None:
        return envelope(data, "database", as_of=at, at=at, redis_away=True)
    return envelope(data, "snapshot", as_of=at, at=at)


def read_pulse(reads: Reads, redis: RedisStanding) -> Pulse:
    """How the station is. Never raises."""
    return Pulse(service=reads.service(), redis=redis.look(away=reads.redis_away()))
