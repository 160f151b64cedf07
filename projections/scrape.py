"""What a scrape asks: everything that Redis and Postgres say of the station at this moment.

Nothing is counted in the process that answers, so it does not matter which of several that is, or
whether it was started a minute ago. Redis gets a handful of round trips whatever the number of lanes.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
from redis.exceptions import ResponseError
from sqlalchemy import Connection, select
from sqlalchemy.exc import SQLAlchemyError

from projections.database import is_away, open_engine
from projections.folds.decoders import DecoderRow
from projections.folds.totals import TotalRow
from projections.heartbeats import breaker_standings, clock_offset, heartbeat_time, kept_heartbeats
from projections.lanes import claimed_lanes, nodes_of, settled_lanes
from projections.links import Links
from projections.notify import outbox
from projections.reads import REDIS_AWAY, Away, Reads
from projections.rows import columns, structs
from projections.standby import ANSWER_WITHIN
from projections.tables import decoders, positions, totals
from projections.verdicts import Verdict
from projections.verdicts import kept as kept_verdicts
from projections.views import BreakerStandings, Envelope, SourceView, Standing
from streams.breaker import Breakers
from streams.breaker_notes import told
from streams.connection import Link, connect
from streams.names import STATION_LANE, StationKeys
from streams.settings import Settings

GROUP = "ingest"
HEARD_WITHIN = 10
"""Seconds within which a replica acknowledged something, as it does every second; else it hangs."""
CONNECTIONS = 2
"""To Postgres: a scrape that hangs does not keep the next one from trying."""


class LaneFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A lane in Redis. `owner` is the node or process that holds it now.

    `oldest_pending` is when the oldest command came that was taken and has no result, `oldest_waiting`
    when the oldest came that nobody has taken: seconds since 1970. `taken` is the last that was taken.
    """

    lengths: dict[str, int]
    lag: int
    pending: int
    taken: str
    oldest_pending: float | None
    oldest_waiting: float | None = None
    head: int
    owner: str | None


class Disk(msgspec.Struct, frozen=True, kw_only=True):
    """The file system of a node's folder, in bytes."""

    free: int
    size: int


class NodeFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a node's heartbeat says."""

    beat: datetime | None
    breakers: BreakerStandings | None
    disk: Disk | None
    clock: float | None = None
    """Seconds that its clock is ahead of the server's."""


class RedisFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What Redis says. `replicas` are those of the primary that has fewest, `expected` the nodes that
    must be alive because sources are wired to them."""

    lanes: dict[str, LaneFacts]
    nodes: dict[str, NodeFacts]
    expected: list[str]
    replicas: int


class PostgresFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What Postgres says. `told` counts notifications by target and state."""

    totals: list[TotalRow]
    standings: list[Standing]
    beats: dict[str, datetime]
    verdicts: dict[str, Verdict] = {}
    told: dict[tuple[str, str], int] = {}
    decoders: list[DecoderRow] = []


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a scrape is made of; None stands for what nobody could be asked for."""

    redis: RedisFacts | None
    postgres: PostgresFacts | None
    sources: Envelope[list[SourceView]] | None
    breakers: list[BreakerStandings]
    replicas: int
    targets: tuple[str, ...] = ()


class Scrape:
    """Asks for the facts. Any number of threads may `look` at once."""

    def __init__(self, settings: Settings, reads: Reads, notes: Path | None = None) -> None:
        self._settings = settings
        self._reads = reads
        self._notes = notes
        self._keys = StationKeys(settings.station.id)
        self._links = Links(lambda: connect(settings.redis, "metrics"), reads.breakers.redis)
        # The primary alone: a counter read at a standby that is behind would seem to go backwards.
        self._engine = open_engine(
            settings.postgres,
            name="metrics",
            connections=CONNECTIONS,
            answer_within=ANSWER_WITHIN,
            queue_within=ANSWER_WITHIN,
        )

    def look(self) -> Facts:
        """The facts now; what cannot be asked is missing, and costs seconds only while that is new."""
        redis = self._redis()
        postgres = self._postgres(self._reads.breakers)
        sources = None
        if redis is not None or postgres is not None:
            with suppress(Away):
                sources = self._reads.sources()
        return Facts(
            redis=redis,
            postgres=postgres,
            sources=sources,
            breakers=self._breakers(redis),
            replicas=self._settings.redis.replicas,
            targets=tuple(target.name for target in self._settings.notify.targets),
        )

    def close(self) -> None:
        """Close all connections."""
        self._links.close()
        self._engine.dispose()

    def _breakers(self, redis: RedisFacts | None) -> list[BreakerStandings]:
        """Those of this process, those that others of this host noted, and those in heartbeats."""
        found = [self._reads.breakers.standings()]
        if self._notes is not None:
            found += told(self._notes).values()
        nodes = redis.nodes.values() if redis else ()
        return [*found, *(node.breakers for node in nodes if node.breakers)]

    def _redis(self) -> RedisFacts | None:
        try:
            with self._links.borrow() as link:
                claimed = claimed_lanes(link, self._keys)
                lanes = self._lanes(link, sorted({*settled_lanes(self._settings), *claimed}))
                expected = nodes_of(claimed)
                lanes = self._waiting(link, lanes)
                owners = {
                    facts.owner for lane, facts in lanes.items() if lane != STATION_LANE and facts.owner
                }
                nodes = sorted({*expected, *owners, self._settings.ingest.node})
                return RedisFacts(
                    lanes=lanes,
                    nodes=self._nodes(link, nodes),
                    expected=expected,
                    replicas=min(
                        in_step(primary.call("INFO", "replication").decode()) for primary in link.primaries()
                    ),
                )
        except REDIS_AWAY:
            return None

    def _lanes(self, link: Link, names: list[str]) -> dict[str, LaneFacts]:
        questions = [question for name in names for question in self._of_lane(name)]
        replies = link.batch(questions)
        each = len(questions) // len(names)
        return {name: _lane(replies[each * n : each * (n + 1)]) for n, name in enumerate(names)}

    def _waiting(self, link: Link, lanes: dict[str, LaneFacts]) -> dict[str, LaneFacts]:
        """The lanes, with when the oldest command came that waits in each."""
        behind = [name for name, facts in lanes.items() if facts.lag]
        asked = [
            ("XRANGE", self._keys.lane(name).commands, f"({lanes[name].taken}", "+", "COUNT", 1)
            for name in behind
        ]
        found = dict(lanes)
        for name, reply in zip(behind, link.batch(asked) if asked else [], strict=True):
            if reply and not isinstance(reply, ResponseError):
                found[name] = msgspec.structs.replace(lanes[name], oldest_waiting=_came(reply[0][0]))
        return found

    def _of_lane(self, name: str) -> list[tuple[Any, ...]]:
        keys = self._keys.lane(name)
        return [
            ("XLEN", keys.commands),
            ("XLEN", keys.events),
            ("XLEN", keys.telemetry),
            ("XLEN", keys.parked),
            ("XINFO", "GROUPS", keys.commands),
            ("XPENDING", keys.commands, GROUP, "-", "+", 1),
            ("HGET", keys.head, "seq"),
            ("GET", keys.lease),
        ]

    def _nodes(self, link: Link, names: list[str]) -> dict[str, NodeFacts]:
        replies = link.batch(
            [("HMGET", self._keys.node(name), "time", "breakers", "disk", "clock") for name in names]
        )
        return {name: _node(reply) for name, reply in zip(names, replies, strict=True)}

    def _postgres(self, breakers: Breakers) -> PostgresFacts | None:
        # The breaker is heeded but told nothing: it is about whether reads can be answered, by a
        # standby too, and has a lookout of its own.
        if breakers.postgres.standing().state == "open":
            return None
        try:
            with self._engine.connect() as connection:
                return _kept(connection)
        except SQLAlchemyError as error:
            if is_away(error) or _without_tables(error):
                return None
            raise


def _kept(connection: Connection) -> PostgresFacts:
    counted = connection.execute(select(*columns(totals, TotalRow)))
    listening = connection.execute(select(*columns(decoders, DecoderRow)))
    stand = connection.execute(select(*columns(positions, Standing)))
    return PostgresFacts(
        totals=structs(totals, TotalRow, list(counted)),
        standings=structs(positions, Standing, list(stand)),
        beats=kept_heartbeats(connection),
        verdicts=kept_verdicts(connection),
        told=outbox.counts(connection),
        decoders=structs(decoders, DecoderRow, list(listening)),
    )


def _without_tables(error: SQLAlchemyError) -> bool:
    """Whether the projections of this version have not started yet."""
    return getattr(getattr(error, "orig", None), "sqlstate", None) == "42P01"


def _lane(replies: Sequence[Any]) -> LaneFacts:
    *lengths, groups, first, seq, lease = replies
    for reply in (*lengths, seq, lease):
        if isinstance(reply, ResponseError):
            raise reply
    commands, events, telemetry, parked = lengths
    group = _group(groups)
    pending = 0 if group is None else int(group[b"pending"])
    # A server that cannot tell the lag says nil; what was settled is deleted, so what is left is told apart.
    lag = None if group is None else group.get(b"lag")
    return LaneFacts(
        lengths={"commands": commands, "events": events, "telemetry": telemetry, "parked": parked},
        lag=max(0, commands - pending) if lag is None else int(lag),
        pending=pending,
        taken="0-0" if group is None else group[b"last-delivered-id"].decode(),
        oldest_pending=None if isinstance(first, ResponseError) or not first else _came(first[0][0]),
        head=int(seq or 0),
        owner=lease.split(b" ")[0].decode("utf-8", "replace") if lease else None,
    )


def _group(reply: Any) -> dict[bytes, Any] | None:
    """The consumer group of commands; None where there is none yet, or no stream."""
    if isinstance(reply, ResponseError):
        return None
    found = (dict(zip(group[::2], group[1::2], strict=True)) for group in reply)
    return next((group for group in found if group[b"name"] == GROUP.encode()), None)


def _came(entry: bytes) -> float:
    return int(entry.split(b"-")[0]) / 1000


def _node(reply: Any) -> NodeFacts:
    if isinstance(reply, ResponseError):
        raise reply
    beat, breakers, disk, clock = reply
    return NodeFacts(
        beat=heartbeat_time(beat),
        breakers=breaker_standings(breakers),
        disk=_disk(disk),
        clock=clock_offset(clock),
    )


def _disk(raw: Any) -> Disk | None:
    try:
        return msgspec.json.decode(raw, type=Disk) if isinstance(raw, bytes) else None
    except msgspec.DecodeError:
        return None


def in_step(info: str) -> int:
    """How many replicas are in step with a primary, by its INFO."""
    lines = (
        line.partition(":")[2] for line in info.splitlines() if line.startswith("slave") and ":ip=" in line
    )
    said = (dict(part.split("=", 1) for part in line.split(",") if "=" in part) for line in lines)
    return sum(one.get("state") == "online" and int(one.get("lag", 0)) <= HEARD_WITHIN for one in said)
