"""What readers are given: sources, commands, and the envelope around every read."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Generic, Literal, TypeVar

import msgspec

from projections.folds.commands import CommandRow
from streams import breaker
from streams.breaker import Dependency
from streams.readings import Meters

STALE_AFTER = 15.0
"""Seconds."""

Data = TypeVar("Data")


class LevelView(msgspec.Struct, frozen=True, kw_only=True):
    """A source's latest level: dBFS re full scale, None for digital silence (−∞).

    `seconds` of audio were read since the source started, `decoded` of them went through the decoder of
    alerts (None: nobody listens). `meters` are the other meters (None: its node has none), `spectrum` the
    level of each band while somebody looks, `title` what is played by the stream's own word.
    """

    at: datetime
    rms_dbfs: float | None
    peak_dbfs: float | None
    seconds: float
    decoded: float | None = None
    meters: Meters | None = None
    spectrum: list[int] | None = None
    title: str | None = None


class DecoderView(msgspec.Struct, frozen=True, kw_only=True):
    """What a source's decoder has heard: the last burst, the last weekly test. Times are UTC.

    `since` is when the source was last started that had been stopped; None while it should not run.
    """

    since: datetime | None = None
    bursts: int = 0
    last_burst_at: datetime | None = None
    last_test_at: datetime | None = None


class SourceView(msgspec.Struct, frozen=True, kw_only=True):
    """A source as readers see it. Times are UTC, `rate` is in Hz, `recorded` is alerts or always.

    `as_of` is the moment for which this is known to be so. `level` is None when there is none
    (digital silence is a level), `decoder` tells what it has heard. `trouble` says why nobody knows what it
    does now: its lane's events cannot be followed, or its ingest node is not heard.
    """

    id: str
    lane: str
    node: str
    kind: str
    name: str
    settings: dict[str, Any]
    desired: str
    state: str
    reason: str | None
    rate: int | None
    channels: int | None
    recorded: str = "alerts"
    since: datetime
    updated_at: datetime
    seq: int
    hash: str
    as_of: datetime | None = None
    trouble: str | None = None
    level: LevelView | None = None
    decoder: DecoderView | None = None


class CommandView(CommandRow, frozen=True, kw_only=True):
    """A command and what became of it, with its lane."""

    lane: str


class Envelope(msgspec.Struct, Generic[Data], frozen=True, kw_only=True):
    """A read: the data, where they come from, and for how long they have been unconfirmed.

    `age_seconds` is None where nobody knows; `stale` when it is above 15 s or unknown, or when
    Redis is away.
    """

    data: Data
    source: Literal["snapshot", "database"]
    age_seconds: float | None
    stale: bool


class EventView(msgspec.Struct, frozen=True, kw_only=True):
    """An event as it stands in the log of `lane`. Times are UTC; `hash` is of its bytes, in hex."""

    lane: str
    seq: int
    prev: str
    hash: str
    token: int
    at: datetime
    logged_at: datetime
    node: str
    type: str
    source: str
    command: str | None
    data: dict[str, Any]
    schema: int


class EventPage(msgspec.Struct, frozen=True, kw_only=True):
    """Events of one lane, oldest first. The next page is that after `next`.

    `more`: more of the lane is known now than was looked at for this page.
    """

    events: list[EventView]
    next: int
    more: bool


class SourceLevel(msgspec.Struct, frozen=True, kw_only=True):
    """A source's latest level and its age; no `level` where none is known to be of now.

    `reason` says why there is none, or why it is `stale`.
    """

    id: str
    state: str
    level: LevelView | None
    age_seconds: float | None
    stale: bool
    reason: str | None


class Reason(msgspec.Struct, frozen=True):
    """Something that takes `points` off a score of 100."""

    code: str
    points: int
    message: str


class SourceHealth(msgspec.Struct, frozen=True, kw_only=True):
    """How well a source is: `score` from 0 to 100, and everything that took from it, worst first."""

    id: str
    name: str
    lane: str
    node: str
    kind: str
    desired: str
    state: str
    score: int
    reasons: list[Reason]
    level: LevelView | None


class LaneHealth(msgspec.Struct, frozen=True, kw_only=True):
    """How a lane stands. What Redis or Postgres would know is None while they cannot be asked.

    `waiting` commands have no result yet; `owner` executes them. `behind` are the events that the
    slowest projection has not folded, `unarchived` those that are not in the archive.
    """

    lane: str
    owner: str | None
    waiting: int | None
    parked: int | None
    head: int | None
    folded: int | None
    behind: int | None
    unarchived: int | None
    trouble: str | None


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the audio service is alive, judged by its heartbeats."""

    status: Literal["healthy", "stale", "down", "error"]
    healthy: bool
    message: str
    age_seconds: float | None
    last_heartbeat: datetime | None


BreakerStandings = dict[Dependency, breaker.Standing]


class BreakersView(msgspec.Struct, frozen=True, kw_only=True):
    """How breakers stand: those of the web process, and those of each ingest node.

    A node is None where its heartbeat does not say; `nodes` is None where Redis cannot be asked.
    """

    web: BreakerStandings
    nodes: dict[str, BreakerStandings | None] | None


class Dashboard(msgspec.Struct, frozen=True, kw_only=True):
    """The station at a glance: `score` is that of its worst source (None where there are none).

    `lanes` is None where neither Redis nor Postgres can be asked for them; `troubles` are in words.
    """

    score: int | None
    service: Health
    sources: list[SourceHealth]
    counts: dict[str, int]
    lanes: list[LaneHealth] | None
    breakers: BreakersView
    redis: Literal["up", "away"]
    postgres: Literal["up", "away"]
    troubles: list[str]


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """Where a projection stands in a lane; `trouble` is why it cannot go on."""

    projection: str
    lane: str
    seq: int
    updated_at: datetime
    checked_at: datetime | None
    trouble: str | None


class Readiness(msgspec.Struct, frozen=True, kw_only=True):
    """Whether reads can be answered, and from what."""

    ready: bool
    redis: str
    postgres: str
    troubled: list[Standing]


def envelope(
    data: Data,
    source: Literal["snapshot", "database"],
    *,
    as_of: datetime | None,
    at: datetime,
    redis_away: bool = False,
) -> Envelope[Data]:
    """Wrap `data` that were so at `as_of` (None: nobody knows when), read at `at`."""
    age = age_seconds(as_of, at)
    stale = redis_away or age is None or age > STALE_AFTER
    return Envelope(data=data, source=source, age_seconds=age, stale=stale)


def age_seconds(then: datetime | None, at: datetime) -> float | None:
    """Seconds from `then` to `at`, never negative: clocks of two machines differ a little."""
    return None if then is None else round(max(0.0, (at - then) / timedelta(seconds=1)), 3)
