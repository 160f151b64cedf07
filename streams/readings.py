"""What a source's meters say, ten times a second, as telemetry carries it."""

from __future__ import annotations

import msgspec


class Readings(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """The meters of one source. Levels are None for −∞; an array in JSON, for there are many of them.

    Fields are only ever added at the end.
    """

    true_peak_dbtp: float | None
    """Highest since the reading before, by four times oversampling (BS.1770-5, Annex 2)."""
    momentary_lufs: float | None
    """Of 400 ms (BS.1770-5, as the others): the highest since the reading before."""
    short_term_lufs: float | None
    """Of the last 3 s; None also before there were as many."""
    integrated_lufs: float | None
    """Gated, since the source was opened."""
    range_lu: float
    """Loudness range (EBU Tech 3342) since the source was opened."""
    clipped: int
    """Samples at full scale right after another one there, since the source was opened."""
    dc_offset: float
    """Mean of the last second or so, full scale being 1."""
    flatness: float | None
    """Spectral flatness, 0 (a tone) to 1 (noise), of the last second or so; None in digital silence."""
    silent_seconds: float
    """For how long it has been below the level of silence."""
    buffered_seconds: float
    """Audio that was received and waits to be read."""
    dropped_seconds: float
    """Audio that was received and thrown away, since the source was opened."""
    drift_ppm: float | None
    """By how much its clock is fast; None before that can be told."""


class Meters(Readings, frozen=True, kw_only=True, array_like=False):
    """The same for readers: an object in JSON."""


def meters_of(readings: Readings) -> Meters:
    """What readers are given of some readings."""
    return Meters(**msgspec.structs.asdict(readings))
