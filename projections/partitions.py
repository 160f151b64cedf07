"""The archive's partitions: one for each month by when events were logged (UTC), made ahead of time.

`archive_rest` takes what fits nowhere: events of a clock that is wrong, or of months nobody made a
partition for. What of it belongs into a partition moves there when that is made.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import date, timedelta

from sqlalchemy import Connection, text

AHEAD = 3
"""Months for which there are partitions beyond the present one."""
REST = "archive_rest"
PARTITION = re.compile(r"archive_(?:rest|before_\d{6}|\d{6})")
LOCK = 0x746F6373_696E0003
"""The advisory lock under which one process at a time makes partitions ("tocsin", 3)."""


def month(day: date) -> date:
    """The first day of the month."""
    return day.replace(day=1)


def following(day: date) -> date:
    """The first day of the month after."""
    return month(day.replace(day=28) + timedelta(days=4))


def wanted(today: date) -> list[date]:
    """The months that there should be partitions for."""
    months = [month(today)]
    for _ in range(AHEAD):
        months.append(following(months[-1]))
    return months


def names(connection: Connection) -> list[str]:
    """The archive's partitions, by name."""
    found = connection.scalars(
        text("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'archive'::regclass")
    )
    return sorted(found)


def make_ahead(connection: Connection, months: Iterable[date]) -> list[str]:
    """Make the partitions that are missing, inside the caller's transaction; return their names."""
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
    standing = names(connection)
    covered = max((name[-6:] for name in standing if name.startswith("archive_before_")), default="")
    made = []
    for first in months:
        name = f"archive_{first:%Y%m}"
        if name in standing or f"{first:%Y%m}" < covered:
            continue
        span = {"first": f"{first} 00:00:00+00", "end": f"{following(first)} 00:00:00+00"}
        # Attached when it is whole: made in its place, it would stop everybody who reads or writes.
        connection.execute(text(f"CREATE TABLE {name} (LIKE archive INCLUDING ALL)"))
        move = (
            f"WITH moved AS (DELETE FROM {REST} WHERE logged_at >= CAST(:first AS timestamptz) AND"  # noqa: S608  # our own names
            f" logged_at < CAST(:end AS timestamptz) RETURNING *) INSERT INTO {name} SELECT * FROM moved"
        )
        connection.execute(text(move), span)
        bounds = f"FROM ('{span['first']}') TO ('{span['end']}')"
        connection.execute(text(f"ALTER TABLE archive ATTACH PARTITION {name} FOR VALUES {bounds}"))
        made.append(name)
    return made
