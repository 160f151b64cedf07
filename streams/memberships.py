"""Which groups a source is in, for keys that are limited to groups: folded from the `station` lane."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec

from streams.messages import Event


class Members(msgspec.Struct, frozen=True):
    """A group's id, and the sources in it; what else it has is for others."""

    id: str
    members: tuple[str, ...]


class _Made(msgspec.Struct, frozen=True):
    group: str
    members: tuple[str, ...]


class _Gone(msgspec.Struct, frozen=True):
    group: str


Memberships = Mapping[str, Members]
"""By the group's id."""


def fold(groups: Memberships, event: Event) -> Memberships:
    """The groups after an event; one that cannot be understood changes nothing."""
    try:
        if event.type == "group.created":
            made = msgspec.convert(event.data, _Made)
            return {**groups, made.group: Members(made.group, made.members)}
        if event.type == "group.removed":
            gone = msgspec.convert(event.data, _Gone).group
            return {id: group for id, group in groups.items() if id != gone}
    except msgspec.ValidationError:
        pass
    return groups


def by_source(groups: Memberships) -> Mapping[str, Collection[str]]:
    """The groups of each source that is in one."""
    found: dict[str, set[str]] = {}
    for group in groups.values():
        for source in group.members:
            found.setdefault(source, set()).add(group.id)
    return found
