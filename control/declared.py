"""What a file says of a station: its sources and groups, each as it should be."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from typing import Any

import msgspec

from streams.names import InvalidName, node_name, source_id
from streams.vocabulary import Desired, SourceSettings

HEADER = """\
# The sources and groups of the Tocsin station {station!r}. `tocsin apply FILE` shows what differs and,
# confirmed, submits the commands that make it so. What is left out here stays as it is.
"""


class DeclaredSource(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """A source as it should be; a field that is None may be as it is.

    `settings` are all of them: one left out has its default. `node` is that of sources wired to a machine.
    """

    name: str | None = None
    wanted: Desired | None = None
    node: str | None = None
    settings: dict[str, Any]


class DeclaredGroup(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A group as it should be, with its members in the order of their priority; spans are in seconds."""

    members: list[str]
    name: str = ""
    fallback_after: float = 20.0
    back_after: float = 60.0


class Declared(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a file says. `sources` or `groups` is None where it says nothing of them at all."""

    sources: dict[str, DeclaredSource] | None = None
    groups: dict[str, DeclaredGroup] | None = None


class Undeclarable(ValueError):
    """Raised when a file does not say what a station should be; `field` is where."""

    def __init__(self, field: str, detail: str) -> None:
        super().__init__(f"{field}: {detail}" if field else detail)
        self.field = field


class _Tables(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file before each thing in it is looked at by itself, so that what is wrong can be named by its id."""

    sources: dict[str, dict[str, Any]] | None = None
    groups: dict[str, dict[str, Any]] | None = None


def parse(text: str) -> Declared:
    """What the text (TOML) declares. Raises Undeclarable."""
    try:
        tables = _converted("", tomllib.loads(text), _Tables)
    except tomllib.TOMLDecodeError as error:
        raise Undeclarable("", f"this is no TOML: {error}") from None
    sources, groups = tables.sources, tables.groups
    return Declared(
        sources=None if sources is None else {id: _source(id, table) for id, table in sources.items()},
        groups=None if groups is None else {id: _group(id, table) for id, table in groups.items()},
    )


def _group(id: str, table: dict[str, Any]) -> DeclaredGroup:
    group: DeclaredGroup = _converted(f"groups.{id}", table, DeclaredGroup)
    try:
        for one in (id, *group.members):
            source_id(one)
    except InvalidName as error:
        raise Undeclarable(f"groups.{id}", str(error)) from None
    return group


def _source(id: str, table: dict[str, Any]) -> DeclaredSource:
    source: DeclaredSource = _converted(f"sources.{id}", table, DeclaredSource)
    try:
        source_id(id)
        if source.node is not None:
            node_name(source.node)
    except InvalidName as error:
        raise Undeclarable(f"sources.{id}", str(error)) from None
    return source


def completed(id: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with defaults for what they leave out. Raises Undeclarable where they are unusable."""
    known: SourceSettings = _converted(f"sources.{id}.settings", dict(settings), SourceSettings)
    plain: dict[str, Any] = _without_none(msgspec.to_builtins(known))
    return plain


def _converted(place: str, value: Any, kind: Any) -> Any:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$")
        raise Undeclarable(f"{place}{where.rstrip('`')}".lstrip("."), what) from None


def write(station: str, declared: Declared) -> str:
    """The text that declares this, as `parse` reads it; nothing is said of what is None."""
    import tomli_w

    return HEADER.format(station=station) + "\n" + tomli_w.dumps(_without_none(msgspec.to_builtins(declared)))


def _without_none(value: Any) -> Any:
    """TOML knows no null; a setting that is None has it by default."""
    if isinstance(value, dict):
        return {key: _without_none(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_without_none(inner) for inner in value if inner is not None]
    return value
