"""The commands and events of a station: their types and what their `params` and `data` hold."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import UNSET, UnsetType

from streams.group_messages import GroupCreate, GroupParams, GroupRemove
from streams.key_messages import KeyCreate, KeyParams, KeyRevoke, KeyRotate
from streams.names import PIPE_NAME

SourceKind = Literal["file", "stream", "device", "pipe"]
SourceState = Literal["stopped", "starting", "running", "stalled", "failed"]
Desired = Literal["running", "stopped"]
Recorded = Literal["alerts", "always"]


class _Signal(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    # Unset rather than a default: it does not stand in commands, which older nodes then understand.
    gain_db: Annotated[float, msgspec.Meta(ge=-60, le=60)] | UnsetType = UNSET
    channel: Annotated[int, msgspec.Meta(ge=1, le=64)] | Literal["mix"] | UnsetType = UNSET
    rate: Annotated[int, msgspec.Meta(ge=6_000, le=192_000)] | UnsetType = UNSET


class FileSettings(_Signal, frozen=True, kw_only=True, tag_field="kind", tag="file"):
    """A recording played as if it were live.

    `path` is absolute and lies on the ingest node. `pace` is `realtime` or `fast` (as fast as
    it can be read). `loop` starts again at the end; otherwise the source stops there.

    As for every kind: `gain_db` is added to the level; `channel` takes one channel (the first is 1) or
    the `mix` of all; `rate` is that in Hz to which the audio is resampled. Without them it stays as it is.
    """

    path: str
    loop: bool = False
    pace: Literal["realtime", "fast"] = "realtime"


class StreamSettings(_Signal, frozen=True, kw_only=True, tag_field="kind", tag="stream"):
    """Audio from the network: by an `url`, or as an `sdp` describes it (RTP); one of the two.

    The address is of http or https and names Icecast, Shoutcast, HLS, a playlist (M3U, PLS) or an SDP.
    """

    url: Annotated[str, msgspec.Meta(max_length=2_000)] = ""
    sdp: Annotated[str, msgspec.Meta(max_length=8_000)] = ""


class PipeSettings(_Signal, frozen=True, kw_only=True, tag_field="kind", tag="pipe"):
    """What a program writes: `pipe` is its name in the configuration of the node, never a command line."""

    pipe: Annotated[str, msgspec.Meta(pattern=rf"\A{PIPE_NAME.pattern}\Z")]


class DeviceSettings(_Signal, frozen=True, kw_only=True, tag_field="kind", tag="device"):
    """A sound card of the node, by the name it has there (`tocsin source device list`).

    `capture_rate` in Hz and `capture_channels` are what is asked of the device; without them its own default.
    """

    device: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    capture_rate: Annotated[int, msgspec.Meta(ge=6_000, le=192_000)] | UnsetType = UNSET
    capture_channels: Annotated[int, msgspec.Meta(ge=1, le=64)] | UnsetType = UNSET


SourceSettings = FileSettings | StreamSettings | PipeSettings | DeviceSettings
"""Settings of every kind of source, told apart by `kind`."""
_KINDS = {kind.__struct_config__.tag: kind for kind in get_args(SourceSettings)}


class ForeignSettings(msgspec.Struct, frozen=True):
    """Settings in the log that this version does not understand, as they stand there, and why it does not.

    A newer version wrote them. The source is there all the same; only to run it needs that version.
    """

    table: dict[str, Any]
    why: str


LoggedSettings = SourceSettings | ForeignSettings
"""What a log says of a source's settings."""


def settings_of(stated: Any) -> LoggedSettings:
    """The settings that an event states. Raises msgspec.ValidationError where they are no table.

    A command may hold only fields that are known, else its wish would be half fulfilled. What stands in the
    log was accepted by whoever knew all of it: fields that a newer version added are left out here.
    """
    table = msgspec.convert(stated, dict[str, Any])
    kind = _KINDS.get(table.get("kind"))
    known = (*kind.__struct_fields__, "kind") if kind else ()
    if kind is None:
        return ForeignSettings(table, f"unknown kind {table.get('kind')!r}")
    try:
        found: SourceSettings = msgspec.convert({key: table[key] for key in known if key in table}, kind)
    except msgspec.ValidationError as error:
        return ForeignSettings(table, str(error))
    return found


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


class EpisodeAcknowledge(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`condition.acknowledge` of a source: the signer has seen the episode of a condition that is open."""

    episode: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]


class SourceInject(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`source.inject`: play a recording through what the source's audio goes through, as a test.

    `path` is absolute and lies on the ingest node.
    """

    path: Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]


class Reported(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A fact that another node heard while it could not log it: `spool` is its id there."""

    spool: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    source: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    type: Annotated[str, msgspec.Meta(pattern=r"^(alert|recording)\.[a-z]+$")]
    data: dict[str, Any]
    at: datetime


class SourceReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`source.report`: log what a node has in its spool for this lane, which is another's now."""

    facts: Annotated[list[Reported], msgspec.Meta(min_length=1, max_length=50)]


Params = SourceAdd | SourceUpdate | EpisodeAcknowledge | SourceInject | SourceReport | NoParams

COMMANDS: dict[str, type[Params]] = {
    "source.add": SourceAdd,
    "source.update": SourceUpdate,
    "source.remove": NoParams,
    "source.start": NoParams,
    "source.stop": NoParams,
    "source.restart": NoParams,
    "source.inject": SourceInject,
    "source.report": SourceReport,
    "recording.start": NoParams,
    "recording.stop": NoParams,
    "condition.acknowledge": EpisodeAcknowledge,
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


class ConditionAcknowledge(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`condition.acknowledge`: the signer sees to a notification's `episode`, and it is repeated no more.

    `rule` and `subject` are the episode's, so that the log says what was acknowledged, to whoever reads
    it: the number alone is that of a row.
    """

    episode: Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
    rule: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    subject: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


StationParams = ParkedRetry | ParkedDrop | ConditionAcknowledge | GroupParams | KeyParams

STATION_COMMANDS: dict[str, type[StationParams]] = {
    "parked.retry": ParkedRetry,
    "parked.drop": ParkedDrop,
    "condition.acknowledge": ConditionAcknowledge,
    "key.create": KeyCreate,
    "key.rotate": KeyRotate,
    "key.revoke": KeyRevoke,
    "group.create": GroupCreate,
    "group.remove": GroupRemove,
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
        "alert.burst",
        "alert.received",
        "alert.ended",
        "recording.started",
        "recording.finished",
        "recording.failed",
        "recording.removed",
        "condition.opened",
        "condition.closed",
        "lane.acquired",
        "lane.released",
        "parked.added",
        "parked.retried",
        "parked.dropped",
        "condition.acknowledged",
        "key.created",
        "key.rotated",
        "key.revoked",
        "rejections.counted",
        "group.created",
        "group.removed",
        "group.switched",
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
    `reason` says why (for failed, stalled and stopped; for running what is wrong all the same), `rate`
    in Hz and `channels` with running, `recorded` comes with updated: whether all of it is to be recorded,
    or alerts alone.
    """

    settings: SourceSettings | None = None
    name: str | None = None
    desired: Desired | None = None
    reason: str | None = None
    rate: int | None = None
    channels: int | None = None
    recorded: Recorded | None = None


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


class ConditionAcknowledged(msgspec.Struct, frozen=True, kw_only=True):
    """`data` of `condition.acknowledged`, in the `station` lane: which episode, and by which key."""

    episode: int
    rule: str
    subject: str
    by: str


def plain(message: msgspec.Struct) -> dict[str, Any]:
    """A message struct as the dict that `params` and `data` carry."""
    built: dict[str, Any] = msgspec.to_builtins(message)
    return built
