"""Reading alerts: the messages that were heard, each once, whoever and however often heard it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, desc, select

from projections.after import After
from projections.folds.alerts import NAME, AlertRow, Hearing
from projections.reads import Reads, Unknown, folded_at
from projections.rows import columns, structs
from projections.tables import alerts as table
from projections.views import Envelope, envelope
from streams.messages import now

MOST_ALERTS = 200
CHUNK = 100
"""Rows that are looked at in one go, newest first, until enough different alerts are found."""


class SourceHearings(msgspec.Struct, frozen=True, kw_only=True):
    """How one source heard an alert: `heard` times; `hearings` are the latest of them, newest last."""

    source: str
    lane: str
    heard: int
    confirmed: bool
    confidence: float | None
    first_at: datetime
    last_at: datetime
    ended_at: datetime | None
    hearings: list[Hearing]


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """A location by its code (PSSCCC); `name` is None where the code is unknown."""

    code: str
    name: str | None


class AlertView(msgspec.Struct, frozen=True, kw_only=True):
    """An alert: what its header says (None: unreadable), and who heard it. Times are UTC.

    `problems` say where the header breaks 47 CFR 11.31; `confirmed` speaks of reception alone. `heard` counts
    all hearings of all sources, `first_at` to `last_at`; `ended_at` is when an end was last heard.
    `injected`: it was played as a test.
    """

    id: str
    header: str
    originator: str | None
    originator_name: str | None
    event: str | None
    event_name: str | None
    locations: list[Place]
    valid_minutes: int | None
    issued_at: datetime | None
    expires_at: datetime | None
    station: str | None
    problems: list[str]
    confirmed: bool
    confidence: float | None
    heard: int
    first_at: datetime
    last_at: datetime
    ended_at: datetime | None
    injected: bool
    sources: list[SourceHearings]


class _Kept(AlertRow, frozen=True, kw_only=True):
    """A row with its lane."""

    lane: str


def list_alerts(
    reads: Reads,
    *,
    limit: int,
    source: str | None = None,
    event: str | None = None,
    county: str | None = None,
    active: bool = False,
    after: After | None = None,
) -> Envelope[list[AlertView]]:
    """The alerts heard last, newest first; by one source, of one event, for one county, or only those
    whose purge time has not come. Raises Away, NotFolded.
    """
    wanted = []
    if source is not None:
        wanted.append(table.c.source == source)
    if event is not None:
        wanted.append(table.c.event == event)
    if county is not None:
        wanted.append(table.c.locations.overlap(covering(county)))
    if active:
        wanted.append(table.c.expires_at > now())

    def ask(connection: Connection) -> tuple[list[AlertView], datetime | None]:
        ids = _latest(connection, wanted, limit)
        found = _rows(connection, table.c.alert.in_(ids))
        views = {id: merged(rows) for id, rows in found.items()}
        return [views[id] for id in ids], folded_at(connection, NAME)

    views, as_of = reads.database(ask, after)
    return envelope(views, "database", as_of=as_of, at=now(), redis_away=reads.redis_away())


def show_alert(reads: Reads, id: str, after: After | None = None) -> Envelope[AlertView]:
    """One alert. Raises Unknown, Away, NotFolded."""

    def ask(connection: Connection) -> tuple[list[_Kept], datetime | None]:
        found = _rows(connection, table.c.alert == id)
        return found.get(id, []), folded_at(connection, NAME)

    rows, as_of = reads.database(ask, after)
    if not rows:
        raise Unknown("alert", id)
    return envelope(merged(rows), "database", as_of=as_of, at=now(), redis_away=reads.redis_away())


def covering(county: str) -> list[str]:
    """The location codes (PSSCCC) that concern a county (SSCCC): its parts, its state, the whole country."""
    places = (county, f"{county[:2]}000", "00000")
    return [f"{part}{place}" for place in places for part in range(10)]


def merged(rows: list[_Kept]) -> AlertView:
    """One alert of the rows of all who heard it, at least one; it says what the best reception says."""
    best = max(rows, key=lambda row: (row.confirmed, row.confidence or 0.0, row.lane))
    places: list[str | None] = [*best.places, *[None] * len(best.locations)]
    return AlertView(
        id=best.alert,
        header=best.header,
        originator=best.originator,
        originator_name=best.originator_name,
        event=best.event,
        event_name=best.event_name,
        locations=[Place(code=code, name=name) for code, name in zip(best.locations, places, strict=False)],
        valid_minutes=best.valid_minutes,
        issued_at=best.issued_at,
        expires_at=best.expires_at,
        station=best.station,
        problems=best.problems,
        confirmed=best.confirmed,
        confidence=best.confidence,
        heard=sum(row.heard for row in rows),
        first_at=min(row.first_at for row in rows),
        last_at=max(row.last_at for row in rows),
        ended_at=max((row.ended_at for row in rows if row.ended_at), default=None),
        injected=best.injected,
        sources=[_by_source(row) for row in sorted(rows, key=lambda row: (row.first_at, row.source))],
    )


def _by_source(row: _Kept) -> SourceHearings:
    return SourceHearings(
        source=row.source,
        lane=row.lane,
        heard=row.heard,
        confirmed=row.confirmed,
        confidence=row.confidence,
        first_at=row.first_at,
        last_at=row.last_at,
        ended_at=row.ended_at,
        hearings=msgspec.convert(row.hearings, list[Hearing]),
    )


def _latest(connection: Connection, wanted: Iterable[ColumnElement[bool]], limit: int) -> list[str]:
    """The ids of the alerts heard last. As many rows are read as they have, however many there are."""
    newest = select(table.c.alert).where(*wanted).order_by(desc(table.c.last_at), table.c.alert)
    ids: dict[str, None] = {}
    with connection.execution_options(yield_per=CHUNK).execute(newest) as found:
        for (id,) in found:
            ids[id] = None
            if len(ids) == limit:
                break
    return list(ids)


def _rows(connection: Connection, which: ColumnElement[bool]) -> dict[str, list[_Kept]]:
    by_alert: dict[str, list[_Kept]] = {}
    found: list[Any] = list(connection.execute(select(*columns(table, _Kept)).where(which)))
    for row in structs(table, _Kept, found):
        by_alert.setdefault(row.alert, []).append(row)
    return by_alert
