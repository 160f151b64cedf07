"""What a node gives to each of its captures, beside the audio."""

from __future__ import annotations

from pathlib import Path

import msgspec

from ingest.meters import Meters
from ingest.on_air import OnAir
from ingest.recorder import Recorder
from ingest.spool import Spool
from streams.settings import Settings
from streams.sound import RecordingsSection


class Equipment(msgspec.Struct, frozen=True):
    """The parts that all sources of a process share. Without a spool, what is heard lives in memory alone."""

    meters: Meters
    recorder: Recorder | None = None
    spool: Spool | None = None
    recordings: RecordingsSection = RecordingsSection()
    on_air: OnAir | None = None


def equip(settings: Settings) -> Equipment:
    """A node's equipment by its settings. Raises OSError where its folders cannot be read."""
    beside = Path(settings.keys.directory).parent
    recordings = Path(settings.recordings.directory or beside / "recordings")
    spool = Path(settings.ingest.spool or beside / "spool")
    return Equipment(
        Meters(settings.meters),
        Recorder(recordings, settings.recordings),
        Spool(spool, settings.ingest.node),
        settings.recordings,
        OnAir(),
    )
