"""The projection `parked`: commands that were set aside, and what became of them.

A command is parked in its own lane and retried or dropped in the `station` lane. Lanes are folded
apart, so each has a row: the command's own says that it was parked (`home` is None), the
station's what was done about it (`home` is the command's lane). A reader joins the two.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from projections.folds.data import identifier, number, printable, text
from streams.messages import Event, Logged

NAME = "parked"
VERSION = 1
"""Raised whenever the same events give other rows; they are then rebuilt from the archive."""

_CLOSED = {"parked.retried": "retried", "parked.dropped": "dropped"}
TYPES = frozenset({"parked.added", *_CLOSED})


class ParkedRow(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One parked command, or what became of it (`state`: parked, retried, dropped). Times are UTC.

    `why` and `deliveries` say how it came to be parked, `by` is the new command where it was retried.
    """

    id: str
    home: str | None
    source: str
    state: str
    type: str | None
    why: str | None
    deliveries: int | None
    by: str | None
    at: datetime
    seq: int


def concerns(event: Event) -> str | None:
    """The id of the row that `event` may change, or None."""
    if event.type == "parked.added":
        return identifier(event.command)
    return identifier(text(event.data, "id")) if event.type in _CLOSED else None


def fold(row: ParkedRow | None, logged: Logged) -> ParkedRow | None:
    """The row after `logged`: a command is parked once, and what was done about it first stands."""
    event = logged.event
    command = concerns(event)
    if command is None or row is not None:
        return row
    return ParkedRow(
        id=command,
        home=text(event.data, "lane") if event.type in _CLOSED else None,
        source=printable(event.source),
        state=_CLOSED.get(event.type, "parked"),
        type=text(event.data, "type"),
        why=text(event.data, "why"),
        deliveries=number(event.data, "deliveries"),
        by=text(event.data, "by"),
        at=event.at,
        seq=event.seq,
    )
