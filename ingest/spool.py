"""What was heard and is not known to be archived yet, on this node's disk: facts outlive outages.

Each fact is a file of its own, synchronised before anything else is done with it, named by its lane, this
process's boot and a number. It is deleted once the fact is in the archive, whoever put it into the log.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import structlog
from uuid_utils import uuid7

from ingest.entered import FIELD
from ingest.recorder import sync_folder
from streams.drafts import Draft
from streams.messages import canonical, now
from streams.recordings import RECORDING_EVENTS, RecordingFailed, RecordingFinished

ENDS = frozenset({RECORDING_EVENTS[RecordingFinished], RECORDING_EVENTS[RecordingFailed]})

log = structlog.get_logger(__name__)


class Spooled(msgspec.Struct, frozen=True, kw_only=True):
    """A fact as it lies in the spool: what happened to a source of a lane, and when it was heard."""

    node: str
    boot: str
    counter: int
    lane: str
    source: str
    type: str
    data: dict[str, Any]
    at: datetime
    kept_at: datetime

    @property
    def id(self) -> str:
        """What names it for ever."""
        return f"{self.node}/{self.boot}/{self.counter}"

    def draft(self, command: str | None = None) -> Draft:
        """The event that says it, with its id."""
        data = {**self.data, FIELD: self.id}
        return Draft(type=self.type, source=self.source, data=data, at=self.at, command=command)


_decode = msgspec.json.Decoder(Spooled).decode


class Spool:
    """The spool of one node, from one start of it on, with what earlier ones have left. Thread-safe."""

    def __init__(self, folder: Path, node: str) -> None:
        self._folder = folder
        self._node = node
        self._boot = str(uuid7())
        self._counters: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._pending: dict[tuple[str, str], Spooled] = {}
        for path in sorted(folder.glob("*/*.json")):
            self._load(path)
        if self._pending:
            log.warning("facts of an earlier run are not known to be archived", count=len(self._pending))

    def _load(self, path: Path) -> None:
        try:
            found = _decode(path.read_bytes())
        except (OSError, msgspec.MsgspecError) as error:
            log.error(
                "a spooled fact cannot be read; it is left where it is", file=str(path), detail=str(error)
            )
            return
        self._pending[found.lane, found.id] = found

    def keep(self, lane: str, source: str, type: str, data: dict[str, Any], at: datetime) -> Spooled:
        """Put a fact onto the disk; it is there when this returns.

        Where the disk refuses, the fact goes on without it: then only this process knows it.
        """
        with self._lock:
            self._counters[lane] += 1
            spooled = Spooled(
                node=self._node, boot=self._boot, counter=self._counters[lane], lane=lane, source=source,
                type=type, data=data, at=at, kept_at=now(),
            )  # fmt: skip
            self._pending[lane, spooled.id] = spooled
        try:
            self._write(spooled)
        except OSError as error:
            log.error("a fact cannot be spooled", type=type, source=source, detail=str(error))
        return spooled

    def _write(self, spooled: Spooled) -> None:
        path = self._path(spooled)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        with part.open("wb") as file:
            file.write(canonical(spooled))
            file.flush()
            os.fsync(file.fileno())
        part.rename(path)
        sync_folder(path.parent)

    def _path(self, spooled: Spooled) -> Path:
        return self._folder / spooled.lane / f"{spooled.boot}-{spooled.counter:08}.json"

    def pending(self, lane: str) -> list[Spooled]:
        """The lane's facts that are not known to be archived, in order."""
        with self._lock:
            found = [one for (its, _), one in self._pending.items() if its == lane]
        return sorted(found, key=lambda one: (one.kept_at, one.counter))

    def tells_end(self, lane: str, recording: str) -> bool:
        """Whether it holds what became of that recording in the end."""
        return any(one.type in ENDS and one.data.get("recording") == recording for one in self.pending(lane))

    def lanes(self) -> list[str]:
        """The lanes that something is kept of."""
        with self._lock:
            return sorted({lane for lane, _ in self._pending})

    def forget(self, spooled: Spooled) -> None:
        """Delete a fact that is archived."""
        try:
            self._path(spooled).unlink(missing_ok=True)
        except OSError as error:
            log.warning("a spooled fact cannot be deleted", detail=str(error))
            return
        with self._lock:
            self._pending.pop((spooled.lane, spooled.id), None)
