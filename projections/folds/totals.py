"""The projection `totals`: how many commands ended how, and how long they took, for Prometheus.

One row per type and outcome, and both are from short lists: what a stranger puts into a command's
type cannot make rows.
"""

from __future__ import annotations

from bisect import bisect_left
from datetime import datetime, timedelta

import msgspec
from msgspec.structs import replace

from projections.folds.data import number, text, time
from streams.messages import OUTCOMES, Event, Logged
from streams.vocabulary import COMMANDS, STATION_COMMANDS

NAME = "totals"
VERSION = 1
"""Raised whenever the same events give other rows; they are then rebuilt from the archive.

A type that is new to the vocabulary is such a change where somebody may have sent it before.
"""

OTHER = "other"
"""The type of commands that this version does not know."""
TYPES = frozenset({*COMMANDS, *STATION_COMMANDS})
BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of the duration's buckets, in seconds; the last bucket has none."""
LONGEST = timedelta(days=30)
"""No command lives so long: what seems to have taken longer has a time of receipt that is wrong."""

_OUTCOMES = {**{f"command.{outcome}": outcome for outcome in OUTCOMES}, "rejections.counted": "rejected"}
EVENTS = frozenset(_OUTCOMES)
_IDS = {event: {of: f"{of}/{outcome}" for of in (*TYPES, OTHER)} for event, outcome in _OUTCOMES.items()}
_MICROSECOND = timedelta(microseconds=1)
_SECOND = timedelta(seconds=1)
_NONE = timedelta(0)


class TotalRow(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The results of one type and outcome in a lane.

    `buckets` counts those whose duration is known, each in the first bucket that takes it;
    `microseconds` is the sum of their durations.
    """

    id: str
    type: str
    outcome: str
    count: int
    buckets: list[int]
    microseconds: int


def concerns(event: Event) -> str | None:
    """The id of the row that `event` changes, or None."""
    ids = _IDS.get(event.type)
    return None if ids is None else ids[_type(event)]


def fold(row: TotalRow | None, logged: Logged) -> TotalRow | None:
    """The row after `logged`, which is one more result, or many rejections counted."""
    event = logged.event
    outcome = _OUTCOMES.get(event.type)
    if outcome is None:
        return row
    if row is None:
        type, empty = _type(event), [0] * (len(BOUNDS) + 1)
        row = TotalRow(
            id=_IDS[event.type][type], type=type, outcome=outcome, count=0, buckets=empty, microseconds=0
        )
    if event.type == "rejections.counted":
        return msgspec.structs.replace(row, count=row.count + max(number(event.data, "count") or 0, 0))
    taken = _duration(time(text(event.data, "received_at")), event.at)
    if taken is None:
        return replace(row, count=row.count + 1)
    buckets = row.buckets.copy()
    buckets[bisect_left(BOUNDS, taken / _SECOND)] += 1
    return replace(
        row, count=row.count + 1, buckets=buckets, microseconds=row.microseconds + taken // _MICROSECOND
    )


def _type(event: Event) -> str:
    told = event.data.get("type")
    return told if type(told) is str and told in TYPES else OTHER


def _duration(received: datetime | None, finished: datetime) -> timedelta | None:
    """From receipt to result, never negative (two machines' clocks); None where nobody knows."""
    if received is None:
        return None
    taken = finished - received
    return None if taken > LONGEST else max(taken, _NONE)
