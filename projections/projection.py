"""What a projection is made of: its fold, and the table and row type it folds into."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import msgspec
from sqlalchemy import Table

from projections import group_tables, key_tables, tables
from projections.folds import (
    alerts,
    commands,
    conditions,
    decoders,
    groups,
    history,
    keys,
    leases,
    parked,
    recordings,
    sources,
    totals,
    weekly_tests,
)
from streams.messages import Event, Logged


class Positioned(Protocol):
    """What follows lanes and keeps its position in each: a projection, or the archive."""

    @property
    def name(self) -> str:
        """Under which its positions are kept."""

    @property
    def version(self) -> int:
        """Of what it keeps."""


class Projection(msgspec.Struct, frozen=True):
    """A fold and where its rows are kept. `concerns` names the row that an event may change.

    `fold` is given that row, and only events that concern it. `ended`, where there is one, says which row
    an event that changed the present one makes of that for good: it has an id of its own and is never asked
    for again by a fold. `types` are the only events that concern any
    row, where that is known: the others are not even asked about.
    """

    name: str
    version: int
    table: Table
    row: type[Any]
    concerns: Callable[[Event], str | None]
    fold: Callable[[Any, Logged], Any]
    ended: Callable[[Any, Logged], Any] | None = None
    types: frozenset[str] | None = None


SOURCES = Projection(
    sources.NAME,
    sources.VERSION,
    tables.sources,
    sources.SourceRow,
    sources.concerns,
    sources.fold,
    types=sources.TYPES,
)
COMMANDS = Projection(
    commands.NAME,
    commands.VERSION,
    tables.commands,
    commands.CommandRow,
    commands.concerns,
    commands.fold,
    types=commands.TYPES,
)
TOTALS = Projection(
    totals.NAME,
    totals.VERSION,
    tables.totals,
    totals.TotalRow,
    totals.concerns,
    totals.fold,
    types=totals.EVENTS,
)
HISTORY = Projection(
    history.NAME,
    history.VERSION,
    tables.history,
    history.Interval,
    history.concerns,
    history.fold,
    history.ended,
    history.TYPES,
)
CONDITIONS = Projection(
    conditions.NAME,
    conditions.VERSION,
    tables.conditions,
    conditions.ConditionRow,
    conditions.concerns,
    conditions.fold,
    types=conditions.TYPES,
)
LEASES = Projection(
    leases.NAME,
    leases.VERSION,
    tables.leases,
    leases.LeaseRow,
    leases.concerns,
    leases.fold,
    leases.ended,
    leases.TYPES,
)
KEYS = Projection(
    keys.NAME,
    keys.VERSION,
    key_tables.keys,
    keys.KeyRow,
    keys.concerns,
    keys.fold,
    types=keys.TYPES,
)
PARKED = Projection(
    parked.NAME,
    parked.VERSION,
    tables.parked,
    parked.ParkedRow,
    parked.concerns,
    parked.fold,
    types=parked.TYPES,
)
WEEKLY_TESTS = Projection(
    weekly_tests.NAME,
    weekly_tests.VERSION,
    tables.weekly_tests,
    weekly_tests.WeeklyTestRow,
    weekly_tests.concerns,
    weekly_tests.fold,
    types=weekly_tests.TYPES,
)
ALERTS = Projection(
    alerts.NAME,
    alerts.VERSION,
    tables.alerts,
    alerts.AlertRow,
    alerts.concerns,
    alerts.fold,
    types=alerts.TYPES,
)
DECODERS = Projection(
    decoders.NAME,
    decoders.VERSION,
    tables.decoders,
    decoders.DecoderRow,
    decoders.concerns,
    decoders.fold,
    types=decoders.TYPES,
)
RECORDINGS = Projection(
    recordings.NAME,
    recordings.VERSION,
    tables.recordings,
    recordings.RecordingRow,
    recordings.concerns,
    recordings.fold,
    types=recordings.TYPES,
)
GROUPS = Projection(
    groups.NAME,
    groups.VERSION,
    group_tables.groups,
    groups.GroupRow,
    groups.concerns,
    groups.fold,
    types=groups.TYPES,
)
ALL = (
    SOURCES, COMMANDS, TOTALS, HISTORY, CONDITIONS, LEASES, PARKED, WEEKLY_TESTS, ALERTS, DECODERS,
    RECORDINGS, KEYS, GROUPS,
)  # fmt: skip


def take(projection: Projection, rows: dict[str, Any], key: str, logged: Logged) -> None:
    """Fold one event, which concerns `key`, into `rows`; where the fold raises, nothing is changed."""
    before = rows.get(key)
    after = projection.fold(before, logged)
    if before is not None and projection.ended is not None and after is not before:
        done = projection.ended(before, logged)
        rows[key] = after
        if done is not None:
            rows[done.id] = done
    else:
        rows[key] = after


def fold_all(projection: Projection, rows: dict[str, Any], events: list[Logged]) -> dict[str, Any]:
    """The rows by id after `events`; None stands for a row that there is no more."""
    after: dict[str, Any] = dict(rows)
    for logged in events:
        key = projection.concerns(logged.event)
        if key is not None:
            take(projection, after, key, logged)
    return after
