"""What is to be done for a source: pure decisions over what the log says and what is so.

`decide` answers a command, `mend` compares what should run with what does.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from ingest.state import Source
from ingest.usable import fault, path_fault
from streams.alerts import AlertFact, Condition, ConditionSeen
from streams.messages import Command
from streams.names import FLOATING_KINDS, SOURCE_ID, floating_lanes
from streams.recordings import RecordingFact
from streams.vocabulary import (
    COMMANDS,
    EpisodeAcknowledge,
    LoggedSettings,
    Params,
    Recorded,
    SourceAdd,
    SourceFact,
    SourceInject,
    SourceReport,
    SourceSettings,
    SourceState,
    SourceUpdate,
)

Action = Literal[
    "add",
    "update",
    "remove",
    "start",
    "stop",
    "restart",
    "acknowledge",
    "record",
    "inject",
    "report",
    "nothing",
]
MOST_LANES = 64
_FLOATING = frozenset(floating_lanes(MOST_LANES))


class Fact(msgspec.Struct, frozen=True):
    """An event still to be logged: its type and what it says."""

    type: str
    data: SourceFact | AlertFact | Condition | ConditionSeen | RecordingFact


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done, and the events that say so; `after` is the source by them (None: gone).

    Where `starts`, audio has to be read before it is done, and what becomes of that is logged next.
    """

    action: Action
    facts: tuple[Fact, ...] = ()
    after: Source | None = None
    starts: bool = False


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
    if isinstance(params, SourceAdd | SourceUpdate) and params.settings is not None:
        rejection = _misplaced(params.settings, command.lane) or _unusable(params.settings)
        if rejection is not None:
            return rejection
    if isinstance(params, SourceAdd):
        return _add(source, params, command.source)
    if isinstance(params, SourceReport):
        # Also of a source that was removed since: it was heard.
        return Decision(action="report", after=source)
    if source is None:
        return Rejection(
            reason="unknown_source",
            field="source",
            detail=f"there is no source {command.source!r} in this lane; add it first",
        )
    if isinstance(params, SourceUpdate):
        return _update(source, params)
    if command.type in _RECORDED:
        return _record(source, _RECORDED[command.type])
    if isinstance(params, SourceInject):
        return _inject(source, params)
    if isinstance(params, EpisodeAcknowledge):
        return _acknowledge(source, params.episode, command.key)
    if command.type == "source.remove":
        return Decision(action="remove", facts=(Fact("source.removed", SourceFact()),))
    if command.type == "source.stop":
        return _stop(source)
    return Decision(
        action="start" if command.type == "source.start" else "restart",
        facts=(_STARTING,),
        after=_starting(source),
        starts=True,
    )


_STARTING = Fact("source.starting", SourceFact(desired="running"))


def _starting(source: Source) -> Source:
    return msgspec.structs.replace(source, desired="running", state="starting", reason=None)


def _stop(source: Source) -> Decision:
    if source.desired == source.state == "stopped":
        return Decision(action="stop", after=source)
    return Decision(
        action="stop",
        facts=(Fact("source.stopped", SourceFact(desired="stopped", reason="command")),),
        after=msgspec.structs.replace(source, desired="stopped", state="stopped", reason="command"),
    )


def _add(source: Source | None, params: SourceAdd, id: str) -> Decision | Rejection:
    if source is None:
        fact = SourceFact(settings=params.settings, name=params.name, desired="stopped")
        return Decision(
            action="add",
            facts=(Fact("source.added", fact),),
            after=Source(settings=params.settings, name=params.name),
        )
    if (source.settings, source.name) == (params.settings, params.name):
        return Decision(action="nothing", after=source)
    return Rejection(
        reason="exists",
        field="source",
        detail=f"there is a source {id!r} with other settings; update it instead",
    )


_RECORDED: dict[str, Recorded] = {"recording.start": "always", "recording.stop": "alerts"}


def _record(source: Source, recorded: Recorded) -> Decision:
    if source.recorded == recorded:
        return Decision(action="nothing", after=source)
    fact = Fact("source.updated", SourceFact(recorded=recorded))
    return Decision(action="record", facts=(fact,), after=msgspec.structs.replace(source, recorded=recorded))


def _inject(source: Source, params: SourceInject) -> Decision | Rejection:
    if source.desired != "running":
        detail = "it is stopped: what is heard in a test says nothing of a source that is not listened to"
        return Rejection(reason="not_running", field="source", detail=detail)
    if (wrong := path_fault(params.path)) is not None:
        return Rejection(reason="invalid_params", field="params.path", detail=wrong)
    return Decision(action="inject", after=source)


def _acknowledge(source: Source, episode: str, by: str) -> Decision | Rejection:
    kind = next((kind for kind, known in source.conditions.items() if known == episode), None)
    if kind is None:
        open = ", ".join(f"{kind} {known}" for kind, known in source.conditions.items())
        detail = f"no episode {episode!r} is open; open are: {open or 'none'}"
        return Rejection(reason="unknown_episode", field="params.episode", detail=detail)
    seen = Fact("condition.acknowledged", ConditionSeen(episode=episode, kind=kind, by=by))
    return Decision(action="acknowledge", facts=(seen,), after=source)


def _update(source: Source, params: SourceUpdate) -> Decision:
    settings = params.settings if params.settings != source.settings else None
    name = params.name if params.name != source.name else None
    if settings is None and name is None:
        return Decision(action="nothing", after=source)
    updated = Fact("source.updated", SourceFact(settings=settings, name=name))
    after = msgspec.structs.replace(
        source, settings=settings or source.settings, name=source.name if name is None else name
    )
    if settings is None or source.desired == "stopped":
        return Decision(action="update", facts=(updated,), after=after)
    return Decision(action="update", facts=(updated, _STARTING), after=_starting(after), starts=True)


def _misplaced(settings: SourceSettings, lane: str) -> Rejection | None:
    kind = settings.__struct_config__.tag
    if lane in _FLOATING and kind not in FLOATING_KINDS:
        return Rejection(
            reason="wrong_lane",
            field="lane",
            detail=f"a source of kind {kind!r} is wired to its node; {lane!r} moves between nodes",
        )
    return None


def _unusable(settings: SourceSettings) -> Rejection | None:
    found = fault(settings)
    if found is None:
        return None
    field, detail = found
    return Rejection(reason="invalid_params", field=f"params.settings.{field}", detail=detail)


def _told(message: str, where: str, params: object) -> str:
    value = params
    for part in where.rstrip("`").split(".") if where else ():
        value = value.get(part) if isinstance(value, dict) else None
    return f"{message}; got {str(value)[:80]!r}" if where else message


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """A capture as it is: by which settings, and the state it was last heard of (None: not yet)."""

    settings: LoggedSettings
    state: SourceState | None = None
    reason: str | None = None


def begun(source: Source | None, capture: Seen | None, settings: LoggedSettings) -> SourceState | None:
    """How far a start has come that needs nothing more begun: "running", "starting", or None.

    One that is being started is not begun anew: else starts that follow one another faster than a
    slow source begins would never let it begin.
    """
    if source is None or capture is None or capture.settings != settings:
        return None
    if capture.state is None:
        return "starting"
    running = capture.state == source.state == "running" and source.desired == "running"
    return "running" if running else None


Mending = Literal["nothing", "start", "stop", "say"]


def mend(source: Source | None, capture: Seen | None) -> Mending:
    """What makes what runs agree with what the log says of a source, and the log with what runs.

    `start` anew (in the place of what runs), `stop` what runs and say so, `say` what was heard of it.
    """
    if source is None:
        return "stop" if capture else "nothing"
    if source.desired == "stopped":
        return "stop" if capture or source.state != "stopped" else "nothing"
    if capture is None or capture.settings != source.settings:
        return "start"
    if capture.state is None:
        # It was not heard of yet; "failed" is what a start is called that takes too long.
        return "nothing" if source.state in ("starting", "failed") else "say"
    return "nothing" if (capture.state, capture.reason) == (source.state, source.reason) else "say"
