"""Verifying a lane's log: chain, gapless seq, tokens that never fall, one result per command, signatures."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import msgspec

from streams.authorship import Authors, Signatures
from streams.chain import Broken, Joint, joined
from streams.connection import Link
from streams.names import LaneKeys
from streams.sieve import LIMIT, Sieve
from streams.tail import START, Position


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """The first bad event of a lane: where it stands and what is wrong with it."""

    lane: str
    seq: int
    problem: str


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What was verified of a lane: how many events, the last one, and the first fault if any.

    `marks` are the hashes of the events that were asked for by seq. `signatures` is None where nobody
    asked for them to be checked.
    """

    lane: str
    events: int
    seq: int
    hash: str
    token: int = 0
    fault: Fault | None = None
    signatures: Signatures | None = None
    marks: dict[int, str] = {}


def verify(
    lane: str,
    entries: Iterable[tuple[bytes, bytes]],
    head: Position = START,
    limit: int = LIMIT,
    *,
    after: Position = START,
    authors: Authors | None = None,
    marks: Collection[int] = (),
) -> Verdict:
    """Verify (bytes, hash) pairs that begin behind `after`, the start of the lane; names the first fault.

    `head` is what the lane said of its last event before the reading began: events that were cut off
    at the end are missed by it. More may have been appended since. A position with an empty hash stands
    for its seq alone; a range then begins from the `prev` that its first event states. Memory is the
    same for a log of any length: at most `limit` results are held, more go to a temporary file.
    Raises SpillFailed.
    """
    with Sieve(limit) as results:
        verdict = _chain(lane, entries, head, results, after, authors, frozenset(marks))
        second = results.first_repeated()
    if authors is not None:
        verdict = msgspec.structs.replace(verdict, signatures=authors.counted())
    if second is None:
        return verdict
    # It was taken before any fault of the chain was found, so it is the first.
    seq, previous, command = second.split(" ", 2)
    before = int(seq) - 1
    fault = Fault(lane=lane, seq=int(seq), problem=f"a second result of command {command}")
    return msgspec.structs.replace(verdict, events=before - after.seq, seq=before, hash=previous, fault=fault)


def _chain(
    lane: str,
    entries: Iterable[tuple[bytes, bytes]],
    head: Position,
    results: Sieve,
    after: Position,
    authors: Authors | None,
    wanted: frozenset[int],
) -> Verdict:
    """Verify all but that no command has two results: those go to `results`; stops at the first fault."""
    at = Joint(after.seq, after.hash)
    marks: dict[int, str] = {}

    def verdict(problem: str | None = None) -> Verdict:
        fault = Fault(lane=lane, seq=at.seq + 1, problem=problem) if problem else None
        return Verdict(
            lane=lane,
            events=at.seq - after.seq,
            seq=at.seq,
            hash=at.hash,
            token=at.token,
            fault=fault,
            marks=marks,
        )

    for raw, stated in entries:
        try:
            then, event = joined(at, raw, stated.decode("ascii", "replace"))
        except Broken as broken:
            return verdict(str(broken))
        if event.type.startswith("command."):
            if event.command:
                results.add(event.command, f"{event.seq} {at.hash} {event.command}")
            if authors is not None and (wrong := authors.problem(lane, event)):
                return verdict(wrong)
        if event.seq == head.seq and then.hash != (head.hash or then.hash):
            return verdict(f"its hash is not that of the head, {head.hash[:12]}…")
        if event.seq in wanted:
            marks[event.seq] = then.hash
        at = then
    if at.seq < head.seq:
        return verdict(f"it is missing, and all after it up to the head, {head.seq}")
    return verdict()


def head_of(link: Link, keys: LaneKeys) -> Position:
    """What the lane says of its last event. Raises Unreachable."""
    seq, stated = link.call("HMGET", keys.head, "seq", "hash")
    return Position(int(seq), stated.decode()) if seq else START
