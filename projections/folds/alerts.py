"""The projection `alerts`: every message that a source has heard, with its latest hearings.

A message is its header and its time of issue: heard again by the same source, it is the same row with one
more hearing. A hearing that is told twice (by its id) counts once. Rows of other sources that heard
the same message are put together when they are read: a lane is folded by itself.
"""

from __future__ import annotations

from datetime import datetime
from hashlib import sha256
from typing import Any

import msgspec

from projections.folds.data import (
    LONGEST_ID,
    flag,
    fraction,
    identifier,
    number,
    printable,
    text,
    texts,
    time,
)
from streams.messages import Event, Logged

NAME = "alerts"
VERSION = 2
"""Raised whenever the same events give other rows; the runner then folds them again from the start."""

TYPES = frozenset({"alert.received", "alert.ended"})

HEARINGS = 20
"""Latest hearings that are kept of a message; `heard` counts all of them."""
LONGEST_HEADER = 1000
"""Characters; one by the rules has 268 at most."""


class Hearing(msgspec.Struct, frozen=True, kw_only=True):
    """One reception of a message; times are UTC, `start` and `end` seconds of the source's audio.

    `ended_at` is when its end of message was heard (None: not yet, or never); `tones` are the attention
    signals in between.
    """

    id: str
    at: datetime
    node: str
    bursts: int | None
    confidence: float | None
    confirmed: bool
    voted: bool
    start: float | None
    end: float | None
    ended_at: datetime | None = None
    tones: list[dict[str, Any]] = []


class AlertRow(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A message as one source has heard it; what its header says is None where nobody can read it.

    `alert` is the same for all sources that heard it. `heard` times, `first_at` to `last_at`; `confirmed`
    where one hearing was, `confidence` is that of the best. `hearings` are the latest, newest last.
    `injected`: it was played as a test.
    `seq` and `hash` name the last event that changed it.
    """

    id: str
    alert: str
    source: str
    header: str
    originator: str | None
    originator_name: str | None
    event: str | None
    event_name: str | None
    locations: list[str]
    places: list[str | None]
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
    hearings: list[dict[str, Any]]
    injected: bool
    seq: int
    hash: str


def concerns(event: Event) -> str | None:
    """The id of the row that `event` may change, or None."""
    source = identifier(event.source)
    if event.type not in TYPES or source is None:
        return None
    header = _header(event)
    return None if header is None else f"{_alert(header, event)}/{source}"[:LONGEST_ID]


def alert_id(header: str, issued_at: datetime | None, *, injected: bool = False) -> str:
    """What names a message whoever hears it: of its header and its time of issue, which has the year.

    One that was played as a test is another, lest it be taken for a hearing of the real one.
    """
    issued = issued_at.isoformat() if issued_at else ""
    test = "\ntest" if injected else ""
    return sha256(f"{header}\n{issued}{test}".encode("utf-8", "replace")).hexdigest()[:16]


def _alert(header: str, event: Event) -> str:
    return alert_id(header, _issued(event), injected=flag(event.data, "injected"))


def fold(row: AlertRow | None, logged: Logged) -> AlertRow | None:
    """The row after `logged`. Only `alert.received` makes one."""
    event = logged.event
    id, header = concerns(event), _header(event)
    if id is None or header is None:
        return row
    if event.type == "alert.ended":
        return None if row is None else _ended(row, logged)
    hearing = _hearing(event)
    before = _first(id, header, event) if row is None else row
    if any(known["id"] == hearing.id for known in before.hearings):
        return row
    return msgspec.structs.replace(
        before,
        confirmed=before.confirmed or hearing.confirmed,
        confidence=max(
            (one for one in (before.confidence, hearing.confidence) if one is not None), default=None
        ),
        heard=before.heard + 1,
        first_at=min(before.first_at, event.at),
        last_at=max(before.last_at, event.at),
        hearings=[*before.hearings, msgspec.to_builtins(hearing)][-HEARINGS:],
        seq=event.seq,
        hash=logged.hash,
    )


def _ended(row: AlertRow, logged: Logged) -> AlertRow:
    """The row once the end of one of its hearings was heard; an end of none that is kept changes nothing."""
    event = logged.event
    hearing = (text(event.data, "hearing") or "")[:LONGEST_ID]
    hearings = [
        {**known, "ended_at": msgspec.to_builtins(event.at), "tones": _tones(event)}
        if known["id"] == hearing and known["ended_at"] is None
        else known
        for known in row.hearings
    ]
    if hearings == row.hearings:
        return row
    ended_at = event.at if row.ended_at is None else max(row.ended_at, event.at)
    return msgspec.structs.replace(row, hearings=hearings, ended_at=ended_at, seq=event.seq, hash=logged.hash)


def _first(id: str, header: str, event: Event) -> AlertRow:
    """The row of a message that was not heard before; its first hearing comes on top."""
    data = event.data
    return AlertRow(
        id=id,
        alert=_alert(header, event),
        source=printable(event.source),
        header=header,
        originator=text(data, "originator"),
        originator_name=text(data, "originator_name"),
        event=(text(data, "event") or "")[:LONGEST_ID] or None,
        event_name=text(data, "event_name"),
        locations=[place for place in texts(data, "locations") if place is not None],
        places=texts(data, "places"),
        valid_minutes=number(data, "valid_minutes"),
        issued_at=_issued(event),
        expires_at=time(text(data, "expires_at")),
        station=text(data, "station"),
        problems=[problem for problem in texts(data, "problems") if problem is not None],
        confirmed=False,
        confidence=None,
        heard=0,
        first_at=event.at,
        last_at=event.at,
        ended_at=None,
        hearings=[],
        injected=flag(data, "injected"),
        seq=event.seq,
        hash="",
    )


def _hearing(event: Event) -> Hearing:
    data = event.data
    return Hearing(
        # Without an id each event is a hearing of its own.
        id=(text(data, "hearing") or f"event {event.seq}")[:LONGEST_ID],
        at=event.at,
        node=printable(event.node),
        bursts=number(data, "bursts"),
        confidence=fraction(data, "confidence"),
        confirmed=flag(data, "confirmed"),
        voted=flag(data, "voted"),
        start=fraction(data, "start"),
        end=fraction(data, "end"),
    )


def _header(event: Event) -> str | None:
    found = text(event.data, "header")
    return found[:LONGEST_HEADER] if found else None


def _issued(event: Event) -> datetime | None:
    return time(text(event.data, "issued_at"))


def _tones(event: Event) -> list[dict[str, Any]]:
    found = event.data.get("tones")
    return [
        {"kind": text(tone, "kind"), "start": fraction(tone, "start"), "seconds": fraction(tone, "seconds")}
        for tone in (found if isinstance(found, list) else [])[:HEARINGS]
        if isinstance(tone, dict)
    ]
