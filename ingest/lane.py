"""A lane of sources: executes its commands and keeps what runs as the log says it should.

The log is the memory: `restore` folds it, `begin` and every few seconds after it what should run
is compared with what does. Commands of one source come one at a time, from threads of their own.

One lock orders everything: what is logged, what memory says, and which capture is the source's.
Nothing waits while it is held.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from queue import Empty, SimpleQueue

import structlog
from uuid_utils import uuid7

from ingest.capture import Capture, Report, Telemetry, Watched
from ingest.claims import Claims
from ingest.decide import Decision, Fact, Rejection, begun, decide, mend
from ingest.equipment import Equipment
from ingest.inputs import Inputs
from ingest.ledger import SUMMARY, Ledger, Void, draft_of, past_of
from ingest.listener import Noted
from ingest.notes import Notes
from ingest.run import RECONCILE, Run
from ingest.watch import Watching, changes, given_up
from streams.admission import Task
from streams.connection import Unreachable
from streams.drafts import Draft, Post
from streams.handler import LANE_LOST, Result
from streams.messages import Logged, now
from streams.vocabulary import LoggedSettings, SourceFact

START_TIMEOUT = 8.0
"""Seconds a start may take until audio has been read, before it is called failed."""
POLL = 0.05
"""Seconds between two looks whether a start in progress was cancelled."""
STOP_TIMEOUT = 1.0
"""Seconds to wait for a capture to end; one that hangs is silent and left behind."""
CLAIM_TIMEOUT = 20.0
"""Seconds to try to claim an id while Redis is away: as long as a failover may take."""


_Said = Report | Noted | Watched
_Reports = SimpleQueue[tuple[Run, _Said] | None]
"""What captures say, in order; None ends the attending."""


class SourcesLane:
    """The handler of a lane whose sources this node captures."""

    summary = SUMMARY

    def __init__(
        self,
        lane: str,
        telemetry: Telemetry,
        claims: Claims,
        equipment: Equipment,
        inputs: Inputs | None = None,
    ) -> None:
        self._lane = lane
        self._equipment = equipment
        self._telemetry = telemetry
        self._claims = claims
        self._inputs = inputs or Inputs()
        self._lock = threading.Lock()
        self._ledger = Ledger()
        self._notes = Notes(lane, self._ledger, self._lock, equipment)
        self._runs: dict[str, Run] = {}
        self._busy: set[str] = set()
        self._reports: _Reports | None = None
        self._logger = structlog.get_logger(__name__).bind(lane=lane)

    def restore(self, events: Iterator[Logged], known: bytes = b"") -> None:
        """Fold the lane's log anew. From here to `begin` nothing is logged."""
        with self._lock:
            self._ledger.close()
        past = past_of(events, known)
        with self._lock:
            self._ledger.sources, self._ledger.entered = past.sources, past.entered

    def begin(self, post: Post) -> None:
        """The lane is ours: let run what should run."""
        with self._lock:
            self._ledger.reopen(post)
            reports = self._reports
            if reports is None:
                reports = self._reports = SimpleQueue()
                name = f"attend-{self._lane}"
                threading.Thread(target=self._attend, args=(reports,), name=name, daemon=True).start()
        self._claims.renew(self._lane, self._ids)
        self._notes.enter()
        self._reconcile(reports)

    @property
    def notes(self) -> Notes:
        """What puts into the log what is heard of the lane's sources."""
        return self._notes

    def _ids(self) -> list[str]:
        with self._lock:
            return list(self._ledger.sources) if self._ledger.open else []

    def end(self) -> None:
        """The lane is not ours any more: stop what runs. The log still says that it should."""
        with self._lock:
            self._ledger.close()
            runs, self._runs = self._runs, {}
            reports, self._reports = self._reports, None
        if reports is not None:
            reports.put(None)
        for run in runs.values():
            run.capture.cancel()
        until = time.monotonic() + STOP_TIMEOUT
        for run in runs.values():
            self._stop(run, max(until - time.monotonic(), 0))

    def counts(self) -> dict[str, int]:
        """How many sources are in each state."""
        with self._lock:
            states = [source.state for source in self._ledger.sources.values()]
        return {state: states.count(state) for state in sorted(set(states))}

    def attempt(self, task: Task) -> Result | None:
        """Carry out what changes no capture and asks nobody: most updates, and what is so already."""
        id, command = task.command.source, task.command
        if command.type in ("source.add", "source.remove"):
            return None
        with self._lock:
            term, before, run = self._ledger.term, self._ledger.sources.get(id), self._runs.get(id)
        decision = decide(before, command)
        if isinstance(decision, Rejection):
            return self._reject(task, decision)
        if decision.starts or decision.action == "inject" or (decision.action == "stop" and run is not None):
            return None
        if decision.action == "report":
            return self._notes.report(task)
        try:
            return self._do(task, decision, term)
        except Void:
            return None

    def execute(self, task: Task) -> Result:
        """Carry out a source command."""
        id = task.command.source
        try:
            with self._lock:
                if task.cancelled.is_set():
                    # The lane may have been taken anew since its turn came.
                    raise Void
                term, before = self._ledger.term, self._ledger.sources.get(id)
                self._busy.add(id)
            decision = decide(before, task.command)
            if isinstance(decision, Decision) and task.command.type == "source.add":
                decision = self._claimed(task, decision)
            if isinstance(decision, Rejection):
                return self._reject(task, decision)
            if decision.action == "inject":
                return self._notes.inject(task)
            if decision.action == "report":
                return self._notes.report(task)
            return self._start(task, decision, term) if decision.starts else self._do(task, decision, term)
        except Void:
            return LANE_LOST
        except Unreachable as error:
            return Result(outcome="failed", reason="unreachable", detail=error.detail)
        finally:
            with self._lock:
                self._busy.discard(id)

    def _claimed(self, task: Task, decision: Decision) -> Decision | Rejection:
        """The decision to add, once the id is claimed for this lane. Raises Unreachable."""
        until = time.monotonic() + CLAIM_TIMEOUT
        while True:
            try:
                owner = self._claims.claim(task.command.source, self._lane)
                break
            except Unreachable:
                if time.monotonic() > until or task.cancelled.wait(POLL):
                    raise
        if owner == self._lane:
            return decision
        return Rejection(
            reason="exists", field="source", detail=f"the id belongs to lane {owner!r}; choose another"
        )

    def _release(self, id: str, command: str | None = None) -> None:
        def exists() -> bool:
            with self._lock:
                return id in self._ledger.sources or id in self._busy

        self._claims.release(id, self._lane, exists, command)

    def _reject(self, task: Task, rejection: Rejection) -> Result:
        if task.command.type == "source.remove" and rejection.reason == "unknown_source":
            # Where a crash came between a removal and the release of its id, the next removal frees it.
            self._release(task.command.source)
        return Result(
            outcome="rejected", reason=rejection.reason, field=rejection.field, detail=rejection.detail
        )

    def _do(self, task: Task, decision: Decision, term: int) -> Result:
        """What needs no audio: it is logged together with the result."""
        id, command = task.command.source, task.command.id
        ended: Run | None = None
        drafts: list[Draft] = []
        with self._lock:
            self._ledger.check(term)
            if decision.action in ("stop", "remove"):
                ended = self._runs.pop(id, None)
            source = self._ledger.sources.get(id)
            over = given_up(source, "removed") if source and decision.action == "remove" else []
            for fact in (*over, *decision.facts):
                drafts.append(draft_of(fact, id, command))
                self._ledger.fold(drafts[-1])
            if (run := self._runs.get(id)) is not None:
                self._record(run.capture)
        if ended is not None:
            self._stop(ended)
        if decision.action == "remove":
            self._release(id, command)
        state = decision.after.state if decision.after else None
        return Result(outcome="completed", state=state, drafts=tuple(drafts))

    def _start(self, task: Task, decision: Decision, term: int) -> Result:
        """(Re)start the capture and wait until audio was read, it failed, or somebody overtook us."""
        id, command, after = task.command.source, task.command.id, decision.after
        if after is None:
            raise Void
        with self._lock:
            self._ledger.check(term)
            run = self._runs.get(id)
            seen = run.seen() if run and decision.action == "start" else None
            how_far = begun(self._ledger.sources.get(id), seen, after.settings)
            if how_far == "running":
                return Result(outcome="completed", state="running")
            for fact in decision.facts:
                self._ledger.tell(fact, id, command)
            if run is not None and how_far == "starting":
                run.command = command
                ended = None
            else:
                run, ended = None, self._runs.pop(id, None)
        if ended is not None:
            self._stop(ended)
        if run is None:
            with self._lock:
                self._ledger.check(term)
                run = self._run(id, after.settings, command)
        return self._await(task, run)

    def _await(self, task: Task, run: Run) -> Result:
        until = time.monotonic() + START_TIMEOUT
        while not run.tried.wait(POLL):
            if task.cancelled.is_set():
                # What it began goes on, as the log says, until the newer command has its way.
                return Result(outcome="superseded", reason="superseded")
            if time.monotonic() > until:
                return self._too_slow(task, run)
        first = run.first
        if first is not None and first.state in ("failed", "stalled"):
            detail = f"{first.fact.reason}; the node keeps trying until it is stopped"
            return Result(outcome="failed", state=first.state, reason="source_failed", detail=detail)
        return Result(outcome="completed", state="running")

    def _too_slow(self, task: Task, run: Run) -> Result:
        reason = f"no audio within {START_TIMEOUT:g} s"
        id = task.command.source
        with self._lock:
            if self._runs.get(id) is run and not run.tried.is_set():
                self._ledger.tell(Fact("source.failed", SourceFact(reason=reason)), id, task.command.id)
        detail = f"{reason}; the node keeps trying until it is stopped"
        return Result(outcome="failed", state="failed", reason="no_audio", detail=detail)

    def _stop(self, run: Run, timeout: float = STOP_TIMEOUT) -> None:
        if not run.capture.stop(timeout):
            self._logger.warning("capture hangs; it is left behind, silent", source=run.capture.source)

    def _attend(self, reports: _Reports) -> None:
        """Log what captures report, and reconcile every few seconds; the body of a thread."""
        due = time.monotonic() + RECONCILE
        while True:
            try:
                item = reports.get(timeout=max(due - time.monotonic(), 0))
                if item is None:
                    return
                self._take(*item)
            except Empty:
                pass
            except Exception:  # whatever one source brings about, the others are attended to
                self._logger.exception("report not logged")
            if time.monotonic() >= due:
                self._look()
                self._reconcile(reports)
                due = time.monotonic() + RECONCILE

    def _take(self, run: Run, said: _Said) -> None:
        if isinstance(said, Report):
            self._heard(run, said)
            return
        if isinstance(said, Watched):
            with self._lock:
                run.measured = said
                if self._runs.get(run.capture.source) is run:
                    self._watch(run.capture.source)
            return
        # Also of a capture that was stopped since: it was heard.
        self._notes.note(run.capture.source, said)

    def _heard(self, run: Run, report: Report) -> None:
        id = run.capture.source
        with self._lock:
            if self._runs.get(id) is not run:
                return
            run.heard = report
            run.first = run.first or report
            try:
                self._say(id, run)
            finally:
                run.tried.set()

    def _look(self) -> None:
        """Hear from captures that hang, and from those that go on after that; watch what is decoded."""
        with self._lock:
            for run in self._runs.values():
                run.heard = run.look() or run.heard
                self._record(run.capture)
            for id in list(self._ledger.sources):
                self._watch(id)

    def _reconcile(self, reports: _Reports) -> None:
        """Start what should run and does not, stop what should not and does, log what was not logged."""
        with self._lock:
            ids = self._ledger.sources.keys() | self._runs.keys()
        for id in sorted(ids):
            with self._lock:
                if self._reports is not reports or not self._ledger.open:
                    return
                try:
                    ended = None if id in self._busy else self._mend(id)
                except Exception:  # the other sources are mended all the same
                    self._logger.exception("source not mended", source=id)
                    continue
            if ended is not None:
                self._stop(ended)

    # What follows is called with the lock held, and waits for nothing.

    def _watch(self, id: str) -> None:
        """Log which conditions of a source began and ended."""
        source, run = self._ledger.sources.get(id), self._runs.get(id)
        if source is not None:
            seen = run.watching() if run is not None else Watching()
            for fact in changes(source, seen, now(), lambda: str(uuid7())):
                self._ledger.tell(fact, id)

    def _mend(self, id: str) -> Run | None:
        """Mend one source; return the run that is to be stopped."""
        source, run = self._ledger.sources.get(id), self._runs.get(id)
        mending = mend(source, run.seen() if run else None)
        if mending == "say" and run is not None:
            self._say(id, run)
            return None
        if mending == "nothing":
            return None
        self._runs.pop(id, None)
        if mending == "start" and source is not None:
            self._ledger.tell(Fact("source.starting", SourceFact(reason="reconciled")), id)
            self._run(id, source.settings, None)
        elif source is not None and source.state != "stopped":
            self._ledger.tell(Fact("source.stopped", SourceFact(reason="reconciled")), id)
        return run

    def _run(self, id: str, settings: LoggedSettings, command: str | None) -> Run:
        """Start a capture. Its reports go to whoever attends to the lane now."""
        reports = self._reports
        if reports is None:
            raise Void

        def report(said: _Said) -> None:
            reports.put((run, said))

        capture = Capture(
            id, settings, report=report, hear=report, watch=report, telemetry=self._telemetry,
            equipment=self._equipment, evidence=self._notes.evidence(id), inputs=self._inputs,
        )  # fmt: skip
        self._record(capture)
        run = Run(capture, command)
        capture.start()
        self._runs[id] = run
        return run

    def _record(self, capture: Capture) -> None:
        """Let a capture record what is wished of its source."""
        source = self._ledger.sources.get(capture.source)
        capture.evidence.always(source is not None and source.recorded == "always")

    def _say(self, id: str, run: Run) -> None:
        """Log what was last heard of a capture; one that has ended is done with."""
        heard = run.heard
        if heard is None:
            self._ledger.tell(Fact("source.starting", SourceFact(reason="reconciled")), id)
            return
        command = run.command if run.first is heard else None
        self._ledger.tell(Fact(f"source.{heard.state}", heard.fact), id, command, heard.at)
        if heard.state == "stopped" and self._ledger.open:
            del self._runs[id]
