"""Mending a log that a failover rolled back: the same events again, with the same seq, hash and bytes.

What a lane's log lost, it lost as a suffix. The owner still has what it wrote, and the archive what
was folded; where the head that stands is a prefix of theirs, the rest is put back before anything
new is written. Nothing is guessed: events that do not join on to the head are left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec
import structlog

from streams.admission import FORGET, has_answer, validity_end
from streams.connection import Link
from streams.drafts import Append
from streams.history import Archive, ArchiveAway, Entry
from streams.lease import Lease, LeaseLost
from streams.messages import OUTCOMES, Answer, Event, canonical, decode_event, digest, now
from streams.names import LaneKeys
from streams.parking import Parked
from streams.replay import replay
from streams.steps import step
from streams.tail import START, Position
from streams.vocabulary import CommandResult

BATCH = 500
"""Events put back in one step."""

log = structlog.get_logger(__name__)

_RESULTS = {f"command.{outcome}": outcome for outcome in OUTCOMES}


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
        forget_at=validity_end(result.request.encode(), event.logged_at) + FORGET,
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


class Repair(msgspec.Struct, frozen=True, kw_only=True):
    """Where a log is mended: the link, the lane, and the lease under which that is done.

    `tend` looks after the lease; it is called between steps, for a long log takes longer than that lasts.
    A log that is empty gets of the archive what is not older than `keep` seconds, and its last event.
    `note` is told of each command that was completed and is put back: its source, and its sequence there.
    """

    link: Link
    keys: LaneKeys
    lane: str
    lease: Lease
    tend: Callable[[], None] = lambda: None
    keep: float = 0.0
    note: Callable[[str, int], None] = lambda source, sequence: None


Stands = Callable[[Event], bool]


def put_back(
    repair: Repair,
    head: Position,
    lost: Sequence[Entry],
    by: str = "owner",
    stands: Stands = lambda event: True,
) -> Position:
    """Append `lost`, which follows `head`, as it was; return the new head. Raises LeaseLost, Unreachable.

    From the first batch on the lane's head says that it is being restored, until `tell` has told of it.
    Of events for which `stands` says no (the first ones) only the marks are put back, as after a trimming.
    """
    for start in range(0, len(lost), BATCH):
        batch = lost[start : start + BATCH]
        step("putting back")
        head = _restore(repair, head, batch, by, stands)
        step("put back")
        repair.tend()
    return head


def may_be_told(repair: Repair, made: Append, readers: bool) -> bool:
    """Whether an append whose reply was lost, and which does not stand, has to be made again as it was.

    So where somebody may have been told of it by the very append: clients at `memory`, or `readers`. Not
    where it is of a later lease than this one, where a command of it has its answer already (it was refused
    then, for it would be a second one), and where it counts rejections: their marks are not in its events.
    Raises Unreachable, ResponseError.
    """
    if not (made.told_at_once or readers) or made.token > repair.lease.token:
        return False
    results = sum(decode_event(raw).type.startswith("command.") for raw, _ in made.entries)
    if results != len(made.answers) or not all(one.marked for one, _ in made.answers):
        return False
    ids = [answer.id for _, answer in made.answers]
    marks = repair.link.call("HMGET", repair.keys.ids, *ids) if ids else []
    return not any(mark and has_answer(mark) for mark in marks)


def again(repair: Repair, found: Healed, made: Sequence[Entry]) -> Healed:
    """Append what may have stood behind the head before, as it was. Raises LeaseLost, Unreachable.

    Where nothing else is being put back this is none of that: perhaps it had never come to the server.
    """
    by = "owner" if restoring(repair.link, repair.keys) else ""
    return msgspec.structs.replace(found, head=put_back(repair, found.head, made, by))


def tell(repair: Repair, head: Position, told: Sequence[Entry]) -> Position:
    """Append the events that tell what was found; return the new head. Raises LeaseLost, Unreachable."""
    step("telling")
    head = _restore(repair, head, told, "", lambda event: True)
    step("told")
    return head


def _restore(repair: Repair, head: Position, lost: Sequence[Entry], by: str, stands: Stands) -> Position:
    keys, lane = repair.keys, repair.lane
    events = [decode_event(raw) for raw, _ in lost]
    batch = [(event, raw, stated) for event, (raw, stated) in zip(events, lost, strict=True) if stands(event)]
    request: list[Any] = [
        "FCALL", "tocsin_restore", 8,
        keys.lease, keys.head, keys.events, keys.commands, keys.ids, keys.id_expiry, keys.sequence,
        keys.parked, repair.lease.fence, head.seq, head.hash, events[-1].token, by, len(batch),
    ]  # fmt: skip
    for event, raw, stated in batch:
        request += (f"{event.seq}-{event.token}", raw, stated)
    marks = _remembered([found for event in events if (found := mark(event, lane))])
    request.append(len(marks))
    for one in marks:
        forget_at = int(one.forget_at.timestamp() * 1000)
        request += (one.entry, one.id, one.digest, one.sequence, one.source, one.answer, forget_at)
    copies = [copy for event in events if (copy := parked(event))]
    request.append(len(copies))
    for copy in copies:
        request += (copy.raw, copy.signature, copy.id, copy.why, copy.deliveries)
    reply = repair.link.call(*request)
    if reply[0] != b"ok":
        raise LeaseLost(f"events could not be put back into lane {lane!r}: {reply!r}")
    for event in events:
        if event.type == "command.completed":
            repair.note(event.source, event.data["sequence"])
    return Position(events[-1].seq, lost[-1][1]) if batch else head


def _remembered(marks: list[Mark]) -> list[Mark]:
    """Those not to be forgotten yet; of the others, for each source, what tells its last sequence."""
    time = now()
    due = [one for one in marks if one.forget_at <= time]
    last = {one.source: one for one in sorted(due, key=lambda one: one.sequence)}
    nameless = [msgspec.structs.replace(one, id="", answer=b"") for one in last.values()]
    return [*nameless, *(one for one in marks if one.forget_at > time)]


class Restoring(msgspec.Struct, frozen=True):
    """That events are being put back: where the log stood before, and by whom they are."""

    head: Position
    by: str


def restoring(link: Link, keys: LaneKeys) -> Restoring | None:
    """What the lane's head says of a restoration that no event has told of yet. Raises Unreachable."""
    said = link.call("HGET", keys.head, "restored")
    if not said:
        return None
    seq, hash, by = said.decode().split(" ")
    return Restoring(Position(int(seq), hash), by)


class Healed(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a head that was looked into: where it is now, and what was found out."""

    head: Position
    forked_from: Position | None = None
    """The other branch's head, where the archive holds events that contradict the log."""
    lost: Position | None = None
    """The last event that the owner knows of, where the log ends before it and nobody has the rest."""


def heal(
    repair: Repair, head: Position, kept: Sequence[Entry], archive: Archive | None, left_at: Position = START
) -> Healed:
    """Put back what the owner (`kept`) and the archive have beyond `head`, before anything is appended.

    `left_at` is the last event that the owner knows of, kept or archived.
    Raises ArchiveAway where the log is empty, ends before `left_at`, or was being restored from the archive,
    and the archive cannot be asked: a lane is never begun again at seq 1, nor written over, while its
    history exists elsewhere.
    """
    found = _healed(repair, head, kept, archive, left_at)
    if found.head.seq < left_at.seq and not found.forked_from:
        return msgspec.structs.replace(found, lost=left_at)
    return found


def _healed(
    repair: Repair, head: Position, kept: Sequence[Entry], archive: Archive | None, left_at: Position
) -> Healed:
    found = _from_owner(repair, Healed(head=head), kept)
    if archive is None:
        return found
    begun = restoring(repair.link, repair.keys)
    try:
        found = _from_archive(repair, found, archive)
    except ArchiveAway as error:
        if found.head.seq < max(left_at.seq, 1) or (begun and begun.by == "archive"):
            raise
        log.warning("the archive was not asked", lane=repair.lane, detail=str(error))
        return found
    # What the owner keeps begins where the archive ended: it may join on only now.
    return found if found.forked_from else _from_owner(repair, found, kept)


def notices(repair: Repair, found: Healed) -> list[tuple[str, dict[str, Any]]]:
    """The events, as type and data, that tell what was `found`, also by an owner that died before it told.

    A fork, or a loss, is told once, however often it is found: the log is read for it, all of it.
    """
    lane, head = repair.lane, found.head
    told: list[tuple[str, dict[str, Any]]] = []
    if begun := restoring(repair.link, repair.keys):
        log.error("log restored", lane=lane, head=begun.head.seq, to=head.seq, by=begun.by)
        told.append(("log.restored", {"head": begun.head, "restored": head, "by": begun.by}))
    if found.forked_from:
        log.error("log forked", lane=lane, head=head.seq, other=found.forked_from.seq)
        if not _fork_told(repair, found.forked_from):
            told.append(("log.forked", {"head": head, "other": found.forked_from}))
    if found.lost:
        missing = found.lost.seq - head.seq
        log.error("events lost", lane=lane, head=head.seq, other=found.lost.seq, events=missing)
        if not _fork_told(repair, found.lost):
            told.append(("log.forked", {"head": head, "other": found.lost, "lost": missing}))
    return [(type, msgspec.to_builtins(data)) for type, data in told]


def _fork_told(repair: Repair, other: Position) -> bool:
    for logged in replay(repair.link, repair.keys):
        repair.tend()
        if logged.event.type == "log.forked" and _other(logged.event.data) == other.hash:
            return True
    return False


def _other(data: dict[str, Any]) -> Any:
    other = data.get("other")
    return other.get("hash") if isinstance(other, dict) else None


def _from_owner(repair: Repair, found: Healed, kept: Sequence[Entry]) -> Healed:
    lost = missing(kept, found.head)
    return msgspec.structs.replace(found, head=put_back(repair, found.head, lost)) if lost else found


def _from_archive(repair: Repair, found: Healed, archive: Archive) -> Healed:
    archived = archive.head(repair.lane)
    repair.tend()
    if archived is None:
        return found
    head = found.head
    if archived.seq > head.seq:
        if head.seq and archive.hash_at(repair.lane, head.seq) != head.hash:
            return msgspec.structs.replace(found, forked_from=archived)
        young, begun = now() - timedelta(seconds=repair.keep), bool(head.seq)

        def stands(event: Event) -> bool:
            # Once one stands, all after it do, whatever their clocks say.
            nonlocal begun
            begun = begun or event.logged_at >= young or event.seq >= archived.seq
            return begun

        for batch in _batched(_tended(repair, archive.after(repair.lane, head.seq))):
            head = put_back(repair, head, batch, "archive", stands)
        return msgspec.structs.replace(found, head=head)
    found_there = repair.link.call("XRANGE", repair.keys.events, archived.seq, archived.seq)
    if found_there and found_there[0][1][3].decode() != archived.hash:
        return msgspec.structs.replace(found, forked_from=archived)
    return found


def _tended(repair: Repair, entries: Iterable[Entry]) -> Iterator[Entry]:
    for entry in entries:
        repair.tend()
        yield entry


def _batched(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    batch: list[Entry] = []
    for entry in entries:
        batch.append(entry)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
