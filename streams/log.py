"""Writing a lane's log: events and results in atomic appends, replies once they are durable.

Any thread may post; whoever flushes writes everything posted so far in one append (group commit).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Any

import msgspec
import structlog
from redis.exceptions import ResponseError

from streams.connection import Link, Unreachable
from streams.drafts import Draft, Settlement, Unit, check
from streams.durability import Prover, highest, patience, replication_id
from streams.healing import Archive, Entry, heal, notices
from streams.held_replies import HeldReplies
from streams.lease import Lease, LeaseLost, renewal
from streams.messages import GENESIS, SCHEMA, Answer, Durability, Event, canonical, digest, now
from streams.names import LaneKeys, StationKeys
from streams.steps import step
from streams.tail import Position

BATCH = 200
"""Units written in one append."""
PATIENCE = 10.0
"""Seconds to wait for durability before the lane is taken anew."""
HEALING = frozenset({"log.restored", "log.forked"})
"""What healing says of a log, to be written whatever else is not."""
KEEP = 10_000
"""Events an owner holds on to until they are archived, to put them back where a failover loses them."""
REPLY_KEEP = 120
"""Seconds a client's reply stream outlives its last reply."""
REPLY_LENGTH = 10_000
"""Replies kept for a client that does not read them."""

log = structlog.get_logger(__name__)


class _Append(msgspec.Struct, frozen=True, kw_only=True):
    """An append as it is, was, or may have been made: where the head was and where it goes."""

    units: int
    entries: tuple[tuple[bytes, str], ...]
    answers: tuple[tuple[Settlement, Answer], ...]
    before: tuple[int, str]
    seq: int
    hash: str
    token: int


class LaneLog:
    """One lane's log in the hands of its owner."""

    def __init__(
        self,
        link: Link,
        station: StationKeys,
        lane: str,
        node: str,
        prover: Prover,
        durability: Durability,
        archive: Archive | None = None,
    ) -> None:
        self._link = link
        self._archive = archive
        self._kept: deque[Entry] = deque(maxlen=KEEP)
        self._station = station
        self._lane = lane
        self._keys: LaneKeys = station.lane(lane)
        self._held_replies = HeldReplies(link.another(f"{node}-{lane}-held"), self._keys)
        self._node = node
        self._prover = prover
        self._durability = durability
        self._lock = threading.Lock()
        self._queue: deque[Unit] = deque()
        self._lease: Lease | None = None
        self._made: _Append | None = None
        self._replid: tuple[int, str] = (0, "")
        self.seq = 0
        self.hash = GENESIS

    def post(self, draft: Draft) -> None:
        """Add one event to what the next flush writes; raises TypeError where JSON cannot hold its data."""
        check((draft,))
        self._queue.append(Unit((draft,)))

    def settle(self, drafts: tuple[Draft, ...], settlement: Settlement) -> None:
        """Add a result (the last of `drafts`) to what the next flush writes."""
        self._queue.append(Unit(drafts, settlement))

    def unwritten(self) -> set[str]:
        """The stream entries whose results are made but not yet known to stand in the log."""
        return {unit.settlement.entry for unit in list(self._queue) if unit.settlement}

    def take(self, lease: Lease) -> bool:
        """Go on under `lease`. Returns whether the log is where this owner left it.

        What was posted stays to be written. An append that was interrupted is recognised by the
        head: it stands and is concluded now, or it was lost before anyone was told and is made anew.
        """
        with self._lock:
            # The lease may be another primary's: what this link holds on to may be one that was cut off.
            self._link.close()
            made = self._made
            kept = list(self._kept)
            left_at = made.before if made else (self.seq, self.hash)
            if made and (self.seq, self.hash) == (made.seq, made.hash):
                # It stood, and whoever asked for `memory` may have been told.
                kept += made.entries
                left_at = (made.seq, made.hash)
            self._lease = lease
            healed = self._heal(lease, kept, left_at[0])
            self.seq, self.hash = head = healed.seq, healed.hash
            if made and head == (made.seq, made.hash):
                self._finish(made, here=False)
                return True
            self._made = None
            if head != left_at:
                # Others wrote here: what is kept joins on to nothing any more.
                self._kept.clear()
                self._held_replies.clear()
            return head == left_at

    def _heal(self, lease: Lease, kept: list[Entry], left_at: int) -> Position:
        """Put back what this log lost in a failover, and say so in it."""
        head = Position(lease.head_seq, lease.head_hash)
        found = heal(self._link, self._keys, self._lane, lease, head, kept, self._archive, left_at)
        for type, data in notices(self._link, self._keys, self._lane, head, found):
            unit = Unit((Draft(type=type, data=data),))
            if unit not in list(self._queue):
                self._queue.append(unit)
        if found.restored_from and int(self._link.call("HGET", self._keys.head, "token")) > lease.token:
            raise LeaseLost(f"lane {self._lane!r} was restored with events of later leases than this one")
        return found.head

    def prove_head(self) -> None:
        """Make everything up to the head durable on this primary and raise the watermark to it."""
        with self._lock:
            lease = self._held()
            self._prover.prove(self._link, renewal(self._keys, lease), self._durability, timeout=PATIENCE)
            if self.seq:
                token = int(self._link.call("HGET", self._keys.head, "token"))
                self._raise_watermark([self._raising(self.seq, self.hash, token)])

    def discard(self) -> None:
        """Forget what was posted, all but what healing found: the log is not the one it was posted for."""
        with self._lock:
            found = [unit for unit in self._queue if unit.drafts[0].type in HEALING]
            self._queue.clear()
            self._queue.extend(found)

    def drop(self) -> None:
        """Forget what was posted: the lane is another's now, and the commands are pending there."""
        with self._lock:
            self._queue.clear()
            self._kept.clear()
            self._held_replies.clear()
            self.seq, self.hash = 0, GENESIS
            self._lease = self._made = None

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._link.close()
            self._held_replies.clear()

    def flush(self) -> None:
        """Write what was posted. Raises Unreachable, LeaseLost, NotDurable; nothing posted is lost then."""
        with self._lock:
            if self._made is not None:
                raise LeaseLost(f"an append to lane {self._lane!r} was interrupted")
            while self._queue:
                self._write(min(len(self._queue), BATCH))

    def _held(self) -> Lease:
        if self._lease is None or time.monotonic() > self._lease.until:
            raise LeaseLost(f"no valid lease of lane {self._lane!r}")
        return self._lease

    def extend(self, lease: Lease) -> None:
        """Take note of a renewal."""
        self._lease = lease

    def _write(self, count: int) -> None:
        lease = self._held()
        append = self._build([self._queue[index] for index in range(count)], lease)
        at_once = self._durability == "memory"
        request = self._request(append, lease, at_once)
        self._made = append
        step("appending")
        reply = self._link.batch([request])[0]
        step("appended")
        if isinstance(reply, Exception) or reply[0] != b"ok":
            self._made = None
        if isinstance(reply, Exception):
            raise reply
        if reply[0] == b"settled":
            self._skip(append, reply[1])
        elif reply[0] != b"ok":
            raise LeaseLost(f"append to lane {self._lane!r} refused: {reply!r}")
        else:
            self.seq, self.hash = append.seq, append.hash
            self._finish(append, raised=at_once)
            self._forget_archived(int(reply[1]) if len(reply) > 1 else 0)

    def _finish(self, append: _Append, *, raised: bool = False, here: bool = True) -> None:
        """Conclude an append that stands; only then is it off the queue.

        `raised` tells whether the watermark went along with it, `here` whether this connection made it.
        """
        self._conclude(append, raised=raised, here=here)
        for _ in range(append.units):
            self._queue.popleft()
        self._kept.extend(append.entries)
        self._made = None

    def _forget_archived(self, archived: int) -> None:
        """Let go of what the archive holds; what is kept ends at the head."""
        while self._kept and self.seq - len(self._kept) < archived:
            self._kept.popleft()

    def _build(self, units: list[Unit], lease: Lease) -> _Append:
        seq, previous = self.seq, self.hash
        entries: list[tuple[bytes, str]] = []
        answers: list[tuple[Settlement, Answer]] = []
        logged_at = now()
        for unit in units:
            for draft in unit.drafts:
                seq += 1
                raw = canonical(
                    Event(
                        seq=seq,
                        prev=previous,
                        token=lease.token,
                        at=draft.at or logged_at,
                        logged_at=logged_at,
                        node=self._node,
                        type=draft.type,
                        data=draft.data,
                        schema=SCHEMA,
                        source=draft.source,
                        command=draft.command,
                    )
                )
                previous = digest(raw)
                entries.append((raw, previous))
            if unit.settlement:
                answers.append((unit.settlement, msgspec.structs.replace(unit.settlement.answer, seq=seq)))
        return _Append(
            units=len(units),
            entries=tuple(entries),
            answers=tuple(answers),
            before=(self.seq, self.hash),
            seq=seq,
            hash=previous,
            token=lease.token,
        )

    def _request(self, append: _Append, lease: Lease, at_once: bool) -> list[Any]:
        keys = self._keys
        request: list[Any] = [
            "FCALL", "tocsin_append", 7,
            keys.lease, keys.head, keys.events, keys.commands, keys.ids, keys.id_expiry, keys.parked,
            lease.fence, self.seq, self.hash, lease.token, "1" if at_once else "0", len(append.entries),
        ]  # fmt: skip
        for entry in append.entries:
            request += entry
        request.append(len(append.answers))
        for settlement, answer in append.answers:
            forget_at = int(settlement.forget_at.timestamp() * 1000)
            marked = answer.id if settlement.marked else ""
            request += (settlement.entry, marked, canonical(answer), forget_at)
        parked = [settlement.parked for settlement, _ in append.answers if settlement.parked]
        request.append(len(parked))
        for one in parked:
            request += (one.raw, one.signature, one.id, one.why, one.deliveries)
        return request

    def _skip(self, append: _Append, index: int) -> None:
        """Drop the unit whose command is not open any more: it has its result already."""
        settlement = append.answers[index - 1][0]
        for at in range(append.units):
            if self._queue[at].settlement is settlement:
                # One step, because other threads add to the queue meanwhile.
                del self._queue[at]
                break
        log.warning("result not needed", lane=self._lane, command=settlement.answer.id)

    def _conclude(self, append: _Append, *, raised: bool, here: bool) -> None:
        """Reply to whom it may be told now; prove the rest durable, raise the watermark, reply to them."""
        waiting = [pair for pair in append.answers if pair[0].durability != "memory"]
        at_once = [c for s, a in append.answers if s.durability == "memory" for c in self._reply(s, a)]
        later = [c for s, a in waiting if s.durability != "archive" for c in self._reply(s, a)]
        held = [c for s, a in waiting if s.durability == "archive" for c in self._reply(s, a)]
        level = highest([self._durability, *(settlement.durability for settlement, _ in waiting)])
        wait = self._prover.command(level)
        if wait and here:
            reply = self._link.batch([*at_once, wait], timeout=patience(wait))[-1]
            if isinstance(reply, ResponseError) or not self._prover.accepts(level, reply, self._link):
                self._prove(level)
        else:
            self._prove(level)
            later = at_once + later
        step("proven")
        raising = [] if raised else [self._raising(append.seq, append.hash, append.token)]
        self._raise_watermark(raising + later)
        if held:
            self._held_replies.add(append.seq, append.hash, held)
        step("replied")

    def _prove(self, level: Durability) -> None:
        mark = renewal(self._keys, self._held())
        try:
            self._prover.prove(self._link, mark, level, timeout=PATIENCE)
        except ResponseError:
            if level != "disk" or self._durability == "disk":
                raise
            # Submit offers no `disk` where there is none; what came past it must not stop the lane.
            self._prover.prove(self._link, mark, "replica", timeout=PATIENCE)

    def _raising(self, seq: int, hash: str, token: int) -> tuple[Any, ...]:
        if self._replid[0] != self._link.generation:
            replid = replication_id(self._link)
            self._replid = (self._link.generation, replid)
        keys = self._keys
        return ("FCALL", "tocsin_raise", 2, keys.head, keys.events, seq, hash, token, self._replid[1])

    def _raise_watermark(self, commands: list[tuple[Any, ...]]) -> None:
        if not commands:
            return
        for command, reply in zip(commands, self._link.batch(commands), strict=True):
            if command[0] != "FCALL":
                if isinstance(reply, Exception):
                    # Whoever waits for it asks again by the id; the lane goes on.
                    log.warning("reply not sent", lane=self._lane, key=command[1], detail=str(reply))
                continue
            if isinstance(reply, Exception):
                raise reply
            if reply != b"ok":
                self._link.close()
                raise Unreachable(f"watermark of lane {self._lane!r} not raised: {reply!r}", sent=True)

    def _reply(self, settlement: Settlement, answer: Answer) -> list[tuple[Any, ...]]:
        if not settlement.client:
            return []
        key = self._station.replies(settlement.client)
        return [
            ("XADD", key, "MAXLEN", "~", REPLY_LENGTH, "*", "i", answer.id, "a", canonical(answer)),
            ("EXPIRE", key, REPLY_KEEP),
        ]
