"""What the events `recording.*` hold in their `data`: evidence of what a source sounded like.

A recording is a file on the node that made it; `recording` is its id for ever, also in its file's name.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

RecordingKind = Literal["alert", "continuous"]


class RecordingStarted(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`recording.started`: a file was opened. `begun_at` is the time of its first sample."""

    recording: str
    kind: RecordingKind
    begun_at: datetime
    rate: int
    channels: int
    injected: bool = False


class RecordingFinished(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`recording.finished`: the file is whole and on disk.

    `file` is its path in the node's folder of recordings, `sha256` of its bytes, in hex; `lost` are seconds
    that are missing in it, because the disk was too slow. `hearings` are those of the alerts in it.
    `salvaged`: its process ended before it did, and the file is what there was.
    """

    recording: str
    kind: RecordingKind
    file: str
    sha256: str
    bytes: int
    seconds: float
    rate: int
    channels: int
    begun_at: datetime
    ended_at: datetime
    lost: float = 0.0
    hearings: tuple[str, ...] = ()
    salvaged: bool = False
    injected: bool = False


class RecordingFailed(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`recording.failed`: there is no such file, and why."""

    recording: str
    kind: RecordingKind
    reason: str
    injected: bool = False


class RecordingRemoved(msgspec.Struct, frozen=True, kw_only=True):
    """`recording.removed`: its file was deleted, and why."""

    recording: str
    reason: str


RecordingFact = RecordingStarted | RecordingFinished | RecordingFailed | RecordingRemoved

RECORDING_EVENTS: dict[type[RecordingFact], str] = {
    RecordingStarted: "recording.started",
    RecordingFinished: "recording.finished",
    RecordingFailed: "recording.failed",
    RecordingRemoved: "recording.removed",
}
