"""What a command means for a source: a pure decision, (source, command) → what is to be done."""

from __future__ import annotations

from typing import Literal

import msgspec

from ingest.state import Source
from streams.messages import Command
from streams.names import SOURCE_ID
from streams.vocabulary import COMMANDS, Params, SourceAdd, SourceUpdate

Action = Literal["add", "update", "remove", "start", "stop", "restart", "nothing"]


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done; `after` is the source as it then should be (None: gone)."""

    action: Action
    after: Source | None = None


class Rejection(msgspec.Struct, frozen=True, kw_only=True):
    """Why a command makes no sense here."""

    reason: str
    field: str
    detail: str


def decide(source: Source | None, command: Command) -> Decision | Rejection:
    """Decide over `command` where `source` is what the log says (None: there is no such source)."""
    if not SOURCE_ID.fullmatch(command.source):
        return Rejection(
            reason="invalid_name",
            field="source",
            detail=f"{command.source!r} is no source id: it must match {SOURCE_ID.pattern}",
        )
    try:
        params: Params = msgspec.convert(command.params, COMMANDS[command.type])
    except msgspec.ValidationError as error:
        message, _, where = str(error).partition(" - at `$.")
        field = f"params.{where.rstrip('`')}" if where else "params"
        return Rejection(reason="invalid_params", field=field, detail=_told(message, where, command.params))
    if isinstance(params, SourceAdd):
        return _add(source, params, command.source)
    if source is None:
        return Rejection(
            reason="unknown_source",
            field="source",
            detail=f"there is no source {command.source!r} in this lane; add it first",
        )
    if isinstance(params, SourceUpdate):
        return _update(source, params)
    if command.type == "source.remove":
        return Decision(action="remove")
    if command.type == "source.stop":
        return Decision(action="stop", after=msgspec.structs.replace(source, desired="stopped"))
    wanted = msgspec.structs.replace(source, desired="running")
    return Decision(action="start" if command.type == "source.start" else "restart", after=wanted)


def _add(source: Source | None, params: SourceAdd, id: str) -> Decision | Rejection:
    if not params.settings.path.startswith("/"):
        return _relative(params.settings.path)
    if source is None:
        return Decision(action="add", after=Source(settings=params.settings, name=params.name))
    if (source.settings, source.name) == (params.settings, params.name):
        return Decision(action="nothing", after=source)
    return Rejection(
        reason="exists",
        field="source",
        detail=f"there is a source {id!r} with other settings; update it instead",
    )


def _update(source: Source, params: SourceUpdate) -> Decision | Rejection:
    if params.settings and not params.settings.path.startswith("/"):
        return _relative(params.settings.path)
    after = msgspec.structs.replace(
        source,
        settings=params.settings or source.settings,
        name=source.name if params.name is None else params.name,
    )
    return Decision(action="nothing" if after == source else "update", after=after)


def _relative(path: str) -> Rejection:
    return Rejection(
        reason="invalid_params",
        field="params.settings.path",
        detail=f"{path!r} is relative; give the whole path on the ingest node",
    )


def _told(message: str, where: str, params: object) -> str:
    value = params
    for part in where.rstrip("`").split(".") if where else ():
        value = value.get(part) if isinstance(value, dict) else None
    return f"{message}; got {str(value)[:80]!r}" if where else message
