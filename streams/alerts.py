"""What the events `alert.*` and `condition.*` hold in their `data`.

An alert is a message decoded from a source's audio. `start` and `end` are seconds of audio since the
source started, as telemetry counts them; an event's `at` is the time at which it was heard.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

TESTS = frozenset({"RWT", "RMT"})
"""The events that count as a weekly test: in the week of a monthly one none is required (47 CFR 11.61)."""

MeasuredKind = Literal["silence", "hiss", "clipping", "buffer", "drift"]
ConditionKind = Literal[MeasuredKind, "stalled", "decoder.starved", "weekly_test.missing"]


class AlertBurst(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`alert.burst`: one burst as it was received; nothing is concluded from it yet.

    `injected`, here and below: it was heard in a recording that was played as a test (`source.inject`).
    """

    text: str
    confidence: float
    start: float
    end: float
    injected: bool = False


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """What a header says; None where that cannot be read. Times are UTC.

    `locations` are the codes (PSSCCC) in their order, `places` what each names (None: unknown).
    `valid_minutes` counts from `issued_at`; `expires_at` is their sum, the purge time. `station` is
    who sent it, without the blanks that fill it up. `problems` say what is not as the rules have it.
    """

    header: str
    originator: str | None
    originator_name: str | None
    event: str | None
    event_name: str | None
    locations: tuple[str, ...]
    places: tuple[str | None, ...]
    valid_minutes: int | None
    issued_at: datetime | None
    expires_at: datetime | None
    station: str | None
    problems: tuple[str, ...]


class AlertReceived(Header, frozen=True, kw_only=True, omit_defaults=True):
    """`alert.received`: a message, and how it was received.

    `hearing` names this reception for ever, also where it is reported twice. `problems` say where the header
    breaks 47 CFR 11.31. `confirmed` speaks of reception alone: `bursts` agreed, or together they are certain
    enough (`confidence`, 0 to 1); `voted` where no two of them were alike.
    """

    hearing: str
    bursts: int
    confidence: float
    confirmed: bool
    voted: bool
    start: float
    end: float
    injected: bool = False


class Tone(msgspec.Struct, frozen=True, kw_only=True):
    """An attention signal: 853 and 960 Hz together, or 1050 Hz; both in seconds of audio."""

    kind: Literal["attention", "1050"]
    start: float
    seconds: float


class AlertEnded(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`alert.ended`: the end of a message was heard, with the tones since its header.

    `hearing`, `header` and `issued_at` are those of the message; None where its header was not heard.
    """

    hearing: str | None = None
    header: str | None = None
    issued_at: datetime | None = None
    end: float
    tones: tuple[Tone, ...] = ()
    injected: bool = False


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """`condition.opened` and `condition.closed`: something that lasts; `episode` is the same in both."""

    episode: str
    kind: ConditionKind
    reason: str


class ConditionSeen(msgspec.Struct, frozen=True, kw_only=True):
    """`condition.acknowledged` in the lane of the source: which episode, and by which key."""

    episode: str
    kind: ConditionKind
    by: str


AlertFact = AlertBurst | AlertReceived | AlertEnded

ALERT_EVENTS: dict[type[AlertFact], str] = {
    AlertBurst: "alert.burst",
    AlertReceived: "alert.received",
    AlertEnded: "alert.ended",
}
