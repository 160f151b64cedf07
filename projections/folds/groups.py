"""The projection `groups`: the groups of sources, and which member of each counts."""

from __future__ import annotations

from datetime import datetime

import msgspec

from projections.folds.data import fraction, identifier, printable, text, texts
from streams.messages import Event, Logged

NAME = "groups"
VERSION = 1
"""Raised whenever the same events give other rows; they are then rebuilt from the archive."""

TYPES = frozenset({"group.created", "group.removed", "group.switched"})


class GroupRow(msgspec.Struct, frozen=True, kw_only=True):
    """A group. `members` stand in the order of their priority; `active` counts (None: none yet).

    `reason` is why, `since` since when: before any counts, since the group was made. Times are UTC.
    """

    id: str
    name: str
    members: list[str]
    fallback_after: float
    back_after: float
    active: str | None
    reason: str | None
    since: datetime
    seq: int


def concerns(event: Event) -> str | None:
    """The id of the row that `event` may change, or None."""
    return identifier(text(event.data, "group")) if event.type in TYPES else None


def fold(row: GroupRow | None, logged: Logged) -> GroupRow | None:
    """The row after `logged`; None when there is no such group (any more)."""
    event = logged.event
    id = concerns(event)
    if id is None:
        return row
    if event.type == "group.removed":
        return None
    if event.type == "group.created":
        return GroupRow(
            id=id,
            name=text(event.data, "name") or "",
            members=[printable(one) for one in texts(event.data, "members") if one],
            fallback_after=fraction(event.data, "fallback_after") or 0.0,
            back_after=fraction(event.data, "back_after") or 0.0,
            active=None,
            reason=None,
            since=event.at,
            seq=event.seq,
        )
    if row is None:
        return None
    return msgspec.structs.replace(
        row,
        active=text(event.data, "to"),
        reason=text(event.data, "reason"),
        since=event.at,
        seq=event.seq,
    )
