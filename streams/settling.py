"""A command's result: the event that tells it, and what the append settles with it."""

from __future__ import annotations

import msgspec

from streams.admission import FORGET, UNREADABLE, UNSIGNED, Delivery, valid_until
from streams.drafts import Draft, Settlement
from streams.handler import Result
from streams.messages import Answer, Durability
from streams.parking import Parked
from streams.vocabulary import CommandResult, ParkedAdded, plain

KEPT_OF_UNSIGNED = 4096
"""Bytes that the log keeps of what is not signed."""


def settled(
    delivery: Delivery,
    result: Result,
    *,
    lane: str,
    default: Durability,
    command: str | None,
    type: str,
    by: str | None,
    marked: bool,
) -> tuple[tuple[Draft, ...], Settlement]:
    """The events of a result of `delivery`, the one that tells it last, and its settlement.

    `command` is the id it is a result of (None: nobody's), `default` the lane's durability, `marked`
    whether the id's mark is this delivery's own.
    """
    data = CommandResult(
        type=type,
        sequence=delivery.sequence,
        request=_shown(delivery, result).decode("utf-8", "replace"),
        signature=delivery.signature,
        state=result.state,
        reason=result.reason,
        field=result.field,
        by=by,
        detail=result.detail,
        received_at=delivery.received_at.isoformat(timespec="milliseconds"),
        entry=delivery.entry,
        deliveries=delivery.deliveries,
    )
    answer = Answer(
        id=delivery.id,
        lane=lane,
        outcome=result.outcome,
        sequence=delivery.sequence,
        seq=0,
        state=result.state,
        reason=result.reason,
        field=result.field,
        by=by,
        detail=result.detail,
    )
    outline = _outline(delivery)
    source = outline.source
    settlement = Settlement(
        entry=delivery.entry,
        answer=answer,
        client=delivery.client,
        durability=outline.durability or default,
        forget_at=valid_until(delivery) + FORGET,
        marked=marked,
        parked=parked_copy(delivery, result),
    )
    event = Draft(type=f"command.{result.outcome}", source=source, command=command, data=plain(data))
    if settlement.parked is None:
        return (*result.drafts, event), settlement
    added = plain(ParkedAdded(type=type, why=settlement.parked.why, deliveries=delivery.deliveries))
    fact = Draft(type="parked.added", source=source, command=command, data=added)
    return (*result.drafts, fact, event), settlement


def _shown(delivery: Delivery, result: Result) -> bytes:
    """What the log keeps of the bytes: of those that are nobody's only the beginning, lest they fill it."""
    trusted = result.outcome != "rejected" or result.reason not in UNSIGNED
    return delivery.raw if trusted else delivery.raw[:KEPT_OF_UNSIGNED]


def parked_copy(delivery: Delivery, result: Result) -> Parked | None:
    """The copy to keep of a command that `result` parks; None where it does not."""
    if (result.outcome, result.reason) != ("failed", "parked"):
        return None
    return Parked(
        id=delivery.id,
        raw=delivery.raw,
        signature=delivery.signature,
        why=result.detail or "",
        deliveries=delivery.deliveries,
    )


def durability_of(delivery: Delivery, default: Durability) -> Durability:
    """The durability that the command asks for, `default` where it asks for none or cannot be read."""
    return _outline(delivery).durability or default


def _outline(delivery: Delivery) -> _Outline:
    """What can be read of a command that may be unreadable or not to be trusted."""
    try:
        return _decode_outline(delivery.raw)
    except UNREADABLE:
        return _Outline()


class _Outline(msgspec.Struct, frozen=True):
    """The few fields of a command that a result needs."""

    source: str = ""
    durability: Durability | None = None


_decode_outline = msgspec.json.Decoder(_Outline).decode
