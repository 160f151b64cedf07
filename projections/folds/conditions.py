"""The projection `conditions`: what was wrong with a source, since when, and who has seen it.

Each episode has an id of its own, so that an acknowledgement is of this episode and not of the next.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from projections.folds.data import LONGEST_ID, identifier, printable, text
from streams.messages import Event, Logged

NAME = "conditions"
VERSION = 1
"""Raised whenever the same events give other rows; they are then rebuilt from the archive."""

TYPES = frozenset({"condition.opened", "condition.closed", "condition.acknowledged"})


class ConditionRow(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One episode of a condition. Times are UTC; None where it has not happened.

    `condition` is its kind (`silence` …), `acknowledged_by` who did, `command` the command by which.
    """

    id: str
    source: str
    condition: str
    detail: str | None
    opened_at: datetime
    closed_at: datetime | None
    acknowledged_at: datetime | None
    acknowledged_by: str | None
    command: str | None
    seq: int


def concerns(event: Event) -> str | None:
    """The id of the row that `event` may change, or None."""
    return identifier(_episode(event)) if event.type in TYPES else None


def fold(row: ConditionRow | None, logged: Logged) -> ConditionRow | None:
    """The row after `logged`. An episode opens once, closes once, and is acknowledged once.

    What is said of an episode whose opening is not in the log changes nothing.
    """
    event = logged.event
    episode = concerns(event)
    if episode is None:
        return row
    if event.type == "condition.opened":
        return _opened(event, episode) if row is None else row
    if row is None:
        return None
    if event.type == "condition.closed":
        return msgspec.structs.replace(row, closed_at=row.closed_at or event.at, seq=event.seq)
    if row.acknowledged_at is not None:
        return row
    return msgspec.structs.replace(
        row,
        acknowledged_at=event.at,
        acknowledged_by=text(event.data, "by") or text(event.data, "key"),
        command=None if event.command is None else printable(event.command),
        seq=event.seq,
    )


def _episode(event: Event) -> str | None:
    return text(event.data, "episode") or text(event.data, "id")


def _opened(event: Event, episode: str) -> ConditionRow:
    return ConditionRow(
        id=episode,
        source=printable(event.source)[:LONGEST_ID],
        condition=text(event.data, "condition") or text(event.data, "kind") or "",
        detail=text(event.data, "detail") or text(event.data, "reason"),
        opened_at=event.at,
        closed_at=None,
        acknowledged_at=None,
        acknowledged_by=None,
        command=None,
        seq=event.seq,
    )
