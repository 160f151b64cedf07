"""The projection `decoders`: what the decoder of each source has heard, and how often.

It answers at once, whatever the history: when did a source last hear a burst, a weekly test? The counts are
for Prometheus: by event code, where its name is known; what a stranger sends cannot make new ones.
"""

from __future__ import annotations

from datetime import datetime
from typing import get_args

import msgspec

from projections.folds.data import flag, identifier, text
from streams.alerts import TESTS
from streams.messages import Event, Logged
from streams.vocabulary import SourceState

NAME = "decoders"
VERSION = 1
"""Raised whenever the same events give other rows; the runner then folds them again from the start."""

OTHER = "other"
"""Alerts whose event nobody has a name for."""
LONGEST_CODE = 8
MOST_EVENTS = 200
"""Codes that are counted by themselves; there are fewer than a hundred."""

_WISHES = frozenset(f"source.{state}" for state in get_args(SourceState))
"""Any of them may say that the source should run, or should not."""
TYPES = _WISHES | {"source.added", "source.removed", "alert.burst", "alert.received"}


class DecoderRow(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What was heard of a source. Times are UTC.

    `since` is when it was last started that had been stopped: from then on it should hear something (None:
    it should not). `last_test_at` is of a weekly test, or of the monthly one that stands for it. `alerts`
    are the confirmed messages, by event.
    """

    id: str
    since: datetime | None
    bursts: int
    last_burst_at: datetime | None
    last_test_at: datetime | None
    alerts: dict[str, int]


def concerns(event: Event) -> str | None:
    """The id of the row that `event` may change, or None."""
    return identifier(event.source) if event.type in TYPES else None


def fold(row: DecoderRow | None, logged: Logged) -> DecoderRow | None:
    """The row after `logged`; None when there is no such source (any more)."""
    event = logged.event
    if event.type not in TYPES:
        return row
    if event.type == "source.removed":
        return None
    if event.type == "source.added":
        return row or DecoderRow(
            id=event.source, since=None, bursts=0, last_burst_at=None, last_test_at=None, alerts={}
        )
    if row is None or flag(event.data, "injected"):
        # What was played as a test says nothing of what is received.
        return row
    if event.type == "alert.burst":
        return msgspec.structs.replace(row, bursts=row.bursts + 1, last_burst_at=event.at)
    if event.type == "alert.received":
        return _received(row, event) if flag(event.data, "confirmed") else row
    wanted = text(event.data, "desired")
    if wanted == "running" and row.since is None:
        return msgspec.structs.replace(row, since=event.at)
    return msgspec.structs.replace(row, since=None) if wanted == "stopped" else row


def _received(row: DecoderRow, event: Event) -> DecoderRow:
    code = text(event.data, "event")
    tested = code in TESTS
    known = code is not None and len(code) <= LONGEST_CODE and text(event.data, "event_name") is not None
    name = code if code and known and (code in row.alerts or len(row.alerts) < MOST_EVENTS) else OTHER
    return msgspec.structs.replace(
        row,
        last_test_at=event.at if tested else row.last_test_at,
        alerts={**row.alerts, name: row.alerts.get(name, 0) + 1},
    )
