"""`GET /metrics`: the station in Prometheus' words, made at each scrape from what the servers say.

Names and labels are a contract. Every label is from a list that does not grow by itself: lanes, nodes
and sources as they are set up, types and states as they are defined.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from itertools import accumulate, product
from typing import Any, Protocol, get_args

from litestar import Request, Response, get
from litestar.handlers import HTTPRouteHandler
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from projections.decoding import decoding
from projections.folds.totals import BOUNDS, OTHER, TYPES, TotalRow
from projections.lanes import nodes_of
from projections.notify.outbox import STATES
from projections.projection import ALL
from projections.scrape import Facts, PostgresFacts, RedisFacts
from projections.tables import ARCHIVE
from projections.verdicts import BROKEN
from projections.views import BreakerStandings, Envelope, SourceView, age_seconds
from streams.breaker import Dependency
from streams.messages import OUTCOMES, now
from streams.names import node_lane
from streams.vocabulary import SourceState

FORGOTTEN_AFTER = timedelta(days=1)
"""After the last heartbeat of a node to which no source is wired."""
BREAKERS = {"closed": 0, "half_open": 1, "open": 2}


class Looking(Protocol):
    """What asks the servers."""

    def look(self) -> Facts:
        """The facts now."""


def metrics_route(scrape: Looking) -> HTTPRouteHandler:
    """The route `/metrics`, in the format that the scraper asks for."""

    @get("/metrics", sync_to_thread=True, include_in_schema=False)
    def metrics(request: Request[Any, Any, Any]) -> Response[bytes]:
        encode, media_type = choose_encoder(request.headers.get("accept", ""))
        body = encode(Told(list(families(scrape.look(), now()))))
        return Response(body, media_type=media_type, headers={"Cache-Control": "no-store"})

    return metrics


class Told(Collector):
    """Metrics as the encoders want them."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        """All of them."""
        return self._metrics


def families(facts: Facts, at: datetime) -> Iterator[Metric]:
    """All families; one whose facts nobody could be asked for has no samples, never old or zero ones."""
    redis, postgres = facts.redis, facts.postgres
    up = _gauge("up", "Whether the dependency could be asked for this scrape (1) or not (0).", "dependency")
    up.add_metric(["redis"], float(redis is not None))
    up.add_metric(["postgres"], float(postgres is not None))
    yield up
    yield from _commands(postgres)
    yield _heartbeats(facts, at)
    yield from _lanes(redis, at)
    yield from _projections(redis, postgres, at)
    yield _notifications(postgres, facts.targets)
    yield _breakers(facts.breakers)
    yield from _sources(facts.sources)
    yield from decoding(postgres)
    yield from _replicas(redis, facts.replicas)
    yield from _disks(redis)
    yield from _clocks(redis)


def _gauge(name: str, about: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"tocsin_{name}", about, labels=labels)


def _commands(postgres: PostgresFacts | None) -> Iterator[Metric]:
    count = CounterMetricFamily(
        "tocsin_commands",
        "Results of commands; types that are not known count as other.",
        labels=("type", "outcome"),
    )
    duration = HistogramMetricFamily(
        "tocsin_command_duration_seconds",
        "From a command's receipt to its result, where both are known.",
        labels=("type",),
    )
    if postgres is not None:
        # Zeros too: a counter that appears with its first value has not risen, as Prometheus sees it.
        for type in sorted({*TYPES, OTHER}):
            rows = [row for row in postgres.totals if row.type == type]
            for outcome in OUTCOMES:
                count.add_metric([type, outcome], sum(row.count for row in rows if row.outcome == outcome))
            duration.add_metric([type], _buckets(rows), sum(row.microseconds for row in rows) / 1e6)
    yield count
    yield duration


def _buckets(rows: list[TotalRow]) -> list[tuple[str, float]]:
    """The rows' buckets, each with those before it counted in, as Prometheus wants them."""
    each = [sum(row.buckets[n] for row in rows) for n in range(len(BOUNDS) + 1)]
    return list(zip([*map(str, BOUNDS), "+Inf"], accumulate(each), strict=True))


def _heartbeats(facts: Facts, at: datetime) -> Metric:
    ages = _gauge(
        "audio_service_heartbeat_age_seconds",
        "Since the ingest node's last heartbeat; +Inf where none is known of a node that has sources.",
        "node",
    )
    beats: dict[str, datetime] = dict(facts.postgres.beats) if facts.postgres else {}
    if facts.redis is not None:
        expected = set(facts.redis.expected)
        for node, said in facts.redis.nodes.items():
            if said.beat is not None:
                beats[node] = said.beat
    else:
        expected = set(nodes_of([view.lane for view in facts.sources.data] if facts.sources else []))
    late = {node for node, beat in beats.items() if at - beat > FORGOTTEN_AFTER}
    for node in sorted(expected | (beats.keys() - late)):
        age = age_seconds(beats.get(node), at)
        ages.add_metric([node], math.inf if age is None else age)
    return ages


def _lanes(redis: RedisFacts | None, at: datetime) -> Iterator[Metric]:
    length = _gauge("stream_length", "Entries in the lane's stream.", "lane", "stream")
    lag = _gauge("stream_lag", "Commands that nobody has taken yet.", "lane")
    pending = _gauge("stream_pending", "Commands that were taken and have no result yet.", "lane")
    oldest = _gauge(
        "stream_oldest_pending_seconds",
        "Since the oldest command came that was taken and has no result; 0 where there is none.",
        "lane",
    )
    waiting = _gauge(
        "stream_oldest_waiting_seconds",
        "Since the oldest command came that nobody has taken; 0 where none waits.",
        "lane",
    )
    owned = _gauge("lane_owned", "Whether somebody holds the lane's lease.", "lane")
    parked = _gauge("parked", "Commands set aside that wait for somebody's decision.", "lane")
    unused = _unused(redis) if redis else set()
    for lane, facts in redis.lanes.items() if redis else ():
        for stream, entries in facts.lengths.items():
            length.add_metric([lane, stream], entries)
        lag.add_metric([lane], facts.lag)
        pending.add_metric([lane], facts.pending)
        oldest.add_metric([lane], _since(facts.oldest_pending, at))
        waiting.add_metric([lane], _since(facts.oldest_waiting, at))
        if facts.owner or lane not in unused:
            owned.add_metric([lane], float(facts.owner is not None))
        parked.add_metric([lane], facts.lengths["parked"])
    yield from (length, lag, pending, oldest, waiting, owned, parked)


def _since(moment: float | None, at: datetime) -> float:
    return 0.0 if moment is None else max(0.0, at.timestamp() - moment)


def _unused(redis: RedisFacts) -> set[str]:
    """The lanes of machines to which nothing is wired: nobody need own them."""
    used = {node_lane(node) for node in redis.expected}
    return {
        lane
        for lane, facts in redis.lanes.items()
        if lane.startswith(node_lane("")) and lane not in used and not facts.lengths["commands"]
    }


def _projections(redis: RedisFacts | None, postgres: PostgresFacts | None, at: datetime) -> Iterator[Metric]:
    labels = ("projection", "lane")
    lag = _gauge("projection_lag_events", "Events in the lane's log that are not folded yet.", *labels)
    age = _gauge(
        "projection_age_seconds", "Since the projection was last known to have the whole log.", *labels
    )
    trouble = _gauge(
        "projection_trouble", "Whether the projection stands still (1); /readyz says why.", *labels
    )
    failed = _gauge(
        "verify_failed",
        "Whether the lane's log is not sound, or does not join on to what was folded: altered, rolled back.",
        "lane",
    )
    verified = _gauge(
        "verified_age_seconds",
        "Since the lane was last verified from its first event on; +Inf before the first time.",
        "lane",
    )
    if postgres is not None:
        stands = {(one.projection, one.lane): one for one in postgres.standings}
        broken: dict[str, bool] = defaultdict(bool)
        for key, one in sorted(stands.items()):
            if (since := age_seconds(one.checked_at, at)) is not None:
                age.add_metric(key, since)
            trouble.add_metric(key, float(one.trouble is not None))
            broken[one.lane] |= (one.trouble or "").startswith(BROKEN)
        for lane, is_broken in sorted(broken.items()):
            verdict = postgres.verdicts.get(lane)
            failed.add_metric([lane], float(is_broken or bool(verdict and verdict.wrong)))
            since = age_seconds(verdict.whole_at if verdict else None, at)
            verified.add_metric([lane], math.inf if since is None else since)
        for lane, facts in redis.lanes.items() if redis else ():
            for name in (*(projection.name for projection in ALL), ARCHIVE):
                folded = stands[name, lane].seq if (name, lane) in stands else 0
                lag.add_metric([name, lane], max(0, facts.head - folded))
    yield from (lag, age, trouble, failed, verified)


def _notifications(postgres: PostgresFacts | None, targets: Sequence[str]) -> Metric:
    counts = _gauge(
        "notifications",
        "Notifications by target and state; of perhaps nobody knows whether they went out. Kept for 90 days.",
        "target",
        "state",
    )
    if postgres is not None:
        for target, state in product(targets, STATES):
            counts.add_metric([target, state.replace(" ", "_")], postgres.told.get((target, state), 0))
    return counts


def _breakers(standings: list[BreakerStandings]) -> Metric:
    state = _gauge(
        "breaker_state",
        "The worst of the breakers around the dependency: 0 closed, 1 half-open, 2 open.",
        "dependency",
    )
    for dependency in get_args(Dependency):
        said = [BREAKERS[one[dependency].state] for one in standings if dependency in one]
        state.add_metric([dependency], max(said, default=0))
    return state


def _sources(read: Envelope[list[SourceView]] | None) -> Iterator[Metric]:
    age = _gauge("sources_age_seconds", "Since the sources were last known to be as they are told here.")
    state = _gauge(
        "source_state", "1 for the state that the source is in, 0 for the others.", "source", "state"
    )
    level = _gauge(
        "source_level_dbfs",
        "Level re full scale, kind rms, peak or true_peak; -Inf is digital silence, no sample: not measured.",
        "source",
        "kind",
    )
    loudness = _gauge(
        "source_loudness_lufs", "Short-term loudness (3 s) by EBU R 128; -Inf is silence.", "source"
    )
    clipped = _gauge("source_clipped_samples", "Clipped samples since the source was opened.", "source")
    dropped = _gauge(
        "source_dropped_seconds", "Audio thrown away since the source was opened, in seconds.", "source"
    )
    if read is not None:
        if read.age_seconds is not None:
            age.add_metric([], read.age_seconds)
        for view in read.data:
            # Of a source whose node is gone nobody knows the state; the heartbeat's age says why.
            for name in get_args(SourceState) if not view.trouble else ():
                state.add_metric([view.id, name], float(view.state == name))
            # What was measured a minute ago says nothing of now.
            if view.level is not None and not read.stale:
                level.add_metric([view.id, "rms"], _dbfs(view.level.rms_dbfs))
                level.add_metric([view.id, "peak"], _dbfs(view.level.peak_dbfs))
                if (meters := view.level.meters) is not None:
                    level.add_metric([view.id, "true_peak"], _dbfs(meters.true_peak_dbtp))
                    loudness.add_metric([view.id], _dbfs(meters.short_term_lufs))
                    clipped.add_metric([view.id], meters.clipped)
                    dropped.add_metric([view.id], meters.dropped_seconds)
    yield from (age, state, level, loudness, clipped, dropped)


def _dbfs(value: float | None) -> float:
    return -math.inf if value is None else value


def _replicas(redis: RedisFacts | None, configured: int) -> Iterator[Metric]:
    connected = _gauge(
        "replicas_connected",
        "Replicas in step with the primary (of a cluster: with the one that has fewest).",
    )
    if redis is not None:
        connected.add_metric([], redis.replicas)
    wanted = _gauge("replicas_configured", "Replicas that each primary should have.")
    wanted.add_metric([], configured)
    yield from (connected, wanted)


def _clocks(redis: RedisFacts | None) -> Iterator[Metric]:
    ahead = _gauge("node_clock_offset_seconds", "How far the node's clock is ahead of Redis'.", "node")
    for node, said in sorted(redis.nodes.items()) if redis else ():
        if said.clock is not None:
            ahead.add_metric([node], said.clock)
    yield ahead


def _disks(redis: RedisFacts | None) -> Iterator[Metric]:
    free = _gauge("disk_free_bytes", "Free on the disk of the node's folder, for ordinary users.", "node")
    size = _gauge("disk_size_bytes", "Size of the disk of the node's folder.", "node")
    for node, said in redis.nodes.items() if redis else ():
        if said.disk is not None:
            free.add_metric([node], said.disk.free)
            size.add_metric([node], said.disk.size)
    yield from (free, size)
