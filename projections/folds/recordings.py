"""The projection `recordings`: the evidence there is, what it holds, and where it lies.

A recording is begun once and ends once: finished, failed, or removed after it was finished. What is told
of one twice, or out of order, as spools of nodes may, changes nothing that is known already.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from projections.folds.data import (
    LONGEST_ID,
    flag,
    fraction,
    identifier,
    number,
    printable,
    text,
    texts,
    time,
)
from streams.messages import Event, Logged

NAME = "recordings"
VERSION = 1
"""Raised whenever the same events give other rows; they are then rebuilt from the archive."""

TYPES = frozenset({"recording.started", "recording.finished", "recording.failed", "recording.removed"})
_RANK = {"started": 0, "failed": 1, "finished": 2, "removed": 3}


class RecordingRow(msgspec.Struct, frozen=True, kw_only=True):
    """One recording (`state`: started, finished, failed, removed). Times are UTC; None: not known (yet).

    `node` has the file, at `file` in its folder, with the hash `sha256`. `reason` says why there is none
    (any more). `hearings` are those of the alerts in it, `lost` seconds that are missing. `injected`: it is
    of a test.
    """

    id: str
    source: str
    node: str
    kind: str
    state: str
    begun_at: datetime
    ended_at: datetime | None
    seconds: float | None
    rate: int | None
    channels: int | None
    bytes: int | None
    sha256: str | None
    file: str | None
    hearings: list[str]
    lost: float
    salvaged: bool
    injected: bool
    reason: str | None
    seq: int


def concerns(event: Event) -> str | None:
    """The id of the row that `event` may change, or None."""
    return identifier(text(event.data, "recording")) if event.type in TYPES else None


def fold(row: RecordingRow | None, logged: Logged) -> RecordingRow | None:
    """The row after `logged`."""
    event = logged.event
    id, state = concerns(event), event.type.partition(".")[2]
    if id is None:
        return row
    if row is not None and _RANK[state] <= _RANK[row.state]:
        return row
    before = row or _unknown(id, event)
    reason = text(event.data, "reason")
    if state in ("failed", "removed"):
        return msgspec.structs.replace(before, state=state, reason=reason, seq=event.seq)
    data = event.data
    return msgspec.structs.replace(
        before,
        state=state,
        reason=None,
        node=_node(event),
        begun_at=time(text(data, "begun_at")) or before.begun_at,
        ended_at=time(text(data, "ended_at")),
        seconds=fraction(data, "seconds"),
        rate=number(data, "rate"),
        channels=number(data, "channels"),
        bytes=number(data, "bytes"),
        sha256=text(data, "sha256"),
        file=text(data, "file"),
        hearings=[hearing[:LONGEST_ID] for hearing in texts(data, "hearings") if hearing],
        lost=fraction(data, "lost") or 0.0,
        salvaged=flag(data, "salvaged"),
        seq=event.seq,
    )


def _unknown(id: str, event: Event) -> RecordingRow:
    """A recording of which nothing was told before."""
    return RecordingRow(
        id=id,
        source=printable(event.source)[:LONGEST_ID],
        node=_node(event),
        kind=(text(event.data, "kind") or "")[:LONGEST_ID],
        state="",
        begun_at=event.at,
        ended_at=None,
        seconds=None,
        rate=None,
        channels=None,
        bytes=None,
        sha256=None,
        file=None,
        hearings=[],
        lost=0.0,
        salvaged=False,
        injected=flag(event.data, "injected"),
        reason=None,
        seq=event.seq,
    )


def _node(event: Event) -> str:
    """The node that has the file: the one whose spool told of it, which another may have logged."""
    spooled = text(event.data, "spool")
    return printable(spooled.partition("/")[0] if spooled else event.node)[:LONGEST_ID]
