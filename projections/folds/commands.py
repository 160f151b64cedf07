"""The projection `commands`: what became of each command."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import msgspec

from projections.folds.data import LONGEST_ID, identifier, number, printable, text, time
from streams.messages import OUTCOMES, Event, Logged

NAME = "commands"
VERSION = 1
"""Raised whenever the same events give other rows; they are then rebuilt from the archive."""

FOREIGN = frozenset({"replayed", "conflict"})
"""Reasons of a rejection that speak of other bytes under this id, not of the command itself."""


class CommandRow(msgspec.Struct, frozen=True, kw_only=True, gc=False):
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


_Storable = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_TYPES = {f"command.{outcome}": outcome for outcome in OUTCOMES}
TYPES = frozenset(_TYPES)


def concerns(event: Event) -> str | None:
    """The id of the row that `event` may change, or None."""
    return identifier(event.command) if event.type in _TYPES else None


def fold(row: CommandRow | None, logged: Logged) -> CommandRow | None:
    """The row after `logged`. A command has one result: the first stands.

    A rejection as replayed or in conflict is about someone else's bytes under the same id, so it
    never displaces a result, and a result displaces it.
    """
    event = logged.event
    data = event.data
    command, outcome = event.command, _TYPES.get(event.type)
    if command is None or outcome is None:
        return row
    if row is not None and row.reason not in FOREIGN:
        return row
    if row is not None and text(data, "reason") in FOREIGN:
        return row
    told = _well_formed(logged) or _told(data)
    return CommandRow(
        id=command,
        source=(printable(event.source) or told.source or "")[:LONGEST_ID],
        type=told.type,
        key=told.key,
        sequence=told.sequence,
        outcome=outcome,
        state=told.state,
        reason=told.reason,
        field=told.field,
        by=told.by,
        detail=told.detail,
        issued_at=told.issued_at,
        received_at=told.received_at,
        finished_at=event.at,
        seq=event.seq,
    )


class _Told(msgspec.Struct, kw_only=True, gc=False):
    """What a result's data and the signed request in it tell. So do nearly all of them: read in one go."""

    type: str = ""
    sequence: _Storable = 0
    request: str = ""
    state: str | None = None
    reason: str | None = None
    field: str | None = None
    by: str | None = None
    detail: str | None = None
    received_at: datetime | None = None
    source: str | None = None
    key: str = ""
    issued_at: datetime | None = None


class _Request(msgspec.Struct, gc=False):
    source: str
    type: str
    key: str
    issued_at: datetime


_decode_request = msgspec.json.Decoder(_Request).decode


def _well_formed(logged: Logged) -> _Told | None:
    """What an event tells that has every field as it should be; None for any other."""
    if b"\\u0000" in logged.raw:
        return None
    try:
        told = msgspec.convert(logged.event.data, _Told)
        request = _decode_request(told.request)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        return None
    if request.issued_at.tzinfo is None or (told.received_at and told.received_at.tzinfo is None):
        return None
    told.type = told.type or request.type
    told.source, told.key, told.issued_at = request.source, request.key, request.issued_at
    return told


def _told(data: dict[str, Any]) -> _Told:
    """What an event tells that other hands may have written: each field that can be read."""
    request = _request(text(data, "request"))
    return _Told(
        type=text(data, "type") or text(request, "type") or "",
        sequence=number(data, "sequence") or 0,
        state=text(data, "state"),
        reason=text(data, "reason"),
        field=text(data, "field"),
        by=text(data, "by"),
        detail=text(data, "detail"),
        received_at=time(text(data, "received_at")),
        source=text(request, "source"),
        key=text(request, "key") or "",
        issued_at=time(text(request, "issued_at")),
    )


def _request(raw: str | None) -> dict[str, Any]:
    if not raw:
        return {}
    try:
        request = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return {}
    return request if isinstance(request, dict) else {}
