"""The projection `sources`: what each source is, what it should do and what it does.

A row belongs to one lane; the fold sees that lane's events in order. Settings are carried as
they were written, so that a kind of source which this version does not know is kept whole.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec
from msgspec.structs import replace

from projections.folds.data import identifier, number, printable, table, text
from streams.messages import Event, Logged

NAME = "sources"
VERSION = 2
"""Raised whenever the same events give other rows; they are then rebuilt from the archive."""


class SourceRow(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One source as its lane's events tell it. `seq` and `hash` name the last event that changed it.

    `since` is when `state` became what it is; `rate` in Hz; `recorded` what of its sound is kept: its alerts,
    or always. Times are UTC.
    """

    id: str
    node: str
    kind: str
    name: str
    settings: dict[str, Any]
    desired: str
    state: str
    reason: str | None
    rate: int | None
    channels: int | None
    recorded: str
    since: datetime
    updated_at: datetime
    seq: int
    hash: str


def concerns(event: Event) -> str | None:
    """The id of the row that `event` may change, or None."""
    return identifier(event.source) if event.type in _CHANGES else None


def fold(row: SourceRow | None, logged: Logged) -> SourceRow | None:
    """The row after `logged`; None when there is no such source (any more).

    Only `source.added` makes a row. Event types that this version does not know change nothing.
    """
    event = logged.event
    change = _CHANGES.get(event.type)
    if change is None:
        return row
    if row is None:
        return _added(event, logged.hash) if event.type == "source.added" else None
    changed = change(row, event)
    if changed is None:
        return None
    if changed.get("state", row.state) != row.state:
        changed["since"] = event.at
    if desired := text(event.data, "desired"):
        changed["desired"] = desired
    return replace(
        row,
        node=printable(event.node),
        updated_at=event.logged_at,
        seq=event.seq,
        hash=logged.hash,
        **changed,
    )


def _added(event: Event, hash: str) -> SourceRow:
    settings = table(event.data, "settings") or {}
    return SourceRow(
        id=event.source,
        node=printable(event.node),
        kind=text(settings, "kind") or "",
        name=text(event.data, "name") or "",
        settings=settings,
        desired=text(event.data, "desired") or "stopped",
        state="stopped",
        reason=None,
        rate=None,
        channels=None,
        recorded=text(event.data, "recorded") or "alerts",
        since=event.at,
        updated_at=event.logged_at,
        seq=event.seq,
        hash=hash,
    )


Changed = dict[str, Any]
"""Fields of the row that an event gives other values, by name."""


def _described(row: SourceRow, event: Event) -> Changed:
    settings, name = table(event.data, "settings"), text(event.data, "name")
    changed: Changed = {} if name is None else {"name": name}
    if recorded := text(event.data, "recorded"):
        changed["recorded"] = recorded
    if settings is not None:
        changed |= {
            "settings": settings,
            "kind": text(settings, "kind") or "",
            "rate": None,
            "channels": None,
        }
    return changed


def _observed(state: str) -> Callable[[SourceRow, Event], Changed]:
    def change(row: SourceRow, event: Event) -> Changed:
        return {"state": state, "reason": text(event.data, "reason")}

    return change


def _running(row: SourceRow, event: Event) -> Changed:
    rate, channels = number(event.data, "rate"), number(event.data, "channels")
    reason = text(event.data, "reason")
    return {"state": "running", "reason": reason, "rate": rate, "channels": channels}


def _removed(row: SourceRow, event: Event) -> None:
    return None


_CHANGES: dict[str, Callable[[SourceRow, Event], Changed | None]] = {
    "source.added": _described,
    "source.updated": _described,
    "source.removed": _removed,
    "source.starting": _observed("starting"),
    "source.running": _running,
    "source.stalled": _observed("stalled"),
    "source.failed": _observed("failed"),
    "source.stopped": _observed("stopped"),
}
TYPES = frozenset(_CHANGES)
