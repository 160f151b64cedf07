"""What readers are given: sources, commands, and the envelope around every read."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Generic, Literal, TypeVar

import msgspec

STALE_AFTER = 15.0
"""Seconds."""

Data = TypeVar("Data")


class LevelView(msgspec.Struct, frozen=True, kw_only=True):
    """A source's latest level: dBFS re full scale, None for digital silence (−∞).

    `seconds` of audio were read since the source started.
    """

    at: datetime
    rms_dbfs: float | None
    peak_dbfs: float | None
    seconds: float


class SourceView(msgspec.Struct, frozen=True, kw_only=True):
    """A source as readers see it. Times are UTC, `rate` is in Hz.

    `as_of` is the moment for which this is known to be so. `level` is None when there is none
    (digital silence is a level). `trouble` says why the lane's events cannot be followed now.
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
    since: datetime
    updated_at: datetime
    seq: int
    hash: str
    as_of: datetime | None = None
    trouble: str | None = None
    level: LevelView | None = None


class CommandView(msgspec.Struct, frozen=True, kw_only=True):
    """A command and what became of it; `seq` is its result event in `lane`. Times are UTC."""

    id: str
    lane: str
    source: str
    type: str
    key: str
    sequence: int
    outcome: str
    state: str | None
    reason: str | None
    field: str | None
    by: str | None
    detail: str | None
    issued_at: datetime | None
    received_at: datetime | None
    finished_at: datetime
    seq: int


class Envelope(msgspec.Struct, Generic[Data], frozen=True, kw_only=True):
    """A read: the data, where they come from, and for how long they have been unconfirmed.

    `age_seconds` is None where nobody knows; `stale` when it is above 15 s or unknown, or when
    Redis is away.
    """

    data: Data
    source: Literal["snapshot", "database"]
    age_seconds: float | None
    stale: bool


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the audio service is alive, judged by its heartbeats."""

    status: Literal["healthy", "stale", "down", "error"]
    healthy: bool
    message: str
    age_seconds: float | None
    last_heartbeat: datetime | None


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
