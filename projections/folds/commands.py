"""The projection `commands`: what became of each command."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from projections.folds.data import LONGEST_ID, identifier, number, printable, text
from streams.messages import OUTCOMES, Event, Logged

NAME = "commands"
VERSION = 1
"""Raised whenever the same events give other rows; the runner then folds them again from the start."""

FOREIGN = frozenset({"replayed", "conflict"})
"""Reasons of a rejection that speak of other bytes under this id, not of the command itself."""


class CommandRow(msgspec.Struct, frozen=True, kw_only=True):
    """One command and its outcome. `seq` is its result in the lane; times are UTC.

    `key` names who signed, `sequence` is its place among the source's commands, `by` the command
    that superseded it. `issued_at` is None where the signed bytes cannot be read.
    """

    id: str
    source: str
    type: str
    key: str
    sequence: int
    outcome: str
    state: str | None
    reason: str | None
    field: str | None
    by: str | None
    detail: str | None
    issued_at: datetime | None
    received_at: datetime | None
    finished_at: datetime
    seq: int


_TYPES = {f"command.{outcome}": outcome for outcome in OUTCOMES}


def concerns(event: Event) -> str | None:
    """The id of the row that `event` may change, or None."""
    return identifier(event.command) if event.type in _TYPES else None


def fold(row: CommandRow | None, logged: Logged) -> CommandRow | None:
    """The row after `logged`. A command has one result: the first stands.

    A rejection as replayed or in conflict is about someone else's bytes under the same id, so it
    never displaces a result, and a result displaces it.
    """
    event = logged.event
    command = concerns(event)
    if command is None:
        return row
    if row is not None and row.reason not in FOREIGN:
        return row
    if row is not None and text(event.data, "reason") in FOREIGN:
        return row
    request = _request(text(event.data, "request"))
    return CommandRow(
        id=command,
        source=(printable(event.source) or text(request, "source") or "")[:LONGEST_ID],
        type=text(event.data, "type") or text(request, "type") or "",
        key=text(request, "key") or "",
        sequence=number(event.data, "sequence") or 0,
        outcome=_TYPES[event.type],
        state=text(event.data, "state"),
        reason=text(event.data, "reason"),
        field=text(event.data, "field"),
        by=text(event.data, "by"),
        detail=text(event.data, "detail"),
        issued_at=_time(text(request, "issued_at")),
        received_at=_time(text(event.data, "received_at")),
        finished_at=event.at,
        seq=event.seq,
    )


def _request(raw: str | None) -> dict[str, Any]:
    if not raw:
        return {}
    try:
        request = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return {}
    return request if isinstance(request, dict) else {}


def _time(value: str | None) -> datetime | None:
    try:
        time = msgspec.convert(value, datetime)
    except msgspec.ValidationError:
        return None
    return time if time.tzinfo else None
