"""Whether a key may sign a command: its role, and its limits to sources or groups."""

from __future__ import annotations

from collections.abc import Callable, Collection
from fnmatch import fnmatchcase

from streams.messages import Command
from streams.names import STATION_LANE
from streams.signing import Key


def in_no_group(source: str) -> Collection[str]:
    """The groups of a source where none is in any."""
    return ()


def forbidden(
    key: Key, command: Command, groups: Callable[[str], Collection[str]] = in_no_group
) -> str | None:
    """Why `key` may not sign `command`; None where it may. `groups` tells those of a source."""
    if command.type == "key.rotate" and command.params.get("id") == key.id:
        return None  # whoever has a key may replace it
    if not key.permits(command.type):
        return f"a key of role {key.role!r} may not sign {command.type!r}"
    if not (key.sources or key.groups):
        return None
    subject = command.source
    if command.lane == STATION_LANE:
        # What concerns the whole station is nothing for a key that is limited to a part of it.
        told = command.params.get("subject") if command.type == "condition.acknowledge" else None
        subject = told if isinstance(told, str) else ""
    if subject and covers(key, subject, groups(subject)):
        return None
    limits = ", ".join([*key.sources, *(f"group {group}" for group in key.groups)])
    return f"the key {key.id!r} is limited to {limits}: {subject or command.type!r} is none of it"


def covers(key: Key, source: str, groups: Collection[str] = ()) -> bool:
    """Whether the source lies within the key's limits."""
    if not (key.sources or key.groups):
        return True
    return any(fnmatchcase(source, glob) for glob in key.sources) or any(
        fnmatchcase(group, glob) for group in groups for glob in key.groups
    )
