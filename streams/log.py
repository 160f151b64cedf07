"""Writing a lane's log: events and results in atomic appends, replies once they are durable.

Any thread may post; whoever flushes writes everything posted so far in one append (group commit).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NoReturn

import msgspec
import structlog
from redis.exceptions import ResponseError

from streams import traces
from streams.connection import Link, Unreachable
from streams.drafts import Append, Draft, NotTaken, Settlement, Unit, check
from streams.durability import Prover, highest, patience
from streams.faults import FAULTS
from streams.healing import Healed, Repair, again, heal, may_be_told, notices, tell
from streams.held_replies import HeldReplies
from streams.history import Archive, Entry
from streams.kept import Kept
from streams.lease import Lease, LeaseLost, renewal
from streams.messages import GENESIS, SCHEMA, Answer, Durability, Event, canonical, digest, now
from streams.names import LaneKeys, StationKeys
from streams.proofs import PATIENCE, Appended, Proofs, Watermark, WatermarkRefused
from streams.steps import step
from streams.tail import Position
from streams.telling import REPLY_KEEP, REPLY_LENGTH, Levels, by_client, replies_to

BATCH = 200
"""Units written in one append."""
SETTLED = 2000
"""Commands settled in one append: Lua takes no more than some thousand arguments."""
TOLD_LATER: Levels = ("replica", "disk")
"""The levels at which an append itself tells nobody; at `archive` that is told later still."""

log = structlog.get_logger(__name__)


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
        keep: float = 0.0,
    ) -> None:
        self._link = link
        self._archive, self._keep, self._kept = archive, keep, Kept(lane)
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
        self._made: Append | None = None
        self._watermark = Watermark(link, self._keys)
        proving = link.another(f"{node}-{lane}-proofs")
        self._proofs = Proofs(proving, self._keys, prover, durability, self._fail)
        self._failed: Exception | None = None
        self._stale = False
        """Whether what is posted may rest on another log than the one that stands: it waits for `discard`."""
        self.troubled = threading.Event()
        """Set where something failed beside the lane's own thread: the next flush there raises it."""
        self.seq = 0
        self.hash = GENESIS
        self.put_back: dict[str, int] = {}
        """By source the highest sequence of a command that was completed and put back into the log here: what
        is refused is told at once, before older ones of its source are done."""

    def post(self, draft: Draft) -> None:
        """Add one event to what the next flush writes; raises TypeError where JSON cannot hold its data."""
        check((draft,))
        self._queue.append(Unit((draft,)))

    def settle(self, drafts: tuple[Draft, ...], *settlements: Settlement) -> None:
        """Add a result (the last of `drafts`), of one command or several, to what the next flush writes."""
        self._queue.append(Unit(drafts, settlements))

    def unwritten(self) -> set[str]:
        """The stream entries whose results are made but not yet known to stand in the log."""
        return {settlement.entry for unit in list(self._queue) for settlement in unit.settlements}

    def take(self, lease: Lease, tend: Callable[[], None] = lambda: None) -> bool:
        """Go on under `lease`. Returns whether the log is where this owner left it, and says all it posted.

        If so, what was posted stays to be written; if not, nothing is written until `discard`, however often
        the lane is taken till then. An append that was interrupted is recognised by the head: it stands and
        is concluded now, or it was lost. Then it is made anew where nobody was told of it, and else once more
        byte by byte, for it may have stood. `tend` renews the lease where that is due: much may be put back.
        """
        with self._lock:
            # The lease may be another primary's: what this link holds on to may be one that was cut off.
            self._link.close()
            self._proofs.clear()
            self._failed = None
            self.troubled.clear()
            made, kept = self._made, list(self._kept)
            left_at = made.before if made else (self.seq, self.hash)
            if made and (self.seq, self.hash) == (made.seq, made.hash):
                # It stood, and whoever asked for `memory` may have been told.
                kept += made.entries
                left_at = (made.seq, made.hash)
            self._lease = lease
            repair = Repair(
                link=self._link, keys=self._keys, lane=self._lane, lease=lease, tend=tend, keep=self._keep,
                note=self._note,
            )  # fmt: skip
            found, told = self._heal(repair, kept, Position(*left_at)), TOLD_LATER
            readers = self._durability == "memory"
            if made and found.head == Position(*made.before) and may_be_told(repair, made, readers):
                found, told = again(repair, found, made.entries), ("memory", *TOLD_LATER)
            self.seq, self.hash = head = found.head.seq, found.head.hash
            untouched = head == left_at
            if made and head == (made.seq, made.hash):
                level = highest([self._durability, *(one.durability for one, _ in made.answers)])
                self._prove(level)
                self._finish(made, level, told=told)
                untouched = True
            elif not untouched:
                # Others wrote here: what is kept joins on to nothing any more.
                self._stale = True
                self._kept.clear()
                self._held_replies.clear()
            self._made = None
            self._tell(repair, found)
            return not self._stale

    def _note(self, source: str, sequence: int) -> None:
        self.put_back[source] = max(self.put_back.get(source, 0), sequence)

    def _heal(self, repair: Repair, kept: list[Entry], left_at: Position) -> Healed:
        """Put back what this log lost in a failover."""
        lease = repair.lease
        found = heal(repair, Position(lease.head_seq, lease.head_hash), kept, self._archive, left_at)
        if (
            found.head.seq > lease.head_seq
            and int(self._link.call("HGET", self._keys.head, "token")) > lease.token
        ):
            raise LeaseLost(f"lane {self._lane!r} was restored with events of later leases than this one")
        return found

    def _tell(self, repair: Repair, found: Healed) -> None:
        """Say in the log what healing found, before anything else is written."""
        units = [Unit((Draft(type=type, data=data),)) for type, data in notices(repair, found)]
        if units:
            told = self._build(units, repair.lease)
            tell(repair, Position(*told.before), told.entries)
            self.seq, self.hash = told.seq, told.hash
            self._kept.extend(told.entries)

    def prove_head(self) -> None:
        """Make everything up to the head durable on this primary and raise the watermark to it."""
        with self._lock:
            lease = self._held()
            self._prover.prove(self._link, renewal(self._keys, lease), self._durability, timeout=PATIENCE)
            if self.seq:
                token = int(self._link.call("HGET", self._keys.head, "token"))
                self._conclude([self._watermark.raising(self.seq, self.hash, token)])

    def discard(self) -> None:
        """Forget what was posted: the log is not the one it was posted for. What comes next is written."""
        with self._lock:
            self._queue.clear()
            self._stale = False

    def distrust(self, why: str) -> NoReturn:
        """Write nothing more until `discard`: memory may be ahead of the log. Raises NotTaken."""
        self._stale = True
        raise NotTaken(f"lane {self._lane!r}: {why}")

    def drop(self) -> None:
        """Forget what was posted: the lane is another's now, and the commands are pending there."""
        with self._lock:
            self._queue.clear()
            self._kept.clear()
            self._held_replies.clear()
            self._proofs.clear()
            self.seq, self.hash = 0, GENESIS
            self._lease = self._made = None

    def complete(self) -> None:
        """Write what was posted and wait until it is proven durable; raises what `flush` does."""
        self.flush()
        self._proofs.finish(PATIENCE)
        self.flush()

    def close(self) -> None:
        """Close the connections."""
        self._proofs.clear()
        with self._lock:
            self._link.close()
            self._held_replies.clear()

    @property
    def behind(self) -> bool:
        """Whether more is posted than two appends hold: whoever posts more had better write first."""
        return len(self._queue) > 2 * BATCH

    def flush(self) -> None:
        """Write what was posted so far. Raises Unreachable, LeaseLost, NotDurable; nothing is lost then.

        Raises NotTaken where a command is not open whose result was posted, settled by others or lost in a
        failover. What memory says of it is in no log, and whatever was posted since may rest on that.
        """
        with self._lock:
            if self._failed is not None:
                raise self._failed
            if self._made is not None:
                raise LeaseLost(f"an append to lane {self._lane!r} was interrupted")
            if self._stale:
                return
            # Not what is posted meanwhile: the lane's own thread must get back to its lease.
            left = len(self._queue)
            while left > 0:
                left -= self._write(min(left, BATCH))

    def flush_beside(self) -> None:
        """The same from a thread that is not the lane's own: what fails is the lane's to mend."""
        try:
            self.flush()
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        """Let the lane be taken anew: what failed may stand or not, be durable or not."""
        self._failed = error
        self.troubled.set()

    def _held(self) -> Lease:
        if self._lease is None or time.monotonic() > self._lease.until:
            raise LeaseLost(f"no valid lease of lane {self._lane!r}")
        return self._lease

    def extend(self, lease: Lease) -> None:
        """Take note of a renewal."""
        self._lease = lease

    def _write(self, count: int) -> int:
        """Write the first `count` units, or fewer, in one append; return how many are done with."""
        lease = self._held()
        append = self._build(self._first(count), lease)
        raised = self._durability == "memory"
        waited = [settlement.durability for settlement, _ in append.answers]
        level = highest([self._durability, *waited])
        # Where somebody waits for more than `memory`, the wait goes right behind the append.
        wait = self._prover.command(level, self._link) if set(waited) - {"memory"} else None
        request = self._request(append, lease, raised)
        self._made = append
        step("appending")
        replies = self._link.batch([request, wait] if wait else [request], timeout=patience(wait))
        step("appended")
        reply = replies[0]
        if isinstance(reply, Exception) or reply[0] != b"ok":
            self._made = None
        if isinstance(reply, Exception):
            raise reply
        if reply[0] == b"settled":
            command = append.answers[reply[1] - 1][0].answer.id
            self.distrust(f"{command} is not open: its result is not written")
        if reply[0] != b"ok":
            raise LeaseLost(f"append to lane {self._lane!r} refused: {reply!r}")
        self.seq, self.hash = append.seq, append.hash
        if wait and not self._accepted(level, replies[1]):
            self._prove(level)
        self._finish(append, level if set(waited) - {"memory"} else None, raised)
        self._kept.forget(int(reply[1]) if len(reply) > 1 else 0, self.seq)
        return append.units

    def _first(self, count: int) -> list[Unit]:
        """The first `count` units, or as many of them as settle SETTLED commands; always one."""
        units = [self._queue[0]]
        settled = len(units[0].settlements)
        for index in range(1, count):
            settled += len(self._queue[index].settlements)
            if settled > SETTLED:
                break
            units.append(self._queue[index])
        return units

    def _accepted(self, level: Durability, reply: Any) -> bool:
        return not isinstance(reply, ResponseError) and self._prover.accepts(level, reply, self._link)

    def _finish(
        self, append: Append, proven: Durability | None, raised: bool = False, told: Levels = TOLD_LATER
    ) -> None:
        """Conclude an append that stands; only then is it off the queue.

        `proven` tells the level that it is proven at, None where that is still to be done; `raised`
        whether the watermark went along with it, `told` which replies are to be given now.
        """
        if proven:
            step("proven")
            raising = [] if raised else [self._watermark.raising(append.seq, append.hash, append.token)]
            self._conclude(raising + self._replies(append, *told))
            self._proofs.proven(append.seq)
            if held := self._replies(append, "archive"):
                self._held_replies.add(append.seq, append.hash, held)
        elif not raised and self._lease:
            self._proofs.add(Appended(append.seq, append.hash, append.token, self._lease))
        step("replied")
        for _ in range(append.units):
            self._queue.popleft()
        self._kept.extend(append.entries)
        self._made = None
        traces.logged(self._lane, append.entries)

    def _build(self, units: list[Unit], lease: Lease) -> Append:
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
            answers += ((one, msgspec.structs.replace(one.answer, seq=seq)) for one in unit.settlements)
        return Append(
            units=len(units),
            entries=tuple(entries),
            answers=tuple(answers),
            before=(self.seq, self.hash),
            seq=seq,
            hash=previous,
            token=lease.token,
        )

    def _request(self, append: Append, lease: Lease, at_once: bool) -> list[Any]:
        keys = self._keys
        request: list[Any] = [
            "FCALL", "tocsin_append", 8, keys.lease, keys.head, keys.events, keys.commands, keys.ids,
            keys.id_expiry, keys.parked, keys.archived,
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
        told = by_client(self._link, self._station, append, "memory")
        request[2] = 8 + len(told)
        request[11:11] = told
        request += (REPLY_LENGTH, REPLY_KEEP)
        for answers in told.values():
            request += (len(answers), *answers)
        return request

    def _prove(self, level: Durability) -> None:
        mark = renewal(self._keys, self._held())
        try:
            self._prover.prove(self._link, mark, level, timeout=PATIENCE)
        except ResponseError:
            if level != "disk" or self._durability == "disk":
                raise
            # Submit offers no `disk` where there is none; what came past it must not stop the lane.
            self._prover.prove(self._link, mark, "replica", timeout=PATIENCE)

    def _conclude(self, commands: list[tuple[Any, ...]]) -> None:
        """Raise the watermark and tell whom it may be told now."""
        if not commands:
            return
        try:
            replies = self._link.batch(commands)
        except Unreachable as error:
            if error.fault is not FAULTS["OOM"] or commands[-1][0] == "FCALL":
                raise
            # With a full memory nobody is told: whoever waits asks again, and room can be made.
            self._conclude([command for command in commands if command[0] == "FCALL"])
            return
        for command, reply in zip(commands, replies, strict=True):
            if command[0] != "FCALL":
                if isinstance(reply, Exception):
                    # Whoever waits for it asks again by the id; the lane goes on.
                    log.warning("reply not sent", lane=self._lane, key=command[1], detail=str(reply))
                continue
            if isinstance(reply, Exception):
                raise reply
            if reply != b"ok":
                self._link.close()
                raise WatermarkRefused(f"watermark of lane {self._lane!r} not raised: {reply!r}")

    def _replies(self, append: Append, *levels: Durability) -> list[tuple[Any, ...]]:
        return replies_to(by_client(self._link, self._station, append, *levels))
