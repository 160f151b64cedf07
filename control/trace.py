"""The life of one command, put together from the events that speak of it. Pure: events in, steps out."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, Literal
from uuid import UUID

import msgspec

from streams.admission import UNREADABLE
from streams.messages import Command, Event, decode_command

EARLIER = timedelta(minutes=1)
"""How long before the time in its id a command may have been logged, by clocks that differ."""
UNSIGNED = Command(
    id="", station="", lane="", source="", type="", params={}, key="", schema=0,
    issued_at=datetime.min.replace(tzinfo=UTC), expires_at=datetime.min.replace(tzinfo=UTC),
)  # fmt: skip
"""Stands for signed bytes that cannot be read."""

Kind = Literal["signed", "received", "waiting", "fact", "overtook", "result", "after"]


class Told(msgspec.Struct, frozen=True):
    """An event with the lane it stands in."""

    lane: str
    event: Event


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a command's life.

    `seconds` since the step before it (None for the first, negative where clocks differ); `clock` says
    whose time `at` is: the signer's, the Redis server's, or the node's.
    """

    kind: Kind
    what: str
    at: datetime
    clock: Literal["signer", "server", "node"]
    seconds: float | None = None
    lane: str = ""
    seq: int | None = None
    detail: str = ""


class Related(msgspec.Struct, frozen=True, kw_only=True):
    """Another command that this one has to do with: `how` from this one's view."""

    how: Literal["overtook", "overtaken by", "in place of", "retried as", "dropped by"]
    id: str
    type: str = ""
    outcome: str = ""


class Life(msgspec.Struct, frozen=True, kw_only=True):
    """All that the log tells of a command; `outcome` is empty while it has no result."""

    id: str
    lane: str
    source: str
    type: str
    key: str
    outcome: str
    reason: str = ""
    detail: str = ""
    node: str = ""
    token: int | None = None
    sequence: int | None = None
    deliveries: int | None = None
    seconds: float | None = None
    steps: tuple[Step, ...] = ()
    related: tuple[Related, ...] = ()


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """A command that has no result yet, as it stands in its lane's stream."""

    lane: str
    raw: bytes
    sequence: int
    received_at: datetime
    deliveries: int


def issued_by(id: str) -> datetime | None:
    """The time that a UUIDv7 carries; None for other ids."""
    try:
        found = UUID(id)
    except ValueError:
        return None
    if found.version != 7 or str(found) != id:
        return None
    return datetime.fromtimestamp((found.int >> 80) / 1000, UTC)


def life(id: str, told: Iterable[Told], waiting: Waiting | None = None) -> Life | None:
    """The life of the command `id`; None where nothing in `told` is about it, and it does not wait."""
    mentions = [one for one in told if _about(id, one)]
    own = [one for one in mentions if one.event.command == id]
    result = next((one for one in own if one.event.type.startswith("command.")), None)
    if result is None and waiting is None:
        return None
    if result is not None:
        data, lane = result.event.data, result.lane
        signed = _signed(data.get("request"))
    elif waiting is not None:
        data, lane = {}, waiting.lane
        signed = _signed(waiting.raw.decode("utf-8", "replace"))
    steps = _steps(id, signed, data, mentions, waiting if result is None else None)
    event = result.event if result else None
    return Life(
        id=id,
        lane=lane,
        source=event.source if event else signed.source,
        type=_text(data, "type") or signed.type,
        key=signed.key,
        outcome=event.type.partition(".")[2] if event else "",
        reason=_text(data, "reason"),
        detail=_text(data, "detail"),
        node=event.node if event else "",
        token=event.token if event else None,
        sequence=data.get("sequence") if event else (waiting.sequence if waiting else None),
        deliveries=data.get("deliveries", 1) if event else (waiting.deliveries if waiting else None),
        seconds=_between(steps),
        steps=steps,
        related=tuple(_related(id, signed, data, mentions)),
    )


def _about(id: str, one: Told) -> bool:
    data = one.event.data
    if one.event.command == id or data.get("by") == id or data.get("id") == id:
        return True
    return one.event.type.startswith("command.") and _signed(data.get("request")).cause == id


def _steps(
    id: str, signed: Command, data: dict[str, Any], mentions: list[Told], waiting: Waiting | None
) -> tuple[Step, ...]:
    found: list[Step] = []
    if signed is not UNSIGNED:
        until = f"by {signed.key}, valid until {_clock(signed.expires_at)}"
        found.append(
            Step(kind="signed", what="signed", at=_zoned(signed.issued_at), clock="signer", detail=until)
        )
    received = waiting.received_at if waiting else _time(data.get("received_at"))
    if received is not None:
        number = waiting.sequence if waiting else data.get("sequence")
        detail = f"number {number} of its source" if signed.source else f"number {number}"
        found.append(Step(kind="received", what="received", at=received, clock="server", detail=detail))
    if waiting:
        now = datetime.now(UTC)
        detail = f"delivered {waiting.deliveries} times" if waiting.deliveries else "taken by nobody yet"
        found.append(Step(kind="waiting", what="waits", at=now, clock="node", detail=detail))
    ended = False
    for one in mentions:
        event = one.event
        place: dict[str, Any] = {"at": event.at, "clock": "node", "lane": one.lane, "seq": event.seq}
        if event.command == id and event.type.startswith("command."):
            told = [_text(event.data, name) for name in ("state", "reason", "detail")]
            ended = True
            found.append(Step(kind="result", what=event.type, detail=", ".join(filter(None, told)), **place))
            found.append(
                Step(kind="result", what="logged", detail=f"by {event.node}, token {event.token}",
                     **{**place, "at": event.logged_at})
            )  # fmt: skip
        elif event.command == id:
            detail = _text(event.data, "reason") or _text(event.data, "why")
            found.append(Step(kind="after" if ended else "fact", what=event.type, detail=detail, **place))
        elif event.type == "command.superseded" and event.data.get("by") == id:
            detail = f"{_text(event.data, 'type')} {event.command}"
            found.append(Step(kind="overtook", what="overtook", detail=detail, **place))
        elif event.type in ("parked.retried", "parked.dropped") and event.data.get("id") == id:
            detail = f"as {event.data.get('by')}" if event.data.get("by") else f"by {event.command}"
            found.append(Step(kind="after", what=event.type, detail=detail, **place))
    order: tuple[Kind, ...] = ("signed", "received", "fact", "overtook", "result", "after", "waiting")
    # Equal times keep the order of life; what clocks say otherwise stands as they say it. Only the signing
    # is always first: nothing comes before it, whatever the signer's clock says.
    found = sorted(found, key=lambda step: (step.kind != "signed", step.at, order.index(step.kind)))
    timed = [found[0]] if found else []
    for before, step in pairwise(found):
        timed.append(msgspec.structs.replace(step, seconds=(step.at - before.at).total_seconds()))
    return tuple(timed)


def _related(id: str, signed: Command, data: dict[str, Any], mentions: list[Told]) -> Iterable[Related]:
    if signed.cause:
        yield Related(how="in place of", id=signed.cause)
    if by := _text(data, "by"):
        yield Related(how="overtaken by", id=by)
    for one in mentions:
        event = one.event
        if event.command and event.command != id and event.type.startswith("command."):
            outcome, type = event.type.partition(".")[2], _text(event.data, "type")
            how: Literal["overtook", "retried as"] = "retried as"
            if event.type == "command.superseded" and event.data.get("by") == id:
                how = "overtook"
            elif _signed(event.data.get("request")).cause != id:
                continue
            yield Related(how=how, id=event.command, type=type, outcome=outcome)
        elif event.type == "parked.dropped" and event.data.get("id") == id and event.command:
            yield Related(how="dropped by", id=event.command)


def _between(steps: tuple[Step, ...]) -> float | None:
    """From receipt to the result in the log, in seconds."""
    received = next((step.at for step in steps if step.kind == "received"), None)
    logged = next((step.at for step in steps if step.what == "logged"), None)
    return (logged - received).total_seconds() if received and logged else None


def _signed(raw: object) -> Command:
    if not isinstance(raw, str):
        return UNSIGNED
    try:
        return decode_command(raw)
    except (*UNREADABLE, UnicodeEncodeError):
        return UNSIGNED


def _text(data: dict[str, Any], name: str) -> str:
    value = data.get(name)
    return value if isinstance(value, str) else ""


def _time(value: object) -> datetime | None:
    try:
        return _zoned(datetime.fromisoformat(value)) if isinstance(value, str) else None
    except ValueError:
        return None


def _zoned(at: datetime) -> datetime:
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _clock(at: datetime) -> str:
    return f"{_zoned(at).astimezone(UTC):%H:%M:%S}"
