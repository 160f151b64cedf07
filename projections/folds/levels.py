"""Roll-ups of levels by minute and by hour: what telemetry says, made small enough to keep.

Telemetry is no part of the audit and has no seq. What makes these exactly once is the stream id
that is kept beside them: see `projections.rollups`.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime

import msgspec

from streams.messages import Level

SPANS = (60, 3600)
"""Seconds that one row covers."""


class RollUp(msgspec.Struct, frozen=True, kw_only=True):
    """The levels of a source in one span, which begins at `at`. Levels in dBFS, None for silence (−∞).

    `power` is the sum over all measurements of the mean square, full scale being 1: divided by `count`
    and put into decibels it is the mean level. `rms_least` and `rms_most` are the extremes, `peak`
    the highest peak. `silent` counts measurements of digital silence.

    `loudness` is the sum of the momentary loudness of the `loud` measurements that BS.1770's absolute gate
    lets pass, as power; `momentary_most` (LUFS) and `true_peak` (dBTP) are the highest.
    """

    source: str
    span: int
    at: datetime
    count: int
    power: float
    rms_least: float | None
    rms_most: float | None
    peak: float | None
    silent: int
    loudness: float = 0.0
    loud: int = 0
    momentary_most: float | None = None
    true_peak: float | None = None


GATE = -70.0
"""LUFS: what is not above is no part of a loudness (BS.1770-5)."""

Key = tuple[str, int, datetime]
"""Source, span and beginning."""


def concerns(level: Level, span: int) -> Key:
    """The row that `level` is part of."""
    second = int(level.at.timestamp())
    return level.source, span, datetime.fromtimestamp(second - second % span, UTC)


def fold(row: RollUp | None, level: Level, span: int) -> RollUp:
    """The row after one more measurement."""
    source, span, at = concerns(level, span)
    silent = level.rms_dbfs is None
    power = 0.0 if level.rms_dbfs is None else 10 ** (level.rms_dbfs / 10)
    meters = level.readings
    momentary = None if meters is None else meters.momentary_lufs
    loud = momentary is not None and momentary > GATE
    loudness = 10 ** (momentary / 10) if momentary is not None and loud else 0.0
    true_peak = None if meters is None else meters.true_peak_dbtp
    if row is None:
        return RollUp(
            source=source,
            span=span,
            at=at,
            count=1,
            power=power,
            rms_least=level.rms_dbfs,
            rms_most=level.rms_dbfs,
            peak=level.peak_dbfs,
            silent=int(silent),
            loudness=loudness,
            loud=int(loud),
            momentary_most=momentary,
            true_peak=true_peak,
        )
    return RollUp(
        source=source,
        span=span,
        at=at,
        count=row.count + 1,
        power=row.power + power,
        rms_least=_least(row.rms_least, level.rms_dbfs),
        rms_most=_most(row.rms_most, level.rms_dbfs),
        peak=_most(row.peak, level.peak_dbfs),
        silent=row.silent + silent,
        loudness=row.loudness + loudness,
        loud=row.loud + loud,
        momentary_most=_most(row.momentary_most, momentary),
        true_peak=_most(row.true_peak, true_peak),
    )


def fold_all(rows: dict[Key, RollUp], levels: list[Level]) -> dict[Key, RollUp]:
    """The rows by key after `levels`, of every span."""
    after = dict(rows)
    for level in levels:
        for span in SPANS:
            key = concerns(level, span)
            after[key] = fold(after.get(key), level, span)
    return after


def mean(row: RollUp) -> float | None:
    """The mean level in dBFS; None for digital silence throughout."""
    return 10 * math.log10(row.power / row.count) if row.power > 0 else None


def loudness(row: RollUp) -> float | None:
    """The loudness in LUFS, by the absolute gate alone; None where nothing passed it."""
    return 10 * math.log10(row.loudness / row.loud) if row.loud and row.loudness > 0 else None


def _least(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else min(one, other)


def _most(one: float | None, other: float | None) -> float | None:
    if one is None or other is None:
        return other if one is None else one
    return max(one, other)
