"""The settings about sound: from when on what is measured is a condition, and what is recorded."""

from __future__ import annotations

from typing import Annotated

import msgspec


class MetersSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[meters]`: from when on what is measured is a condition.

    Silence is below `silence_dbfs`, for `silence_seconds`; it is over above that and `hysteresis_db`.
    Hiss is above `hiss_dbfs` with a spectral flatness of `hiss_flatness` at least, for `hiss_seconds`.
    Drift is a clock that is fast or slow by more than `drift_ppm` millionths.
    """

    silence_dbfs: Annotated[float, msgspec.Meta(ge=-120, le=0)] = -60.0
    silence_seconds: Annotated[float, msgspec.Meta(gt=0, le=86400)] = 30.0
    hysteresis_db: Annotated[float, msgspec.Meta(ge=0, le=40)] = 3.0
    hiss_dbfs: Annotated[float, msgspec.Meta(ge=-120, le=0)] = -65.0
    hiss_flatness: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.25
    hiss_seconds: Annotated[float, msgspec.Meta(gt=0, le=86400)] = 20.0
    drift_ppm: Annotated[float, msgspec.Meta(gt=0)] = 500.0


class RecordingsSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[recordings]`: where evidence is kept, how much of it, and from when to when an alert is recorded.

    An empty `directory` is the folder `recordings` beside that of the keys. `keep_days` and `keep_gigabytes`
    of 0 are for ever; below `free_megabytes` of room on the disk nothing is recorded.
    """

    directory: str = ""
    before_seconds: Annotated[float, msgspec.Meta(ge=0, le=50)] = 10.0
    after_seconds: Annotated[float, msgspec.Meta(ge=0, le=60)] = 5.0
    longest_seconds: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 300.0
    segment_seconds: Annotated[float, msgspec.Meta(ge=1, le=86400)] = 600.0
    ring_seconds: Annotated[float, msgspec.Meta(ge=15, le=600)] = 60.0
    keep_days: Annotated[float, msgspec.Meta(ge=0)] = 90.0
    keep_gigabytes: Annotated[float, msgspec.Meta(ge=0)] = 20.0
    free_megabytes: Annotated[float, msgspec.Meta(ge=0)] = 200.0
