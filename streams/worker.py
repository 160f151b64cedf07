"""The owner of a lane: holds its lease, takes its commands, and writes what became of them.

What is executed is a room's own business, behind `Handler`; everything that makes a result happen
exactly once is here and in the functions it calls.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import structlog
from redis.exceptions import ResponseError

from streams.admission import (
    Delivery,
    Refusal,
    Task,
    admit,
    parse_delivery,
    settled_answer,
)
from streams.connection import Unreachable, connect
from streams.drafts import Draft, check
from streams.durability import NotDurable, Prover, patience
from streams.handler import Handler, Result
from streams.healing import Archive, ArchiveAway
from streams.lease import LENGTH, RENEW, Held, Lease, LeaseLost, acquire, new_nonce, release, renew, renewal
from streams.log import PATIENCE, LaneLog
from streams.messages import Durability
from streams.names import StationKeys
from streams.replay import replay
from streams.settings import Settings
from streams.settling import durability_of, settled
from streams.signing import Keyring
from streams.steps import step
from streams.turns import Turns

COUNT = 128
"""Commands taken at once."""
IDLE = 1.0
"""Seconds to block for a command before looking after the lease."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0
"""Seconds between attempts to own a lane that cannot be reached (full jitter, doubling)."""
INTERRUPTIONS = (Unreachable, LeaseLost, NotDurable, ArchiveAway, ResponseError)
"""What is expected to interrupt an owner now and then."""


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
    ) -> None:
        self._station = StationKeys(settings.station.id)
        self._station_id = settings.station.id
        self._durability: Durability = settings.durability
        self._lane = lane
        self._node = node
        self._keys = self._station.lane(lane)
        self._handler = handler
        self._keyring = keyring
        self._prover = prover
        self._link = connect(settings.redis, f"{node}-{lane}-take")
        self._log = LaneLog(
            connect(settings.redis, f"{node}-{lane}-log"),
            self._station,
            lane,
            node,
            prover,
            self._durability,
            archive,
        )
        self._turns = Turns(self._execute)
        self._open: dict[str, Delivery] = {}
        self._lease: Lease | None = None
        self._nonce = new_nonce()
        self._consumer = f"{node}.{self._nonce}"
        self._restored = False
        self._unwritten = threading.Event()
        self._posted = threading.Event()
        self._leaving = False
        self._server_time = (0.0, datetime.fromtimestamp(0, UTC))
        self._said = ""
        self._logger = structlog.get_logger(__name__).bind(node=node, lane=lane)
        self.owned = threading.Event()
        """Set while the lane is ours."""

    def run(self, stop: threading.Event) -> None:
        """Own the lane until `stop` is set, coming back by itself from whatever fails."""
        threading.Thread(target=self._write_posted, name=f"write-{self._lane}", daemon=True).start()
        pause = FIRST_PAUSE
        while not stop.is_set():
            try:
                self._own(stop)
                pause = FIRST_PAUSE
            except Exception as error:
                if self.owned.is_set():
                    pause = FIRST_PAUSE
                self.owned.clear()
                self._say(error)
                # Whatever it was, the next attempt asks afresh which server is the primary.
                self._link.close()
                stop.wait(random.uniform(0, pause))
                pause = min(pause * 2, LONGEST_PAUSE)
        self._leave()

    def _say(self, error: Exception) -> None:
        if str(error) == self._said:
            return
        self._said = str(error)
        # What is not foreseen is said with its trace, and is no reason to give the lane up for good.
        trace = None if isinstance(error, INTERRUPTIONS) else error
        self._logger.warning("lane interrupted", why=type(error).__name__, detail=str(error), exc_info=trace)

    def _own(self, stop: threading.Event) -> None:
        lease = self._acquire(stop)
        if lease is None:
            return
        self._lease = lease
        self._prover.prove(self._link, renewal(self._keys, lease), self._durability, timeout=PATIENCE)
        step("leased")
        untouched = self._log.take(lease)
        self._log.prove_head()
        step("head proven")
        if not (untouched and self._restored):
            # What is being done and was posted here rests on another log than the one that stands.
            self._turns.clear()
            self._open.clear()
            self._handler.restore(replay(self._link, self._keys, upto=self._log.seq))
            self._restored = True
            self._log.discard()
        step("restored")
        self._log.post(Draft(type="lane.acquired", data={"fence": lease.fence}))
        self._log.flush()
        step("acquired")
        self._handler.begin(self._post)
        step("begun")
        self.owned.set()
        self._said = ""
        self._logger.info("lane acquired", token=lease.token, head=lease.head_seq)
        self._take_pending()
        self._follow(stop)

    def _acquire(self, stop: threading.Event) -> Lease | None:
        before = self._lease.fence if self._lease else ""
        while not stop.is_set():
            got = acquire(self._link, self._keys, self._node, before, self._nonce)
            if isinstance(got, Lease):
                self._nonce = new_nonce()
                return got
            if got.fence.endswith(f" {self._nonce}"):
                # We acquired it, and the answer was lost.
                before = got.fence
                continue
            self._lose(got)
            before = ""
            stop.wait(min(max(got.seconds, 0.05), 1.0))
        return None

    def _lose(self, held: Held) -> None:
        """Somebody else holds the lane: forget what was going on here."""
        if self._lease is None:
            return
        self._logger.warning("lane lost", to=held.fence.split(" ")[0])
        self._lease, self._restored = None, False
        self._turns.clear()
        self._log.drop()
        self._open.clear()
        self._handler.end()

    def _take_pending(self) -> None:
        """Finish what an earlier owner (or we, before an interruption) took and did not settle."""
        after = "0-0"
        while True:
            # Known before it is taken: what is being executed here, then what waits to be written.
            known = set(self._open) | self._log.unwritten()
            taken = self._take(after)
            if not taken:
                break
            for delivery in taken:
                if delivery.entry not in known:
                    self._admit(delivery)
            after = taken[-1].entry
        self._log.flush()

    def _follow(self, stop: threading.Event) -> None:
        last = self._last_entry()
        renew_at = time.monotonic() + RENEW
        wake: tuple[Any, ...] | None = None
        while not stop.is_set():
            if self._unwritten.is_set():
                self._unwritten.clear()
                self._log.flush()
            if time.monotonic() >= renew_at:
                self._renew()
                renew_at = time.monotonic() + RENEW
            # At first without blocking: what was submitted before `last` wakes nobody any more.
            taken = self._take("new", wake)
            while taken:
                last = taken[-1].entry
                for delivery in taken:
                    self._admit(delivery)
                self._log.flush()
                if len(taken) < COUNT or time.monotonic() >= renew_at:
                    break
                taken = self._take("new")
            wake = ("XREAD", "COUNT", 1, "BLOCK", int(IDLE * 1000), "STREAMS", self._keys.commands, last)

    def _last_entry(self) -> str:
        flat = self._link.call("XINFO", "STREAM", self._keys.commands)
        info = dict(zip(flat[::2], flat[1::2], strict=True))
        entry: bytes = info[b"last-generated-id"]
        return entry.decode()

    def _renew(self) -> None:
        if self._lease is None:
            raise LeaseLost(f"no lease of lane {self._lane!r}")
        self._lease = renew(self._link, self._keys, self._lease)
        self._log.extend(self._lease)
        step("renewed")

    def _take(self, mode: str, wake: tuple[Any, ...] | None = None) -> list[Delivery]:
        """Take commands; they are returned once durable, as execution begins only then.

        `wake` is a command to block on first, in the same round trip.
        """
        lease = self._lease
        if lease is None or time.monotonic() > lease.until:
            raise LeaseLost(f"no valid lease of lane {self._lane!r}")
        keys = self._keys
        take = (
            "FCALL", "tocsin_take", 3, keys.lease, keys.commands, keys.ids,
            lease.fence, self._consumer, COUNT, mode,
        )  # fmt: skip
        replies = self._link.batch([wake, take] if wake else [take], timeout=IDLE if wake else None)
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        status, *rest = replies[-1]
        if status != b"ok":
            raise LeaseLost(f"the lease of lane {self._lane!r} is another's")
        self._server_time = (time.monotonic(), datetime.fromtimestamp(rest[0] / 1000, UTC))
        taken = [parse_delivery(*row) for row in rest[1]]
        if taken:
            step("read")
        demanding = any(durability_of(delivery, self._durability) != "memory" for delivery in taken)
        # What a command asks for beyond `replica` is for its result to wait for.
        level: Durability = "replica" if self._durability == "memory" else self._durability
        wait = self._prover.command(level) if demanding else None
        if wait:
            acknowledged = self._link.call(*wait, timeout=patience(wait))
            if not self._prover.accepts(level, acknowledged, self._link):
                self._prover.prove(self._link, renewal(keys, lease), level, timeout=PATIENCE)
        return taken

    def _now(self) -> datetime:
        """The server's time, by its last answer and our monotonic clock since."""
        at, server = self._server_time
        return server + timedelta(seconds=time.monotonic() - at)

    def _admit(self, delivery: Delivery) -> None:
        if settled_answer(delivery):
            # Its result stands: only the acknowledgement was lost.
            self._link.call("XACK", self._keys.commands, "ingest", delivery.entry)
            self._link.call("XDEL", self._keys.commands, delivery.entry)
            return
        verdict = admit(
            delivery, keyring=self._keyring(), station=self._station_id, lane=self._lane, time=self._now()
        )
        self._open[delivery.entry] = delivery
        step("admitted")
        if isinstance(verdict, Refusal):
            self._refuse(delivery, verdict)
            return
        if self._turns.idle(verdict.command.source):
            result = self._carried_out(verdict, self._handler.attempt)
            if result is not None:
                self._conclude(verdict, result)
                return
        for overtaken in self._turns.put(verdict):
            self._conclude(overtaken, Result(outcome="superseded", reason="superseded"))

    def _execute(self, task: Task) -> None:
        """Body of a source's turn: never raises, so that the turns after it come."""
        if task.command.expires_at <= self._now():
            result: Result | None = Result(outcome="expired", reason="expired", field="expires_at")
        else:
            result = self._carried_out(task, self._handler.execute)
        if result is not None:
            self._conclude(task, result)
            self._flush()

    def _carried_out(self, task: Task, how: Callable[[Task], Result | None]) -> Result | None:
        """What the handler makes of a task; an error of its own is a result too."""
        try:
            result = how(task)
            check(result.drafts if result else ())
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
        result = Result(
            outcome=refusal.outcome, reason=refusal.reason, field=refusal.field, detail=refusal.detail
        )
        self._settle(
            delivery,
            result,
            command=delivery.id if refusal.attributed else None,
            type=refusal.command.type if refusal.command else "",
            marked=refusal.marked,
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
    ) -> None:
        if self._open.get(delivery.entry) is not delivery:
            # The lane was lost meanwhile; if it is ours again, the command was delivered anew.
            return
        drafts, settlement = settled(
            delivery, result, lane=self._lane, default=self._durability,
            command=command, type=type, by=by, marked=marked,
        )  # fmt: skip
        self._log.settle(drafts, settlement)
        step("settled")
        # Only now, so that at any moment the log or `_open` knows it.
        self._open.pop(delivery.entry, None)

    def _post(self, draft: Draft) -> None:
        self._log.post(draft)
        self._posted.set()

    def _write_posted(self) -> None:
        """Write what was posted, so that whoever posts need not wait; the body of a thread."""
        while self._posted.wait() and not self._leaving:
            self._posted.clear()
            self._flush()

    def _flush(self) -> None:
        """Write from a thread that is not the lane's own; what fails is the lane's to mend."""
        try:
            self._log.flush()
        except INTERRUPTIONS:
            self._unwritten.set()

    def _leave(self) -> None:
        """Give the lane up in order: finish what runs, log the release, free the lease.

        What waits, or does not finish in time, stays pending for the next owner.
        """
        self._turns.drain()
        self.owned.clear()
        self._leaving = True
        self._posted.set()
        if self._lease is not None:
            self._turns.wait_idle(1.0)
            self._open.clear()
            self._turns.clear()
            self._handler.end()
            try:
                self._log.post(Draft(type="lane.released", data={}))
                self._log.flush()
                release(self._link, self._keys, self._lease)
            except INTERRUPTIONS as error:
                self._logger.warning("lane not released", detail=str(error), free_in_seconds=LENGTH)
            self._lease = None
        self._link.close()
        self._log.close()
