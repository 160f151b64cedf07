"""The owner of a lane: holds its lease, takes its commands, and writes what became of them.

What is executed is a room's own business, behind `Handler`; everything that makes a result happen
exactly once is here and in the functions it calls.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from typing import Any

import msgspec
import structlog

from streams import traces
from streams.admission import MAX_DELIVERIES, Delivery, Refusal, Task, admit, late, settled_answer
from streams.backoff import Backoff
from streams.connection import connect
from streams.drafts import Draft, check
from streams.durability import Prover
from streams.handler import Handler, Result, told
from streams.history import Archive, replayed
from streams.intake import COUNT, Intake
from streams.interruptions import EXPECTED, Interruptions
from streams.latest import Latest, outdated, with_latest
from streams.lease import LENGTH, RENEW, Held, renewal
from streams.library import bring_back
from streams.log import LaneLog
from streams.messages import Durability
from streams.names import StationKeys
from streams.proofs import PATIENCE
from streams.rejections import Counted, Rejections
from streams.settings import Settings
from streams.settling import durability_of, settled
from streams.signing import Keyring
from streams.steps import step
from streams.tenure import Tenure
from streams.trimming import STEP, Trimmer, recall
from streams.turns import Turns

IDLE = 1.0
"""Seconds to block for a command before looking after the lease."""
KEYS_LOOK = 0.02
"""Seconds between two looks whether the keys are known."""
ALONE = 10.0
"""Seconds that a command's last try may take before others are taken beside it."""


class LaneWorker:
    """Owns one lane as long as it can. `run` is the body of a thread."""

    def __init__(
        self,
        settings: Settings,
        lane: str,
        node: str,
        handler: Handler,
        *,
        keyring: Callable[[], Keyring],
        prover: Prover,
        archive: Archive | None = None,
        known: Callable[[], bool] = lambda: True,
        groups: Callable[[str], Collection[str]] = lambda _: (),
    ) -> None:
        """`known` tells whether `keyring` is what is so now, `groups` those that a source is in."""
        self._station = StationKeys(settings.station.id)
        self._station_id = settings.station.id
        self._durability: Durability = settings.durability
        self._lane = lane
        self._node = node
        self._keys = self._station.lane(lane)
        self._handler = traces.watched(handler)
        self._keyring, self._known, self._groups = keyring, known, groups
        self._prover, self._archive = prover, archive
        self._link = connect(settings.redis, f"{node}-{lane}-take", slot_of=self._keys.commands)
        self._log = LaneLog(
            connect(settings.redis, f"{node}-{lane}-log", slot_of=self._keys.commands),
            self._station, lane, node, prover, self._durability, archive, settings.archive.keep,
        )  # fmt: skip
        self._summary = with_latest(handler.summary)
        trimming = connect(settings.redis, f"{node}-{lane}-trim", slot_of=self._keys.commands)
        self._trimmer = Trimmer(trimming, self._keys, archive, self._summary, settings.archive.keep)
        self._turns = Turns(self._execute)
        self._open: dict[str, Delivery] = {}
        self._settling = threading.Lock()
        """So that nothing is posted for a delivery that is not open any more."""
        self._begun: set[str] = set()
        """The entries whose execution was begun in this process, and whose results do not stand yet."""
        self._latest = Latest()
        self._rejections = Rejections()
        self._tenure = Tenure(self._link, self._keys, node)
        self._intake = Intake(self._link, self._keys, f"{node}.{self._tenure.nonce}")
        self._restored = False
        self._durable = True
        """Whether what was taken last is known to be durable."""
        self._posted = threading.Event()
        self._leaving = False
        self._logger = structlog.get_logger(__name__).bind(node=node, lane=lane)
        self._interruptions = Interruptions(self._logger)
        self.owned = threading.Event()
        """Set while the lane is ours."""

    def run(self, stop: threading.Event) -> None:
        """Own the lane until `stop` is set, coming back by itself from whatever fails."""
        threading.Thread(target=self._write_posted, name=f"write-{self._lane}", daemon=True).start()
        body = (lambda: self._tenure.lease if self.owned.is_set() else None, stop)
        threading.Thread(target=self._trimmer.run, args=body, name=f"trim-{self._lane}", daemon=True).start()
        backoff = Backoff(stop)
        while not stop.is_set():
            try:
                self._own(stop)
                backoff.reset()
            except Exception as error:
                if self.owned.is_set():
                    backoff.reset()
                self.owned.clear()
                self._interruptions.say(error)
                bring_back(self._link, error)
                # Whatever it was, the next attempt asks afresh which server is the primary.
                self._link.close()
                backoff.wait()
        self._leave()

    def _own(self, stop: threading.Event) -> None:
        lease = self._tenure.acquire(stop, self._lose)
        if lease is None:
            return
        self._prover.prove(self._link, renewal(self._keys, lease), self._durability, timeout=PATIENCE)
        step("leased")
        self._tend()
        untouched = self._log.take(lease, self._tend)
        self._log.prove_head()
        step("head proven")
        if not (untouched and self._restored):
            # What is being done and was posted here rests on another log than the one that stands.
            self._turns.clear()
            self._close()
            self._rejections.clear()
            known = recall(self._link, self._keys, self._summary)
            events = replayed(self._link, self._keys, self._archive, known.at.seq, self._log.seq)
            self._latest, data = Latest.known(known.data)
            self._handler.restore(self._latest.read(events, self._tend), data)
            self._restored = True
            self._begun |= self._log.unwritten()
            self._log.discard()
        step("restored")
        # With a full memory, room is needed before anything can be appended.
        self._trimmer.attempt(self._tenure.lease or lease, STEP)
        self._log.post(Draft(type="lane.acquired", data={"fence": lease.fence}))
        self._log.flush()
        step("acquired")
        self._handler.begin(self._post)
        step("begun")
        self.owned.set()
        self._interruptions.over()
        self._logger.info("lane acquired", token=lease.token, head=lease.head_seq)
        self._take_pending(stop)
        self._follow(stop)

    def _lose(self, held: Held) -> None:
        """Somebody else holds the lane: forget what was going on here."""
        if self._tenure.lease is None:
            return
        self._logger.warning("lane lost", to=held.fence.split(" ")[0])
        self._tenure.lease, self._restored = None, False
        self._turns.clear()
        self._begun |= self._log.unwritten()
        self._close()
        self._log.drop()
        self._rejections.clear()
        self._handler.end()

    def _take_pending(self, stop: threading.Event) -> None:
        """Finish what an earlier owner (or we, before an interruption) took and did not settle.

        What has its last try has it alone, so that a crash is counted against nothing that only waited.
        """
        after: str | None = "0-0"
        pending: set[str] = set()
        while after is not None:
            self._tend()
            # Known before it is taken: what is being executed here, then what waits to be written.
            known = set(self._open) | self._log.unwritten()
            taken, after = self._take(stop, after)
            for delivery in taken:
                pending.add(delivery.entry)
                alone = delivery.deliveries == MAX_DELIVERIES
                if alone:
                    self._let_finish(stop)
                if stop.is_set():
                    return
                if delivery.entry not in known:
                    self._admit(delivery)
                if alone:
                    self._let_finish(stop)
        self._begun &= pending | set(self._open)
        self._log.flush()

    def _let_finish(self, stop: threading.Event) -> None:
        """Wait until nothing is being executed and all results are written; ALONE seconds at most."""
        until = time.monotonic() + ALONE
        while not self._turns.wait_idle(IDLE / 10) and time.monotonic() < until and not stop.is_set():
            self._tend()
        self._log.flush()

    def _follow(self, stop: threading.Event) -> None:
        last = self._intake.last_entry()
        wake: tuple[Any, ...] | None = None
        while not stop.is_set():
            if self._log.troubled.is_set():
                self._log.flush()
            self._tend()
            # At first without blocking: what was submitted before `last` wakes nobody any more.
            taken, _ = self._take(stop, "new", wake)
            while taken:
                last = taken[-1].entry
                for delivery in taken:
                    self._admit(delivery)
                if len(taken) < COUNT or self._log.behind:
                    self._log.flush()
                else:
                    # More waits already: it is admitted while these are being written.
                    self._posted.set()
                if (
                    len(taken) < COUNT
                    or time.monotonic() >= self._tenure.renew_at
                    or self._log.troubled.is_set()
                ):
                    break
                taken, _ = self._take(stop, "new")
            wake = ("XREAD", "COUNT", 1, "BLOCK", int(IDLE * 1000), "STREAMS", self._keys.commands, last)

    def _tend(self) -> None:
        """Renew the lease, and count rejections, where that is due; raises LeaseLost, Unreachable."""
        if renewed := self._tenure.tend(RENEW):
            self._log.extend(renewed)
            step("renewed")
        self._count(self._rejections.due())

    def _take(
        self, stop: threading.Event, mode: str, wake: tuple[Any, ...] | None = None
    ) -> tuple[list[Delivery], str | None]:
        """Take commands, as `Intake.take` does, as soon as the keys that may sign them are known."""
        self._await_keys(stop)
        taken, after = self._intake.take(self._tenure.lease, mode, wake, IDLE)
        if taken:
            self._await_keys(stop)
            step("read")
            traces.taken(taken)
        self._durable = not taken
        return taken, after

    def _await_keys(self, stop: threading.Event) -> None:
        """Wait, leased, until it is known which keys are good: a revoked one must not pass meanwhile."""
        while not (self._known() or stop.wait(KEYS_LOOK)):
            self._tend()

    def _make_durable(self) -> None:
        """Wait until what was taken last is durable: what is done outside the log begins only then.

        A result that rests on the log alone needs no such wait, for nobody is told of it before it is
        durable itself, and with it all that stands before it.
        """
        lease = self._tenure.lease
        if self._durable or lease is None:
            return
        # What a command asks for beyond `replica` is for its result to wait for.
        level: Durability = "replica" if self._durability == "memory" else self._durability
        self._prover.prove(self._link, renewal(self._keys, lease), level, timeout=PATIENCE)
        self._durable = True

    def _admit(self, delivery: Delivery) -> None:
        if settled_answer(delivery):
            # Its result stands: only the acknowledgement was lost. Deleted first, it is given to nobody.
            self._link.call("XDEL", self._keys.commands, delivery.entry)
            self._link.call("XACK", self._keys.commands, "ingest", delivery.entry)
            step("acknowledged")
            return
        if delivery.entry in self._open:
            self._log.distrust(f"{delivery.id} was delivered, and its delivery lost in a failover")
        verdict = admit(
            delivery, keyring=self._keyring(), station=self._station_id, lane=self._lane,
            time=self._intake.now(), begun=delivery.entry in self._begun, groups=self._groups,
            put_back=self._log.put_back,
        )  # fmt: skip
        self._open[delivery.entry] = delivery
        step("admitted")
        if isinstance(verdict, Refusal):
            self._refuse(delivery, verdict)
            return
        if by := self._latest.overtakes(verdict):
            self._settle(delivery, outdated(by), command=verdict.command.id, type=verdict.command.type, by=by)
            return
        if self._turns.idle(verdict.command.source):
            result = self._carried_out(verdict, self._handler.attempt)
            if result is not None:
                self._conclude(verdict, result)
                return
        if durability_of(delivery, self._durability) != "memory":
            # Not open without a turn: should this fail, whoever owns the lane next admits it again.
            del self._open[delivery.entry]
            self._make_durable()
            self._open[delivery.entry] = delivery
        for overtaken in self._turns.put(msgspec.structs.replace(verdict, cancelled=threading.Event())):
            self._conclude(overtaken, Result(outcome="superseded", reason="superseded"))

    def _execute(self, task: Task) -> None:
        """Body of a source's turn: never raises, so that the turns after it come."""
        command, entry = task.command, task.delivery.entry
        if command.expires_at <= self._intake.now():
            tried = task.deliveries > 1 or entry in self._begun
            result: Result | None = told(late(command, tried=tried))
        else:
            self._begun.add(entry)
            result = self._carried_out(task, self._handler.execute)
        if result is not None:
            self._conclude(task, result)
            self._log.flush_beside()

    def _carried_out(self, task: Task, how: Callable[[Task], Result | None]) -> Result | None:
        """What the handler makes of a task; an error of its own is a result too."""
        try:
            result = how(task)
            if result and result.drafts:
                check(result.drafts)
            step("executed")
        except Exception as error:
            self._logger.exception("handler failed", command=task.command.id, source=task.command.source)
            return Result(outcome="failed", reason="error", detail=f"{type(error).__name__}: {error}")
        return result

    def _conclude(self, task: Task, result: Result) -> None:
        by = self._turns.overtaken_by(task.command.id)
        if by and result.outcome != "completed":
            result = msgspec.structs.replace(result, outcome="superseded", reason="superseded", detail=None)
        else:
            by = None
        self._settle(task.delivery, result, command=task.command.id, type=task.command.type, by=by)

    def _refuse(self, delivery: Delivery, refusal: Refusal) -> None:
        if refusal.command and refusal.reason == "parked":
            self._latest.park(refusal.command, delivery.sequence)
        self._settle(
            delivery,
            told(refusal),
            command=delivery.id if refusal.attributed else None,
            type=refusal.command.type if refusal.command else "",
            marked=refusal.marked,
            counted=None if self._rejections.tells(refusal) else refusal,
        )

    def _settle(
        self,
        delivery: Delivery,
        result: Result,
        *,
        command: str | None,
        type: str,
        by: str | None = None,
        marked: bool = True,
        counted: Refusal | None = None,
    ) -> None:
        drafts, settlement = settled(
            delivery, result, lane=self._lane, default=self._durability,
            command=command, type=type, by=by, marked=marked,
        )  # fmt: skip
        with self._settling:
            if self._open.get(delivery.entry) is not delivery:
                # The lane was lost meanwhile; if it is ours again, the command was delivered anew.
                return
            if counted is None:
                self._log.settle(drafts, settlement)
                # Only now, so that at any moment the log or `_open` knows it.
                self._open.pop(delivery.entry)
                self._begun.discard(delivery.entry)
        if counted is None:
            step("settled")
        else:
            self._rejections.count(counted, settlement, delivery.received_at)
            self._count(self._rejections.due())

    def _close(self) -> None:
        with self._settling:
            self._open.clear()

    def _count(self, some: Counted | None) -> None:
        """Settle the rejections that share an event, if there are some."""
        if some is not None:
            self._log.settle((some.draft,), *some.settlements)
            for settlement in some.settlements:
                self._open.pop(settlement.entry, None)
            self._posted.set()

    def _post(self, draft: Draft) -> None:
        self._log.post(draft)
        self._posted.set()

    def _write_posted(self) -> None:
        """Write what was posted, so that whoever posts need not wait; the body of a thread."""
        while self._posted.wait() and not self._leaving:
            self._posted.clear()
            self._log.flush_beside()

    def _leave(self) -> None:
        """Give the lane up in order: finish what runs, log the release, free the lease.

        What waits, or does not finish in time, stays pending for the next owner.
        """
        self._turns.drain()
        self.owned.clear()
        self._leaving = True
        self._posted.set()
        if self._tenure.lease is not None:
            self._turns.wait_idle(1.0)
            self._close()
            self._turns.clear()
            self._handler.end()
            self._count(self._rejections.rest())
            try:
                self._log.post(Draft(type="lane.released", data={}))
                self._log.complete()
                self._tenure.release()
            except EXPECTED as error:
                self._logger.warning("lane not released", detail=str(error), free_in_seconds=LENGTH)
            self._tenure.lease = None
        self._link.close()
        self._log.close()
