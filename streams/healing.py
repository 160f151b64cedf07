"""Mending a log that a failover rolled back: the same events again, with the same seq, hash and bytes.

What a lane's log lost, it lost as a suffix. The owner still has what it wrote, and the archive what
was folded; where the head that stands is a prefix of theirs, the rest is put back before anything
new is written. Nothing is guessed: events that do not join on to the head are left alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, Protocol

import msgspec
import structlog

from streams.admission import FORGET
from streams.connection import Link
from streams.lease import Lease, LeaseLost
from streams.messages import MAX_VALIDITY, OUTCOMES, Answer, Event, canonical, decode_event, digest
from streams.names import LaneKeys
from streams.parking import Parked
from streams.replay import replay
from streams.tail import Position
from streams.vocabulary import CommandResult

BATCH = 500
"""Events put back in one step."""

log = structlog.get_logger(__name__)

Entry = tuple[bytes, str]
"""An event's bytes and their hash (hex)."""

_RESULTS = {f"command.{outcome}": outcome for outcome in OUTCOMES}


class Archive(Protocol):
    """What keeps a lane's events outside Redis."""

    def head(self, lane: str) -> Position | None:
        """The last event kept of the lane; None where there is none. Raises ArchiveAway."""

    def after(self, lane: str, seq: int) -> Iterable[Entry]:
        """The events kept with a higher seq, oldest first. Raises ArchiveAway."""

    def hash_at(self, lane: str, seq: int) -> str | None:
        """The hash kept of the event with this seq; None where it is not kept. Raises ArchiveAway."""


class ArchiveAway(Exception):
    """Raised when the archive cannot be asked now."""


class Mark(msgspec.Struct, frozen=True):
    """What the lane remembers of a command that has its result."""

    entry: str
    id: str
    digest: str
    sequence: int
    source: str
    answer: bytes
    forget_at: datetime


def missing(kept: Sequence[Entry], head: Position) -> list[Entry] | None:
    """What of `kept` (a chain of events) comes after `head`; None where they do not join.

    Empty when `head` is the last of them.
    """
    for index, (raw, stated) in enumerate(kept):
        event = decode_event(raw)
        if event.seq == head.seq and stated == head.hash:
            return list(kept[index + 1 :])
        if event.seq == head.seq + 1 and event.prev == head.hash:
            return list(kept[index:])
        if event.seq > head.seq:
            return None
    return None


def mark(event: Event, lane: str) -> Mark | None:
    """The mark of the command that `event` is the result of; None where it is none, or nobody's."""
    outcome = _RESULTS.get(event.type)
    if outcome is None or event.command is None:
        return None
    result = msgspec.convert(event.data, CommandResult)
    answer = Answer(
        id=event.command,
        lane=lane,
        outcome=outcome,
        sequence=result.sequence,
        seq=event.seq,
        state=result.state,
        reason=result.reason,
        field=result.field,
        by=result.by,
        detail=result.detail,
    )
    return Mark(
        entry=result.entry or "0-0",
        id=event.command,
        digest=digest(result.request.encode()),
        sequence=result.sequence,
        source=event.source,
        answer=canonical(answer),
        forget_at=event.logged_at + MAX_VALIDITY + FORGET,
    )


def parked(event: Event) -> Parked | None:
    """The copy that was kept of the command that `event` parked; None where it parked none."""
    if event.type != "command.failed" or event.command is None or event.data.get("reason") != "parked":
        return None
    result = msgspec.convert(event.data, CommandResult)
    return Parked(
        id=event.command,
        raw=result.request.encode(),
        signature=result.signature,
        why=result.detail or "",
        deliveries=result.deliveries,
    )


def put_back(
    link: Link, keys: LaneKeys, lane: str, lease: Lease, head: Position, lost: Sequence[Entry]
) -> Position:
    """Append `lost`, which follows `head`, as it was; return the new head. Raises LeaseLost, Unreachable."""
    for start in range(0, len(lost), BATCH):
        batch = lost[start : start + BATCH]
        events = [decode_event(raw) for raw, _ in batch]
        request: list[Any] = [
            "FCALL", "tocsin_restore", 8,
            keys.lease, keys.head, keys.events, keys.commands, keys.ids, keys.id_expiry, keys.sequence,
            keys.parked, lease.fence, head.seq, head.hash, events[-1].token, len(batch),
        ]  # fmt: skip
        for event, (raw, stated) in zip(events, batch, strict=True):
            request += (f"{event.seq}-{event.token}", raw, stated)
        marks = [found for event in events if (found := mark(event, lane))]
        request.append(len(marks))
        for one in marks:
            forget_at = int(one.forget_at.timestamp() * 1000)
            request += (one.entry, one.id, one.digest, one.sequence, one.source, one.answer, forget_at)
        copies = [copy for event in events if (copy := parked(event))]
        request.append(len(copies))
        for copy in copies:
            request += (copy.raw, copy.signature, copy.id, copy.why, copy.deliveries)
        reply = link.call(*request)
        if reply[0] != b"ok":
            raise LeaseLost(f"events could not be put back into lane {lane!r}: {reply!r}")
        head = Position(events[-1].seq, batch[-1][1])
    return head


class Healed(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a head that was looked into: where it is now, and what was found out."""

    head: Position
    restored_from: Position | None = None
    """The head that stood before events were put back; None where none were."""
    by: str = ""
    forked_from: Position | None = None
    """The other branch's head, where the archive holds events that contradict the log."""


def heal(
    link: Link,
    keys: LaneKeys,
    lane: str,
    lease: Lease,
    head: Position,
    kept: Sequence[Entry],
    archive: Archive | None,
    left_at: int = 0,
) -> Healed:
    """Put back what the owner (`kept`) and the archive have beyond `head`, before anything is appended.

    `left_at` is the seq up to which the owner knows that there were events, kept or archived.
    Raises ArchiveAway where the log is empty, or ends before `left_at`, and the archive cannot be
    asked: a lane is never begun again at seq 1, nor written over, while its history exists elsewhere.
    """
    found = _from_owner(link, keys, lane, lease, Healed(head=head), kept)
    if archive is None:
        return found
    try:
        found = _from_archive(link, keys, lane, lease, found, archive)
    except ArchiveAway as error:
        if found.head.seq < max(left_at, 1):
            raise
        log.warning("the archive was not asked", lane=lane, detail=str(error))
        return found
    # What the owner keeps begins where the archive ended: it may join on only now.
    return found if found.forked_from else _from_owner(link, keys, lane, lease, found, kept)


def notices(
    link: Link, keys: LaneKeys, lane: str, head: Position, found: Healed
) -> list[tuple[str, dict[str, Any]]]:
    """The events, as type and data, that tell what was `found` where `head` stood.

    A fork is told once, however often it is found: the log is read for it, all of it.
    """
    told: list[tuple[str, dict[str, Any]]] = []
    if found.restored_from:
        log.error("log restored", lane=lane, head=head.seq, to=found.head.seq, by=found.by)
        told.append(("log.restored", {"head": head, "restored": found.head, "by": found.by}))
    if found.forked_from:
        log.error("log forked", lane=lane, head=found.head.seq, other=found.forked_from.seq)
        if not _fork_told(link, keys, found.forked_from):
            told.append(("log.forked", {"head": found.head, "other": found.forked_from}))
    return [(type, msgspec.to_builtins(data)) for type, data in told]


def _fork_told(link: Link, keys: LaneKeys, other: Position) -> bool:
    events = (logged.event for logged in replay(link, keys))
    return any(event.type == "log.forked" and _other(event.data) == other.hash for event in events)


def _other(data: dict[str, Any]) -> Any:
    other = data.get("other")
    return other.get("hash") if isinstance(other, dict) else None


def _from_owner(
    link: Link, keys: LaneKeys, lane: str, lease: Lease, found: Healed, kept: Sequence[Entry]
) -> Healed:
    lost = missing(kept, found.head)
    if not lost:
        return found
    now_at = put_back(link, keys, lane, lease, found.head, lost)
    before = found.restored_from or found.head
    return Healed(head=now_at, restored_from=before, by=found.by or "owner")


def _from_archive(
    link: Link, keys: LaneKeys, lane: str, lease: Lease, found: Healed, archive: Archive
) -> Healed:
    archived = archive.head(lane)
    if archived is None:
        return found
    head = found.head
    if archived.seq > head.seq:
        if head.seq and archive.hash_at(lane, head.seq) != head.hash:
            return msgspec.structs.replace(found, forked_from=archived)
        now_at = head
        for batch in _batched(archive.after(lane, head.seq)):
            now_at = put_back(link, keys, lane, lease, now_at, batch)
        before = found.restored_from or head
        return Healed(head=now_at, restored_from=before, by="archive")
    stands = link.call("XRANGE", keys.events, archived.seq, archived.seq)
    if stands and stands[0][1][3].decode() != archived.hash:
        return msgspec.structs.replace(found, forked_from=archived)
    return found


def _batched(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    batch: list[Entry] = []
    for entry in entries:
        batch.append(entry)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
