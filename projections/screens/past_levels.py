"""The levels of a source over the last hours or days, from what telemetry was rolled up to."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import Connection, func, select

from projections.reads import Reads
from projections.tables import levels
from projections.views import Envelope, envelope
from streams.messages import now

LONGEST_BY_MINUTE = 30.0
"""Hours up to which a minute is told by itself; beyond, an hour."""
MOST_HOURS = 24 * 366.0


class LevelSpan(msgspec.Struct, frozen=True, kw_only=True):
    """A source's level in one span from `at` (UTC) on: dBFS, None for digital silence throughout.

    `rms_dbfs` is the mean, `rms_least` and `rms_most` its extremes, `peak_dbfs` the highest peak;
    `silent` is the share of measurements that were digital silence, from 0 to 1. `loudness_lufs` is that of
    the span by BS.1770's absolute gate alone, `momentary_lufs` and `true_peak_dbtp` are the highest; None
    also where its node did not say.
    """

    at: datetime
    rms_dbfs: float | None
    rms_least: float | None
    rms_most: float | None
    peak_dbfs: float | None
    silent: float
    loudness_lufs: float | None = None
    momentary_lufs: float | None = None
    true_peak_dbtp: float | None = None


class PastLevels(msgspec.Struct, frozen=True, kw_only=True):
    """Spans of `span` seconds, oldest first; where nothing was measured there is none."""

    span: int
    since: datetime
    until: datetime
    levels: list[LevelSpan]


def past_levels(reads: Reads, source: str, hours: float) -> Envelope[PastLevels]:
    """What the source's level was in the last `hours`. Raises Away."""
    span = 60 if hours <= LONGEST_BY_MINUTE else 3600
    until = now()
    since = until - timedelta(hours=hours)
    # A source that was moved may have rows of two lanes for the same span.
    wanted = (
        select(
            levels.c.at,
            func.sum(levels.c.power),
            func.sum(levels.c.count),
            func.min(levels.c.rms_least),
            func.max(levels.c.rms_most),
            func.max(levels.c.peak),
            func.sum(levels.c.silent),
            func.sum(levels.c.loudness),
            func.sum(levels.c.loud),
            func.max(levels.c.momentary_most),
            func.max(levels.c.true_peak),
        )
        .where(levels.c.source == source, levels.c.span == span, levels.c.at >= since)
        .group_by(levels.c.at)
        .order_by(levels.c.at)
    )

    def ask(connection: Connection) -> list[LevelSpan]:
        return [
            LevelSpan(
                at=at,
                rms_dbfs=_decibels(power, count),
                rms_least=least,
                rms_most=most,
                peak_dbfs=peak,
                silent=round(float(silent / count), 4) if count else 0.0,
                loudness_lufs=_decibels(loudness, loud),
                momentary_lufs=momentary,
                true_peak_dbtp=true_peak,
            )
            for (
                at,
                power,
                count,
                least,
                most,
                peak,
                silent,
                loudness,
                loud,
                momentary,
                true_peak,
            ) in connection.execute(wanted)
        ]

    found = reads.database(ask)
    data = PastLevels(span=span, since=since, until=until, levels=found)
    return envelope(data, "database", as_of=until, at=until)


def _decibels(power: float, count: Any) -> float | None:
    """The mean of so many powers; None where there is none."""
    return round(10 * math.log10(power / float(count)), 2) if power > 0 and count else None
