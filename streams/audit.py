"""Verifying a lane's log: hash chain, gapless seq, tokens that never fall, one result per command."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from streams.connection import Link
from streams.messages import GENESIS, decode_event, digest
from streams.names import LaneKeys
from streams.tail import START, Position


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """The first bad event of a lane: where it stands and what is wrong with it."""

    lane: str
    seq: int
    problem: str


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What was verified of a lane: how many events, the last one, and the first fault if any."""

    lane: str
    events: int
    seq: int
    hash: str
    fault: Fault | None = None


def verify(lane: str, entries: Iterable[tuple[bytes, bytes]], head: Position = START) -> Verdict:
    """Verify (bytes, hash) pairs that begin at the lane's first event; stops at the first fault.

    `head` is what the lane said of its last event before the reading began: events that were cut off
    at the end are missed by it. More may have been appended since.
    """
    seq, previous, token = 0, GENESIS, 0
    results: set[str] = set()

    def verdict(problem: str | None = None) -> Verdict:
        fault = Fault(lane=lane, seq=seq + 1, problem=problem) if problem else None
        return Verdict(lane=lane, events=seq, seq=seq, hash=previous, fault=fault)

    for raw, stated in entries:
        if digest(raw) != stated.decode("ascii", "replace"):
            return verdict("its bytes do not match its hash")
        try:
            event = decode_event(raw)
        except (msgspec.MsgspecError, RecursionError) as error:
            return verdict(f"it cannot be decoded: {error}")
        if event.seq != seq + 1:
            return verdict(f"seq {event.seq} stands where {seq + 1} belongs")
        if event.prev != previous:
            return verdict("its prev is not the hash of the event before it")
        if event.token < token:
            return verdict(f"its token {event.token} is lower than {token} before it")
        if event.type.startswith("command.") and event.command:
            if event.command in results:
                return verdict(f"a second result of command {event.command}")
            results.add(event.command)
        if event.seq == head.seq and stated.decode() != head.hash:
            return verdict(f"its hash is not that of the head, {head.hash[:12]}…")
        seq, previous, token = event.seq, stated.decode(), event.token
    if seq < head.seq:
        return verdict(f"it is missing, and all after it up to the head, {head.seq}")
    return verdict()


def head_of(link: Link, keys: LaneKeys) -> Position:
    """What the lane says of its last event. Raises Unreachable."""
    seq, stated = link.call("HMGET", keys.head, "seq", "hash")
    return Position(int(seq), stated.decode()) if seq else START
