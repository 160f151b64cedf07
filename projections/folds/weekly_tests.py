"""The projection `weekly_tests`: when each source last heard a Required Weekly Test.

Stations send one every week (47 CFR 11.61), so a source that has heard none for longer is deaf,
however healthy its sound is.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from projections.folds.data import flag, identifier, text
from streams.messages import Event, Logged

NAME = "weekly_tests"
VERSION = 1
"""Raised whenever the same events give other rows; they are then rebuilt from the archive."""

WEEKLY = "RWT"
TYPES = frozenset({"alert.received"})


class WeeklyTestRow(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The weekly tests that one source heard: the first, the last and the one before. Times are UTC."""

    id: str
    first_at: datetime
    last_at: datetime
    before_at: datetime | None
    count: int
    header: str | None
    seq: int


def concerns(event: Event) -> str | None:
    """The id of the row that `event` may change, or None."""
    return identifier(event.source) if event.type in TYPES and _is_weekly(event) else None


def fold(row: WeeklyTestRow | None, logged: Logged) -> WeeklyTestRow | None:
    """The row after `logged`, which is one more test heard."""
    event = logged.event
    source = concerns(event)
    if source is None:
        return row
    header = text(event.data, "header")
    if row is None:
        return WeeklyTestRow(
            id=source,
            first_at=event.at,
            last_at=event.at,
            before_at=None,
            count=1,
            header=header,
            seq=event.seq,
        )
    return msgspec.structs.replace(
        row, last_at=event.at, before_at=row.last_at, count=row.count + 1, header=header, seq=event.seq
    )


def _is_weekly(event: Event) -> bool:
    if flag(event.data, "injected"):
        return False
    told = text(event.data, "event")
    if told is None:
        # ZCZC-ORG-EEE-…: the header says it too.
        told = next(iter((text(event.data, "header") or "").split("-")[2:3]), None)
    return told == WEEKLY
