"""Whether what people should be told goes out, and whether the lanes' logs are sound, as last verified."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
from psycopg.errors import UndefinedColumn, UndefinedTable

from control.checks.finding import Finding, ok, trouble, warning
from control.checks.postgres import Connection, connected
from streams.notices import NotifySection
from streams.settings import PostgresSection

OVERDUE = 600
"""Seconds that a notification may wait for its target before it is said."""

_BACKLOG = """
    SELECT count(*) FILTER (WHERE n.state IN ('due', 'sending')
                            AND n.created_at < now() - make_interval(secs => %(overdue)s)),
           count(*) FILTER (WHERE n.state = 'perhaps'), count(*) FILTER (WHERE n.state = 'given up'),
           max(n.detail)
    FROM notifications n JOIN episodes e ON e.id = n.episode
    WHERE n.target = %(target)s AND n.state <> 'sent'
      AND (n.state IN ('due', 'sending') OR e.closed_at IS NULL OR n.created_at > now() - interval '1 day')
      AND e.acknowledged_at IS NULL
"""
_FAULTS = """
    SELECT lane, coalesce(fault, whole_fault) FROM verdicts
    WHERE fault IS NOT NULL OR whole_fault IS NOT NULL ORDER BY lane
"""


def notifications(section: PostgresSection, notify: NotifySection) -> Iterator[Finding]:
    """What each target has not had, until it is acknowledged or a day old; faults of lanes' logs."""
    if not section.url:
        return
    try:
        with connected(section, target_session_attrs="any") as connection:
            for target in notify.targets:
                yield from _target(connection, target.name)
            yield from _logs(connection)
    except (UndefinedTable, UndefinedColumn):
        return  # the projections of this version have not started yet
    except psycopg.Error:
        return  # told by the check of postgres already


def _target(connection: Connection, name: str) -> Iterator[Finding]:
    part = f"notify {name}"
    found = connection.execute(_BACKLOG.encode(), {"target": name, "overdue": OVERDUE}).fetchone()
    overdue, perhaps, given_up, why = found or (0, 0, 0, None)
    if overdue:
        told = f"{overdue} notifications wait for it for over {OVERDUE // 60} min: {why or 'no attempt yet'}"
        yield trouble(part, told, "mend the target or its url_file; they go out by themselves then")
    if perhaps or given_up:
        told = f"{perhaps} of which nobody knows whether they went out, {given_up} given up: {why}"
        yield warning(part, told, "tocsin status lists what goes on; tocsin alert acknowledge ends this")
    if not (overdue or perhaps or given_up):
        yield ok(part, "it has had all that was for it")


def _logs(connection: Connection) -> Iterator[Finding]:
    for lane, fault in connection.execute(_FAULTS.encode()):
        yield trouble(
            f"log of {lane}", str(fault), "tocsin audit verify; delete nothing: runbook TocsinVerifyFailed"
        )
