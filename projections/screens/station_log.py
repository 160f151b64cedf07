"""The station log: every test and alert as each source received it, the way an inspector wants to read it."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Literal

import msgspec
from sqlalchemy import Connection, desc, select

from projections.folds.alerts import NAME
from projections.reads import Reads, folded_at
from projections.tables import alerts
from projections.views import Envelope, envelope
from streams.messages import now

TESTS = ("RWT", "RMT", "NPT", "DMO")
"""Weekly and monthly tests, the nationwide test, and demonstrations."""
MOST = 20_000
"""Receptions of one answer."""
FIELDS = (
    "received_at", "source", "event", "event_name", "originator", "station", "places", "locations",
    "issued_at", "expires_at", "ended_at", "confirmed", "heard", "problems", "header",
)  # fmt: skip
"""The columns of the export, in their order."""
Which = Literal["tests", "all"]


class Reception(msgspec.Struct, frozen=True, kw_only=True):
    """A message as one source received it. Times are UTC; None where the header does not say."""

    received_at: datetime
    source: str
    event: str | None
    event_name: str | None
    originator: str | None
    station: str | None
    places: list[str]
    locations: list[str]
    issued_at: datetime | None
    expires_at: datetime | None
    ended_at: datetime | None
    confirmed: bool
    heard: int
    problems: list[str]
    header: str


def station_log(
    reads: Reads, *, days: float, source: str | None = None, which: Which = "tests"
) -> Envelope[list[Reception]]:
    """What was received in the last `days`, the latest first. Raises Away."""
    at = now()
    names = [name for name in FIELDS if name != "received_at"]
    wanted = select(alerts.c.first_at, *(alerts.c[name] for name in names))
    wanted = wanted.where(alerts.c.first_at >= at - timedelta(days=days))
    if source is not None:
        wanted = wanted.where(alerts.c.source == source)
    if which == "tests":
        wanted = wanted.where(alerts.c.event.in_(TESTS))
    wanted = wanted.order_by(desc(alerts.c.first_at), alerts.c.source, alerts.c.id).limit(MOST)

    def ask(connection: Connection) -> tuple[list[Reception], datetime | None]:
        rows = connection.execute(wanted).all()
        found = [Reception(received_at=row[0], **dict(zip(names, row[1:], strict=True))) for row in rows]
        return found, folded_at(connection, NAME)

    rows, as_of = reads.database(ask)
    return envelope(rows, "database", as_of=as_of, at=at, redis_away=reads.redis_away())


def as_csv(rows: Iterable[Reception]) -> str:
    """The log as comma-separated values with a header (RFC 4180)."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(FIELDS)
    for row in rows:
        writer.writerow([_cell(getattr(row, name)) for name in FIELDS])
    return text.getvalue()


def _cell(value: object) -> str:
    """A value for a spreadsheet, which must not take what came over the air for a formula."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%dT%H:%M:%SZ")
    text = "; ".join(map(str, value)) if isinstance(value, list) else str(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
