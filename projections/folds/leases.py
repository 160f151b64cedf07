"""The projection `leases`: which node owned the lane, from when until when.

The lease that stands has the id `now`, one that ended its token. A node that died says nothing: its
lease ends, as far as the log can tell, when another begins.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from projections.folds.data import identifier, printable
from streams.messages import Event, Logged

NAME = "leases"
VERSION = 1
"""Raised whenever the same events give other rows; they are then rebuilt from the archive."""

NOW = "now"
TYPES = frozenset({"lane.acquired", "lane.released"})


class LeaseRow(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One node's ownership of the lane, under one fencing token. Times are UTC.

    `ending`: None while it stands, else `released`, or `taken_over` where the next owner says so.
    """

    id: str
    node: str
    token: int
    since: datetime
    seq: int
    until: datetime | None = None
    ending: str | None = None


def concerns(event: Event) -> str | None:
    """The id of the row that `event` may change, or None."""
    known = event.type in TYPES and identifier(event.node)
    return NOW if known else None


def fold(row: LeaseRow | None, logged: Logged) -> LeaseRow | None:
    """The lease that stands after `logged`; None where it was released."""
    event = logged.event
    if concerns(event) is None:
        return row
    if event.type == "lane.acquired":
        if row is not None and row.token == event.token:
            return row
        return LeaseRow(id=NOW, node=printable(event.node), token=event.token, since=event.at, seq=event.seq)
    # What a former owner still wrote is fenced off; whoever did write owned the lane until then.
    return None


def ended(row: LeaseRow, logged: Logged) -> LeaseRow | None:
    """The lease that `logged` ends, under an id of its own; None where it stands on."""
    event = logged.event
    if concerns(event) is None or (event.type == "lane.acquired" and row.token == event.token):
        return None
    ending = "released" if event.type == "lane.released" else "taken_over"
    return msgspec.structs.replace(row, id=str(row.token), until=event.at, ending=ending)
