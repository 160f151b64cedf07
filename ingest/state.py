"""What a lane's log says of its sources: a pure fold of its events."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from streams.messages import Event
from streams.vocabulary import Desired, SourceFact, SourceSettings, SourceState


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """One source: what it is, what is wanted of it, and what was last logged of it."""

    settings: SourceSettings
    name: str = ""
    desired: Desired = "stopped"
    state: SourceState = "stopped"
    reason: str | None = None


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
    if event.type not in _STATES and event.type not in {"source.added", "source.updated", "source.removed"}:
        return source
    if event.type == "source.removed":
        return None
    fact = msgspec.convert(event.data, SourceFact)
    if event.type == "source.added":
        return Source(settings=fact.settings, name=fact.name or "") if fact.settings else source
    if source is None:
        return None
    if event.type == "source.updated":
        return msgspec.structs.replace(
            source,
            settings=fact.settings or source.settings,
            name=source.name if fact.name is None else fact.name,
        )
    return msgspec.structs.replace(
        source,
        state=_STATES[event.type],
        reason=fact.reason,
        desired=fact.desired or source.desired,
    )
