"""The projection `sources`: what each source is, what it should do and what it does.

A row belongs to one lane; the fold sees that lane's events in order. Settings are carried as
they were written, so that a kind of source which this version does not know is kept whole.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec

from projections.folds.data import identifier, number, printable, table, text
from streams.messages import Event, Logged

NAME = "sources"
VERSION = 1
"""Raised whenever the same events give other rows; the runner then folds them again from the start."""


class SourceRow(msgspec.Struct, frozen=True, kw_only=True):
    """One source as its lane's events tell it. `seq` and `hash` name the last event that changed it.

    `since` is when `state` became what it is; `rate` in Hz. Times are UTC.
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
    if concerns(event) is None:
        return row
    if row is None:
        return _added(event, logged.hash) if event.type == "source.added" else None
    changed = _CHANGES[event.type](row, event)
    if changed is None:
        return None
    return msgspec.structs.replace(
        changed,
        node=printable(event.node),
        desired=text(event.data, "desired") or changed.desired,
        since=event.at if changed.state != row.state else row.since,
        updated_at=event.logged_at,
        seq=event.seq,
        hash=logged.hash,
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
        since=event.at,
        updated_at=event.logged_at,
        seq=event.seq,
        hash=hash,
    )


def _described(row: SourceRow, event: Event) -> SourceRow:
    settings, name = table(event.data, "settings"), text(event.data, "name")
    if settings is not None:
        row = msgspec.structs.replace(
            row, settings=settings, kind=text(settings, "kind") or "", rate=None, channels=None
        )
    return row if name is None else msgspec.structs.replace(row, name=name)


def _observed(state: str) -> Callable[[SourceRow, Event], SourceRow]:
    def change(row: SourceRow, event: Event) -> SourceRow:
        return msgspec.structs.replace(row, state=state, reason=text(event.data, "reason"))

    return change


def _running(row: SourceRow, event: Event) -> SourceRow:
    rate, channels = number(event.data, "rate"), number(event.data, "channels")
    return msgspec.structs.replace(row, state="running", reason=None, rate=rate, channels=channels)


def _removed(row: SourceRow, event: Event) -> None:
    return None


_CHANGES: dict[str, Callable[[SourceRow, Event], SourceRow | None]] = {
    "source.added": _described,
    "source.updated": _described,
    "source.removed": _removed,
    "source.starting": _observed("starting"),
    "source.running": _running,
    "source.stalled": _observed("stalled"),
    "source.failed": _observed("failed"),
    "source.stopped": _observed("stopped"),
}
