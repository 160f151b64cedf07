"""The projection `history`: in which state each source was, from when until when.

The present interval of a source has the source's id; one that ended has the seq behind it
(`mic@17`), which no source's id can look like. So folding needs one row per source, however long
its past is.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from projections.folds.data import identifier, printable, text
from streams.messages import Event, Logged

NAME = "history"
VERSION = 1
"""Raised whenever the same events give other rows; they are then rebuilt from the archive."""

STATES = ("starting", "running", "stalled", "failed", "stopped")
_STATES = {f"source.{state}": state for state in STATES}
TYPES = frozenset({"source.added", "source.removed", *_STATES})


class Interval(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One source in one state, from `since` until `until` (None: it lasts). Times are UTC.

    `seq` began it and `until_seq` ended it. `reason` is the latest that was given for the state.
    """

    id: str
    source: str
    state: str
    reason: str | None
    node: str
    since: datetime
    seq: int
    until: datetime | None = None
    until_seq: int | None = None


def concerns(event: Event) -> str | None:
    """The id of the row that `event` may change, or None."""
    return identifier(event.source) if event.type in TYPES else None


def fold(row: Interval | None, logged: Logged) -> Interval | None:
    """The source's present interval after `logged`; None while there is no such source.

    As in `sources`, only `source.added` makes one, and the same state again goes on.
    """
    event = logged.event
    if event.type not in TYPES:
        return row
    if row is None:
        return _begun(event, "stopped") if event.type == "source.added" else None
    state = _state(row, event)
    if state is None:
        return None
    if state != row.state:
        return _begun(event, state)
    reason = text(event.data, "reason")
    if reason != row.reason and event.type in _STATES:
        return msgspec.structs.replace(row, reason=reason)
    return row


def ended(row: Interval, logged: Logged) -> Interval | None:
    """The interval that `logged` ends, under an id of its own; None where `row` goes on."""
    event = logged.event
    if _state(row, event) == row.state:
        return None
    return msgspec.structs.replace(row, id=f"{row.source}@{row.seq}", until=event.at, until_seq=event.seq)


def _state(row: Interval, event: Event) -> str | None:
    """In which state `event` leaves the source of `row`; None where it leaves none."""
    if event.type == "source.removed":
        return None
    return _STATES.get(event.type, row.state)


def _begun(event: Event, state: str) -> Interval:
    reason = text(event.data, "reason") if event.type in _STATES else None
    return Interval(
        id=event.source,
        source=event.source,
        state=state,
        reason=reason,
        node=printable(event.node),
        since=event.at,
        seq=event.seq,
    )
