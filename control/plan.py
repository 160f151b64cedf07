"""What differs between a file and a station, and the commands that close it. Pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import msgspec

from control.declared import Declared, DeclaredGroup, DeclaredSource, Undeclarable, completed
from control.desk import Wish
from control.errands import Errand
from streams.names import STATION_LANE, lane_for
from streams.vocabulary import Desired


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A source as the station has it; `sequence` is that of its last command, where it lives."""

    lane: str
    name: str
    wanted: Desired
    settings: dict[str, Any]
    sequence: int = 0


class Difference(msgspec.Struct, frozen=True):
    """A field that is to become another; None where it is not there before, or after."""

    field: str
    before: Any
    after: Any


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done with one source or group. What is replaced is removed and added anew."""

    source: str
    group: str = ""
    action: Literal["add", "change", "replace", "remove"]
    differences: tuple[Difference, ...] = ()
    lane: str
    errand: Errand


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """All changes, and in `left` what the file does not name and that stays (`group ID` for groups).

    Those of groups come after those of sources: `source` is empty then, and the lane that of the station.
    """

    changes: tuple[Change, ...]
    groups: tuple[Change, ...] = ()
    left: tuple[str, ...] = ()

    @property
    def all(self) -> tuple[Change, ...]:
        """The changes of sources, then those of groups."""
        return (*self.changes, *self.groups)


class Lanes(msgspec.Struct, frozen=True):
    """Where new sources of a station live: the node for those that name none, and how many lanes float."""

    node: str
    count: int

    def of(self, id: str, kind: str, node: str | None) -> str:
        """The lane in which a source of this kind lives."""
        return lane_for(kind, id, node=node or self.node, lane_count=self.count)


def plan(
    declared: Declared,
    found: Mapping[str, Found],
    lanes: Lanes,
    *,
    prune: bool = False,
    sequences: Mapping[str, int] | None = None,
    groups: Mapping[str, DeclaredGroup] | None = None,
) -> Plan:
    """What makes the station as the file says. Raises Undeclarable.

    `sequences` are the last sequences, in their lanes to be, of sources that are not there; `groups` are
    those that the station has (None: it knows of none).
    """
    wanted = declared.sources or {}
    if prune and declared.sources is None:
        raise Undeclarable("sources", "the file names no sources; [sources] alone would remove all of them")
    changes: list[Change] = []
    for id, source in sorted(wanted.items()):
        change = (
            _change(id, source, found[id], lanes)
            if id in found
            else _addition(id, source, lanes, (sequences or {}).get(id, 0))
        )
        if change is not None:
            changes.append(change)
    unnamed = sorted(found.keys() - wanted.keys())
    if prune:
        changes += [_removal(id, found[id]) for id in unnamed]
    stray = sorted(set(groups or {}) - set(declared.groups or {}))
    return Plan(
        changes=tuple(changes),
        groups=tuple(_groups(declared.groups or {}, groups, stray if prune else [])),
        left=() if prune else (*unnamed, *(f"group {id}" for id in stray)),
    )


def _groups(
    wanted: Mapping[str, DeclaredGroup], found: Mapping[str, DeclaredGroup] | None, stray: list[str]
) -> Iterator[Change]:
    if wanted and found is None:
        raise Undeclarable("groups", "this station has no groups")
    now = found or {}
    for id, group in sorted(wanted.items()):
        if now.get(id) != group:
            yield _group(id, now.get(id), group)
    yield from (_group(id, now[id], None) for id in stray)


def _group(id: str, before: DeclaredGroup | None, after: DeclaredGroup | None) -> Change:
    """There is no command that changes a group: it is removed and made anew."""
    was, to = (msgspec.to_builtins(one) if one else {} for one in (before, after))
    wishes = [Wish(type="group.remove", source="", params={"group": id})] if before else []
    wishes += [Wish(type="group.create", source="", params={"group": id, **to})] if after else []
    return Change(
        source="",
        group=id,
        action="remove" if after is None else "add" if before is None else "replace",
        differences=tuple(
            Difference(field, was.get(field), to.get(field))
            for field in to
            if was.get(field) != to.get(field)
        ),
        lane=STATION_LANE,
        errand=Errand(source="", wishes=tuple(wishes)),
    )


def declared_of(found: Mapping[str, Found], groups: Mapping[str, DeclaredGroup] | None = None) -> Declared:
    """What a file says that makes a station as this one is."""
    return Declared(sources=_declared_sources(found), groups=dict(groups) if groups else None)


def _declared_sources(found: Mapping[str, Found]) -> dict[str, DeclaredSource]:
    return {
        id: DeclaredSource(
            name=source.name,
            wanted=source.wanted,
            node=source.lane.removeprefix("node.") if source.lane.startswith("node.") else None,
            settings=source.settings,
        )
        for id, source in sorted(found.items())
    }


def _addition(id: str, source: DeclaredSource, lanes: Lanes, sequence: int) -> Change:
    settings = completed(id, source.settings)
    adding = _add(id, settings, source.name or "", source.wanted)
    told = _fields(settings, source.name, source.wanted)
    return Change(
        source=id,
        action="add",
        differences=tuple(
            Difference(field, None, after) for field, after in told.items() if after is not None
        ),
        lane=lanes.of(id, settings["kind"], source.node),
        errand=_errand(id, adding, sequence),
    )


def _change(id: str, source: DeclaredSource, now: Found, lanes: Lanes) -> Change | None:
    """What becomes of a source that is there; None where it is as it should be."""
    same = _plain(source.settings) == _plain(now.settings)
    settings = now.settings if same else completed(id, source.settings)
    name = now.name if source.name is None else source.name
    wanted = source.wanted or now.wanted
    lane = lanes.of(id, settings.get("kind", ""), source.node or _node_of(now.lane))
    before = _fields(_usual(id, now.settings), now.name, now.wanted)
    after = _fields(_usual(id, settings), name, wanted)
    moves = lane != now.lane
    differences = [
        Difference(field, before.get(field), after.get(field))
        for field in [*before, *(field for field in after if field not in before)]
        if before.get(field) != after.get(field)
    ]
    if moves:
        differences.append(Difference("lane", now.lane, lane))
    if not differences:
        return None
    if moves:
        wishes = (Wish(type="source.remove", source=id), *_add(id, settings, name, wanted))
        # The new lane counts anew.
        errand = Errand(source=id, wishes=(_only_if(wishes[0], now.sequence), *wishes[1:]))
    else:
        errand = _errand(id, _update(id, now, settings, name, wanted, differences), now.sequence)
    return Change(
        source=id,
        action="replace" if moves else "change",
        differences=tuple(differences),
        lane=lane,
        errand=errand,
    )


def _removal(id: str, now: Found) -> Change:
    errand = _errand(id, (Wish(type="source.remove", source=id),), now.sequence)
    return Change(source=id, action="remove", lane=now.lane, errand=errand)


def _add(id: str, settings: dict[str, Any], name: str, wanted: Desired | None) -> tuple[Wish, ...]:
    adding = Wish(type="source.add", source=id, params={"settings": settings, "name": name})
    return (adding, Wish(type="source.start", source=id)) if wanted == "running" else (adding,)


def _update(
    id: str,
    now: Found,
    settings: dict[str, Any],
    name: str,
    wanted: Desired,
    differences: list[Difference],
) -> tuple[Wish, ...]:
    """A source that is to stop is stopped before it is changed: an update would restart it."""
    params: dict[str, Any] = {}
    if any(one.field.startswith("settings.") for one in differences):
        params["settings"] = settings
    if name != now.name:
        params["name"] = name
    update = (Wish(type="source.update", source=id, params=params),) if params else ()
    if wanted == now.wanted:
        return update
    if wanted == "stopped":
        return (Wish(type="source.stop", source=id), *update)
    return (*update, Wish(type="source.start", source=id))


def _errand(id: str, wishes: tuple[Wish, ...], sequence: int) -> Errand:
    """Each holds only if nobody else has commanded the source since: what was confirmed is what is done."""
    return Errand(
        source=id, wishes=tuple(_only_if(wish, sequence + place) for place, wish in enumerate(wishes))
    )


def _only_if(wish: Wish, sequence: int) -> Wish:
    return msgspec.structs.replace(wish, if_sequence=sequence)


def _fields(settings: Mapping[str, Any], name: str | None, wanted: str | None) -> dict[str, Any]:
    told = {f"settings.{key}": value for key, value in settings.items()}
    return {**told, "name": name or None, "wanted": wanted}


def _usual(id: str, settings: dict[str, Any]) -> dict[str, Any]:
    """With defaults filled in; those that only another version understands as they are."""
    try:
        return completed(id, settings)
    except Undeclarable:
        return _plain(settings)


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if value is not None}


def _node_of(lane: str) -> str | None:
    return lane.removeprefix("node.") if lane.startswith("node.") else None
