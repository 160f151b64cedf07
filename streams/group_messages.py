"""Groups of sources: the commands that make and remove them, and the events that say which member counts."""

from __future__ import annotations

from typing import Annotated

import msgspec

from streams.names import SOURCE_ID

Id = Annotated[str, msgspec.Meta(pattern=rf"\A{SOURCE_ID.pattern}\Z")]
Wait = Annotated[float, msgspec.Meta(ge=1, le=86_400)]


class GroupCreate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`group.create`: of these sources, in the order of their priority, the first that is well counts.

    One that is silent or down for `fallback_after` seconds is replaced by the next that is heard; one
    before it that has been heard again for `back_after` seconds takes its place back.
    """

    group: Id
    members: Annotated[tuple[Id, ...], msgspec.Meta(min_length=1, max_length=32)]
    name: Annotated[str, msgspec.Meta(max_length=200)] = ""
    fallback_after: Wait = 20.0
    back_after: Wait = 60.0


class GroupRemove(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`group.remove`: forget the group; its members go on."""

    group: Id


class GroupCreated(msgspec.Struct, frozen=True, kw_only=True):
    """`data` of `group.created`, in the `station` lane."""

    group: str
    members: tuple[str, ...]
    name: str
    fallback_after: float
    back_after: float


class GroupRemoved(msgspec.Struct, frozen=True, kw_only=True):
    """`data` of `group.removed`."""

    group: str


class GroupSwitched(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`data` of `group.switched`: from now on the source `to` counts, and why; `was` is the one before."""

    group: str
    to: str
    reason: str
    was: str | None = None


GroupParams = GroupCreate | GroupRemove
