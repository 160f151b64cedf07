"""What a lane's log says of its sources: a pure fold of its events."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import msgspec

from streams.alerts import TESTS, Condition, ConditionKind
from streams.messages import Event
from streams.vocabulary import Desired, LoggedSettings, Recorded, SourceFact, SourceState, settings_of


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """One source: what it is, what is wanted of it, and what was last logged of it.

    `wanted_since` is when it was last started that had been stopped, `last_test` when a weekly test was
    last received from it, `conditions` the episodes that are open, by their kind; `recorded` what of it is.
    """

    settings: LoggedSettings
    name: str = ""
    desired: Desired = "stopped"
    state: SourceState = "stopped"
    reason: str | None = None
    wanted_since: datetime | None = None
    last_test: datetime | None = None
    conditions: Mapping[ConditionKind, str] = {}
    recorded: Recorded = "alerts"


Sources = Mapping[str, Source]

_STATES: dict[str, SourceState] = {
    "source.starting": "starting",
    "source.running": "running",
    "source.stalled": "stalled",
    "source.failed": "failed",
    "source.stopped": "stopped",
}


def fold(source: Source | None, event: Event) -> Source | None:
    """The source after `event`; None when there is none (any more).

    Raises msgspec.ValidationError where an event cannot be understood.
    """
    if event.type == "source.removed":
        return None
    if event.type == "source.added":
        fact, settings = _described(event)
        return Source(settings=settings, name=fact.name or "") if settings else source
    if source is None:
        return None
    if event.type == "source.updated":
        fact, settings = _described(event)
        return msgspec.structs.replace(
            source,
            settings=settings or source.settings,
            name=source.name if fact.name is None else fact.name,
            recorded=fact.recorded or source.recorded,
        )
    if event.type in _STATES:
        return _observed(source, event)
    if event.type == "alert.received":
        # Another version's events count as well, as far as this much of them is there.
        tested = event.data.get("event") in TESTS and event.data.get("confirmed") is True
        tested = tested and event.data.get("injected") is not True
        return msgspec.structs.replace(source, last_test=event.at) if tested else source
    if event.type in ("condition.opened", "condition.closed"):
        return _conditioned(source, event)
    return source


def _described(event: Event) -> tuple[SourceFact, LoggedSettings | None]:
    stated = event.data.get("settings")
    fact = msgspec.convert({**event.data, "settings": None}, SourceFact)
    return fact, None if stated is None else settings_of(stated)


def _observed(source: Source, event: Event) -> Source:
    fact = msgspec.convert(event.data, SourceFact)
    begins = fact.desired == "running" and source.desired != "running"
    return msgspec.structs.replace(
        source,
        state=_STATES[event.type],
        reason=fact.reason,
        desired=fact.desired or source.desired,
        wanted_since=event.at if begins else source.wanted_since,
    )


def _conditioned(source: Source, event: Event) -> Source:
    condition = msgspec.convert(event.data, Condition)
    others = {kind: episode for kind, episode in source.conditions.items() if kind != condition.kind}
    if event.type == "condition.opened":
        others[condition.kind] = condition.episode
    return msgspec.structs.replace(source, conditions=others)
