"""What events say of episodes, and what is to be done about one now. Pure functions.

An episode begins with an event, or with a look at what is so, and ends the same way. That an event's
lane and seq name it makes it one episode however often and by whomever the event is read.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from typing import Any, Literal

import msgspec

from projections.folds.data import flag, identifier, number, printable, text, time
from streams.messages import Event
from streams.names import STATION_LANE
from streams.notices import Kind, Maintenance, Rule

LATE = 600.0
"""Seconds: what was over before it could be told, and began longer ago than this, is not told any more."""
ALERT_LASTS = timedelta(hours=24)
"""After which an alert counts as over that does not say until when it is in force."""
LONGEST_ALERT = timedelta(hours=100)
"""No header states more than 99 h 30 min (47 CFR 11.31: TTTT)."""
LONGEST = 300
"""Characters of a detail."""

_OPENS: dict[str, Kind] = {
    "source.failed": "source.failed",
    "source.stalled": "source.stalled",
    "parked.added": "parked",
    "alert.received": "alert",
}
_WELL = frozenset({"source.running", "source.stopped", "source.removed"})
"""Not `source.starting`: a source that fails at every start fails once."""
_SETTLED = frozenset({"parked.retried", "parked.dropped"})
ACKNOWLEDGED = "condition.acknowledged"
PLAYED = "A TEST, played by tocsin source inject"
"""Begins the detail of what no transmitter has sent."""
TYPES = frozenset({*_OPENS, *_WELL, *_SETTLED, ACKNOWLEDGED})
"""The events that open, close or acknowledge any episode.

`alert.ended` is none: it tells that the message was heard to its end, not that the warning is over.
"""


class Opening(msgspec.Struct, frozen=True, kw_only=True):
    """An episode that begins; without `seq` it was found by looking.

    `source` is the one it is about, if any; `expires_at` is when it ends by itself.
    """

    rule: str
    kind: Kind
    subject: str
    source: str = ""
    lane: str
    seq: int | None
    at: datetime
    expires_at: datetime | None = None
    detail: str


class Closing(msgspec.Struct, frozen=True, kw_only=True):
    """The end, at `at`, of the episodes of these kinds about the subject; `lane` is that of their opening."""

    kinds: frozenset[Kind]
    subject: str
    lane: str
    at: datetime


class Acknowledgement(msgspec.Struct, frozen=True, kw_only=True):
    """That somebody sees to an episode: which, as an event tells it, and by which key."""

    episode: int
    rule: str
    subject: str
    by: str
    at: datetime


class Episode(msgspec.Struct, frozen=True, kw_only=True):
    """An episode as it is kept (`projections.tables.episodes`)."""

    id: int
    rule: str
    kind: Kind
    subject: str
    source: str = ""
    lane: str | None
    seq: int | None = None
    detail: str
    opened_at: datetime
    expires_at: datetime | None = None
    closed_at: datetime | None = None
    repeats: int = 0
    notified_at: datetime | None = None
    acknowledged_at: datetime | None = None
    acknowledged_by: str | None = None


def openings(rules: Iterable[Rule], lane: str, event: Event) -> list[Opening]:
    """The episodes that `event` opens: at most one for each rule."""
    kind = _OPENS.get(event.type)
    subject = identifier(event.command if kind == "parked" else event.source)
    if kind is None or subject is None:
        return []
    return [
        Opening(
            rule=rule.name,
            kind=kind,
            subject=subject,
            source=identifier(event.source) or "",
            lane=lane,
            seq=event.seq,
            at=event.at,
            expires_at=expiry(event) if kind == "alert" else None,
            detail=_detail(kind, event),
        )
        for rule in rules
        if rule.on == kind and concerns(rule, lane, event.source) and _matches(rule, event)
    ]


def closing(lane: str, event: Event) -> Closing | None:
    """What `event` ends; None where it ends nothing."""
    if event.type in _WELL:
        kinds: frozenset[Kind] = frozenset({"source.failed", "source.stalled"})
        if event.type == "source.removed":
            kinds |= {"silence"}
    elif event.type == "source.failed":
        kinds = frozenset({"source.stalled"})
    elif event.type == "source.stalled":
        kinds = frozenset({"source.failed"})
    elif event.type in _SETTLED and lane == STATION_LANE:
        home, command = text(event.data, "lane"), text(event.data, "id")
        if not home or not command:
            return None
        return Closing(kinds=frozenset({"parked"}), subject=command, lane=home, at=event.at)
    else:
        return None
    return Closing(kinds=kinds, subject=event.source, lane=lane, at=event.at)


def acknowledgement(lane: str, event: Event) -> Acknowledgement | None:
    """Which episode `event` acknowledges; None where it acknowledges none."""
    episode, by = number(event.data, "episode"), text(event.data, "by")
    rule, subject = text(event.data, "rule"), text(event.data, "subject")
    if event.type != ACKNOWLEDGED or lane != STATION_LANE or episode is None or not (rule and subject and by):
        return None
    return Acknowledgement(episode=episode, rule=rule, subject=subject, by=by, at=event.at)


def expiry(event: Event) -> datetime:
    """Until when the alert is in force: as it says (`expires_at`), else for a day."""
    stated = time(text(event.data, "expires_at"))
    if stated is None:
        return event.at + ALERT_LASTS
    return min(max(stated, event.at), event.at + LONGEST_ALERT)


def concerns(rule: Rule, lane: str, source: str) -> bool:
    """Whether the rule's filters let this source of this lane through."""
    return _among(lane, rule.lanes) and _among(source, rule.sources)


def _among(name: str, patterns: tuple[str, ...]) -> bool:
    return not patterns or (bool(name) and any(fnmatchcase(name, pattern) for pattern in patterns))


def _matches(rule: Rule, event: Event) -> bool:
    if rule.events and text(event.data, "event") not in rule.events:
        return False
    return not rule.counties or any(
        covers(named, county) for named in _counties(event.data) for county in rule.counties
    )


def covers(named: str, county: str) -> bool:
    """Whether the place `named` by an alert (PSSCCC) takes in all or a part of `county`.

    The first digit tells a part of a county, CCC 000 a whole state, 000000 the whole country.
    """
    if len(named) != 6 or not named.isdigit():
        return False
    state, number = named[1:3], named[3:]
    if named == "000000":
        return True
    return state == county[1:3] and (number in ("000", county[3:]) or county[3:] == "000")


def _counties(data: dict[str, Any]) -> list[str]:
    found = data.get("locations")
    return [name for name in found if isinstance(name, str)] if isinstance(found, list) else []


def _detail(kind: Kind, event: Event) -> str:
    if kind == "parked":
        told = (
            f"{text(event.data, 'type') or 'a command'} of {event.source}: {text(event.data, 'why') or '?'}"
        )
    elif kind == "alert":
        places = ", ".join(_counties(event.data)[:31])
        told = f"{text(event.data, 'event') or 'an alert'} for {places or 'places unknown'}"
        if flag(event.data, "injected"):
            told = f"{PLAYED}: {told}"
    else:
        told = text(event.data, "reason") or ""
    return printable(" ".join(told.split()))[:LONGEST]


Todo = Literal["tell", "wait", "late"]


def todo(rule: Rule | None, episode: Episode, at: datetime, maintenance: Iterable[Maintenance] = ()) -> Todo:
    """What is to be done about an episode at `at`: tell it (again), wait, or never tell it (`late`)."""
    if rule is None:
        return "wait"  # the rule is gone; should it come back, the episode is what it was
    seconds = ((episode.closed_at or at) - episode.opened_at).total_seconds()
    held = is_held(rule, episode, at, maintenance)
    if episode.notified_at is None:
        if episode.closed_at is not None and (
            held or seconds < rule.holds_for or (at - episode.opened_at).total_seconds() > LATE
        ):
            return "late"
        return "tell" if seconds >= rule.holds_for and not held else "wait"
    if episode.closed_at is not None or episode.acknowledged_at is not None or not rule.repeat or held:
        return "wait"
    return "tell" if (at - episode.notified_at).total_seconds() >= rule.repeat else "wait"


def is_held(rule: Rule, episode: Episode, at: datetime, maintenance: Iterable[Maintenance]) -> bool:
    """Whether nothing may go out about the episode now: quiet hours, or work is being done there."""
    return rule.is_quiet(at) or any(
        window.begin <= at < window.until
        and _among(episode.source, window.sources)
        and _among(episode.lane or "", window.lanes)
        for window in maintenance
    )
