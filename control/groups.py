"""Groups of sources: what the log says of them, and which member is to count. Pure.

All members run by themselves and are heard all the time, so that a switch is one to the present: there is
no queue in which a member that waits could grow stale.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from streams.group_messages import (
    GroupCreate,
    GroupCreated,
    GroupRemove,
    GroupRemoved,
    GroupSwitched,
)
from streams.memberships import Members
from streams.messages import Event

FRESH = 3.0
"""Seconds within which a source must have been heard to be there now."""


class Group(Members, frozen=True, kw_only=True):
    """A group; `members` by priority, `active` the one that counts (None: none has been heard yet)."""

    name: str = ""
    fallback_after: float
    back_after: float
    active: str | None = None


Groups = Mapping[str, Group]


def fold(groups: Groups, event: Event) -> Groups:
    """The groups after an event of the station lane. Raises msgspec.ValidationError."""
    if event.type == "group.created":
        made = msgspec.convert(event.data, GroupCreated)
        return {**groups, made.group: made_group(made)}
    if event.type == "group.removed":
        gone = msgspec.convert(event.data, GroupRemoved).group
        return {id: group for id, group in groups.items() if id != gone}
    if event.type == "group.switched":
        switched = msgspec.convert(event.data, GroupSwitched)
        if switched.group in groups:
            group = msgspec.structs.replace(groups[switched.group], active=switched.to)
            return {**groups, group.id: group}
    return groups


def made_group(made: GroupCreate | GroupCreated) -> Group:
    """The group as it is made: nobody counts yet."""
    return Group(
        id=made.group,
        members=made.members,
        name=made.name,
        fallback_after=made.fallback_after,
        back_after=made.back_after,
    )


class Change(msgspec.Struct, frozen=True):
    """What a command does: the events that say so (none where it is so already), and the state then."""

    state: str
    drafts: tuple[tuple[str, msgspec.Struct], ...] = ()


class Refusal(msgspec.Struct, frozen=True):
    """Why a command makes no sense here."""

    reason: str
    field: str
    detail: str


def decide(groups: Groups, asked: GroupCreate | GroupRemove) -> Change | Refusal:
    """What becomes of a command."""
    if isinstance(asked, GroupRemove):
        if asked.group not in groups:
            return Refusal("unknown_group", "params.group", f"there is no group {asked.group!r}")
        return Change("removed", (("group.removed", GroupRemoved(group=asked.group)),))
    twice = next((one for one in asked.members if asked.members.count(one) > 1), None)
    if twice is not None:
        return Refusal("invalid_params", "params.members", f"{twice!r} is named twice")
    there = groups.get(asked.group)
    if there is not None:
        if msgspec.structs.replace(there, active=None) == made_group(asked):
            return Change("created")
        detail = f"there is a group {asked.group!r} with other members or times; remove it first"
        return Refusal("exists", "params.group", detail)
    created = GroupCreated(
        group=asked.group,
        members=asked.members,
        name=asked.name,
        fallback_after=asked.fallback_after,
        back_after=asked.back_after,
    )
    return Change("created", (("group.created", created),))


class Ear(msgspec.Struct):
    """When a source was heard, in seconds of one clock: at all, loud enough, and since when on and on."""

    begun: float
    level_at: float | None = None
    loud_at: float | None = None
    well_since: float | None = None

    def hear(self, at: float, *, loud: bool, patience: float) -> None:
        """Take a measurement; a silence of `patience` seconds breaks what lasted until then."""
        self.level_at = at
        if not loud:
            return
        if self.loud_at is None or at - self.loud_at >= patience:
            self.well_since = at
        self.loud_at = at

    def is_there(self, now: float) -> bool:
        """Whether it is heard at present."""
        return self.loud_at is not None and now - self.loud_at < FRESH

    def missing_for(self, now: float) -> float:
        """Seconds since it was heard last, or since somebody listens."""
        return now - (self.begun if self.loud_at is None else self.loud_at)

    def lasts(self, now: float) -> float:
        """Seconds for which it has been well; 0 where it is not there."""
        return now - self.well_since if self.well_since is not None and self.is_there(now) else 0.0


def choose(group: Group, ears: Mapping[str, Ear], now: float) -> tuple[str, str] | None:
    """The member that is to count from now on, and why; None where all stays as it is."""
    counts = group.active if group.active in group.members else None
    first = counts or group.members[0]
    if counts is None and ears[first].is_there(now):
        return first, "it is heard"
    if ears[first].missing_for(now) >= group.fallback_after:
        other = next((one for one in group.members if one != first and ears[one].is_there(now)), None)
        return (other, _why(first, ears[first], group, now)) if other else None
    for one in group.members[: group.members.index(first)]:
        if ears[one].lasts(now) >= group.back_after:
            return one, f"{one} has been heard again for {group.back_after:g} s"
    return None


def _why(member: str, ear: Ear, group: Group, now: float) -> str:
    silent = ear.level_at is not None and now - ear.level_at < FRESH
    return f"{member} is {'silent' if silent else 'down'} for {group.fallback_after:g} s"
