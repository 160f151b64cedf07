"""The commands and events of a station: their types and what their `params` and `data` hold."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

SourceKind = Literal["file", "stream", "device", "pipe"]
SourceState = Literal["stopped", "starting", "running", "stalled", "failed"]
Desired = Literal["running", "stopped"]


class FileSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="file"
):
    """A recording played as if it were live.

    `path` is absolute and lies on the ingest node. `pace` is `realtime` or `fast` (as fast as
    it can be read). `loop` starts again at the end; otherwise the source stops there.
    """

    path: str
    loop: bool = False
    pace: Literal["realtime", "fast"] = "realtime"


SourceSettings = FileSettings
"""Settings of every kind of source, told apart by `kind` (a union as kinds are added)."""


class SourceAdd(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`source.add`: make a source known to its lane; it stays stopped until started."""

    settings: SourceSettings
    name: str = ""


class SourceUpdate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`source.update`: replace settings or name; a running source is restarted with them."""

    settings: SourceSettings | None = None
    name: str | None = None


class NoParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`source.remove`, `source.start`, `source.stop`, `source.restart` take no parameters."""


Params = SourceAdd | SourceUpdate | NoParams

COMMANDS: dict[str, type[Params]] = {
    "source.add": SourceAdd,
    "source.update": SourceUpdate,
    "source.remove": NoParams,
    "source.start": NoParams,
    "source.stop": NoParams,
    "source.restart": NoParams,
}


class ParkedRetry(msgspec.Struct, frozen=True, kw_only=True):
    """`parked.retry`: submit a new command in place of the parked one `id` of `lane`.

    `request` is the new command's signed bytes as text, `signature` what stands beside them: whoever
    retries signs both. It has the type, source and params of the parked one, and its id as `cause`.
    """

    lane: str
    id: str
    request: str
    signature: str


class ParkedDrop(msgspec.Struct, frozen=True, kw_only=True):
    """`parked.drop`: give up the parked command `id` of `lane`."""

    lane: str
    id: str


STATION_COMMANDS: dict[str, type[ParkedRetry] | type[ParkedDrop]] = {
    "parked.retry": ParkedRetry,
    "parked.drop": ParkedDrop,
}
"""Commands of the `station` lane; those of sources live in the others."""

OVERTAKING = frozenset({"source.start", "source.stop", "source.restart"})
"""Commands that supersede older ones of the same set for the same source."""

EVENTS = frozenset(
    {
        "command.completed",
        "command.failed",
        "command.rejected",
        "command.superseded",
        "command.expired",
        "source.added",
        "source.updated",
        "source.removed",
        "source.starting",
        "source.running",
        "source.stalled",
        "source.failed",
        "source.stopped",
        "lane.acquired",
        "lane.released",
        "parked.added",
        "parked.retried",
        "parked.dropped",
        "log.restored",
        "log.forked",
    }
)
"""Event types written today; CONTRACT names more, which come with what writes them."""


class CommandResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`data` of the `command.*` events.

    `request` is the command's signed bytes as text and `signature` what stood beside them, so
    that anyone with the log can check who asked. `received_at` is the server's time of submit and
    `entry` the stream entry it came as.
    """

    type: str
    sequence: int
    request: str
    signature: str
    state: str | None = None
    reason: str | None = None
    field: str | None = None
    by: str | None = None
    detail: str | None = None
    received_at: str | None = None
    entry: str | None = None
    deliveries: int = 1


class SourceFact(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`data` of the `source.*` events; a field that is absent says nothing new.

    `settings` and `name` come with added and updated, `desired` whenever the wish changed,
    `reason` says why (for failed, stalled and stopped), `rate` in Hz and `channels` with running.
    """

    settings: SourceSettings | None = None
    name: str | None = None
    desired: Desired | None = None
    reason: str | None = None
    rate: int | None = None
    channels: int | None = None


class ParkedAdded(msgspec.Struct, frozen=True, kw_only=True):
    """`data` of `parked.added`, in the lane of the command, just before its result."""

    type: str
    why: str
    deliveries: int


class ParkedClosed(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`data` of `parked.retried` and `parked.dropped`, in the `station` lane: whose copy may go.

    `by` is the new command's id, where it was retried.
    """

    lane: str
    id: str
    by: str | None = None


def plain(message: msgspec.Struct) -> dict[str, Any]:
    """A message struct as the dict that `params` and `data` carry."""
    built: dict[str, Any] = msgspec.to_builtins(message)
    return built
