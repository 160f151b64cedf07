"""A lane of sources: executes its commands and keeps what runs as the log says it should.

The log is the memory: `restore` folds it, `begin` and every few seconds after it what should run
is compared with what does. Commands of one source come one at a time, from threads of their own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import datetime
from queue import Empty, SimpleQueue

import msgspec
import structlog

from ingest.capture import Capture, Report, Telemetry
from ingest.decide import Decision, Rejection, decide
from ingest.state import Source, fold
from streams.admission import Task
from streams.log import Draft, Post
from streams.messages import GENESIS, SCHEMA, Event, Logged, now
from streams.vocabulary import SourceFact, SourceSettings, SourceState, plain
from streams.worker import Result

START_TIMEOUT = 8.0
"""Seconds a start may take until audio has been read, before it is called failed."""
RECONCILE = 3.0
"""Seconds between two comparisons of what should run with what does."""
POLL = 0.05
"""Seconds between two looks whether a start in progress was cancelled."""


class SourcesLane:
    """The handler of a lane whose sources this node captures."""

    def __init__(self, lane: str, telemetry: Telemetry) -> None:
        self._lane = lane
        self._telemetry = telemetry
        self._lock = threading.RLock()
        self._sources: dict[str, Source] = {}
        self._captures: dict[str, Capture] = {}
        self._busy: set[str] = set()
        self._post: Post | None = None
        self._ours = threading.Event()
        self._reports: SimpleQueue[tuple[Capture, Report]] = SimpleQueue()
        self._log = structlog.get_logger(__name__).bind(lane=lane)

    def restore(self, events: Iterator[Logged]) -> None:
        """Fold the lane's log anew."""
        sources: dict[str, Source] = {}
        for logged in events:
            try:
                after = fold(sources.get(logged.event.source), logged.event)
            except msgspec.ValidationError as error:
                self._log.error("event not understood", seq=logged.event.seq, detail=str(error))
                continue
            if after is not None:
                sources[logged.event.source] = after
            else:
                sources.pop(logged.event.source, None)
        with self._lock:
            self._sources = sources

    def begin(self, post: Post) -> None:
        """The lane is ours: let run what should run."""
        self._post = post
        if not self._ours.is_set():
            self._ours.set()
            threading.Thread(target=self._attend, name=f"attend-{self._lane}", daemon=True).start()
        self.reconcile()

    def end(self) -> None:
        """The lane is not ours any more: stop what runs. The log still says that it should."""
        self._ours.clear()
        with self._lock:
            captures, self._captures = self._captures, {}
            self._post = None
        for capture in captures.values():
            capture.stop()

    def counts(self) -> dict[str, int]:
        """How many sources are in each state."""
        with self._lock:
            states = [source.state for source in self._sources.values()]
        return {state: states.count(state) for state in sorted(set(states))}

    def execute(self, task: Task) -> Result:
        """Carry out a source command."""
        command = task.command
        with self._lock:
            self._busy.add(command.source)
            before = self._sources.get(command.source)
        try:
            decision = decide(before, command)
            if isinstance(decision, Rejection):
                return Result(
                    outcome="rejected", reason=decision.reason, field=decision.field, detail=decision.detail
                )
            return self._carry_out(task, decision)
        finally:
            with self._lock:
                self._busy.discard(command.source)

    def _carry_out(self, task: Task, decision: Decision) -> Result:
        source, action, after = task.command.source, decision.action, decision.after
        if action == "remove" or after is None:
            self._halt(source)
            return self._done(task, None, "source.removed", SourceFact())
        if action == "add":
            fact = SourceFact(settings=after.settings, name=after.name, desired="stopped")
            return self._done(task, "stopped", "source.added", fact)
        if action == "nothing":
            return Result(outcome="completed", state=after.state)
        if action == "update":
            return self._update(task, after)
        if action == "stop":
            self._halt(source)
            return self._done(
                task, "stopped", "source.stopped", SourceFact(desired="stopped", reason="command")
            )
        with self._lock:
            running = self._captures.get(source)
        if action == "start" and running and running.last.state == "running":
            return Result(outcome="completed", state="running")
        return self._start(task, after)

    def _update(self, task: Task, after: Source) -> Result:
        before = self._sources[task.command.source]
        settings = after.settings if after.settings != before.settings else None
        fact = SourceFact(settings=settings, name=after.name if after.name != before.name else None)
        draft = self._draft("source.updated", task.command.source, fact, task.command.id)
        self._note(draft)
        if settings is None or before.desired == "stopped":
            return Result(outcome="completed", state=after.state, drafts=(draft,))
        started = self._start(task, after)
        return msgspec.structs.replace(started, drafts=(draft, *started.drafts))

    def _start(self, task: Task, wanted: Source) -> Result:
        """(Re)start the capture and wait until audio was read, it failed, or somebody overtook us."""
        id, command = task.command.source, task.command
        self._halt(id)
        self._tell("source.starting", id, SourceFact(desired="running"), command.id)
        capture = self._capture(id, wanted.settings, tell_first=False)
        waited = 0.0
        while not capture.tried.wait(POLL):
            waited += POLL
            if task.cancelled.is_set():
                self._halt(id)
                return Result(outcome="superseded", reason="superseded")
            if waited >= START_TIMEOUT:
                detail = f"no audio within {START_TIMEOUT:g} s; the node keeps trying until it is stopped"
                return Result(outcome="failed", state="starting", reason="no_audio", detail=detail)
        first = capture.first
        draft = self._draft(f"source.{first.state}", id, first.fact, command.id, first.at)
        self._note(draft)
        if first.state == "failed":
            detail = f"{first.fact.reason}; the node keeps trying until it is stopped"
            return Result(
                outcome="failed", state="failed", reason="source_failed", detail=detail, drafts=(draft,)
            )
        return Result(outcome="completed", state=first.state, drafts=(draft,))

    def _capture(self, source: str, settings: SourceSettings, *, tell_first: bool) -> Capture:
        capture = Capture(
            source,
            settings,
            report=lambda capture, report: self._reports.put((capture, report)),
            telemetry=self._telemetry,
            tell_first=tell_first,
        )
        with self._lock:
            self._captures[source] = capture
        capture.start()
        return capture

    def _halt(self, source: str) -> None:
        with self._lock:
            capture = self._captures.pop(source, None)
        if capture:
            capture.stop()

    def _done(self, task: Task, state: SourceState | None, type: str, fact: SourceFact) -> Result:
        """A result whose event is logged in the same step."""
        draft = self._draft(type, task.command.source, fact, task.command.id)
        self._note(draft)
        return Result(outcome="completed", state=state, drafts=(draft,))

    def _reported(self, capture: Capture, report: Report) -> None:
        """Log what a capture says of itself, unless it has been replaced meanwhile."""
        with self._lock:
            if self._captures.get(capture.source) is not capture:
                return
            if report.state == "stopped":
                del self._captures[capture.source]
        self._tell(f"source.{report.state}", capture.source, report.fact, at=report.at)

    def _tell(
        self,
        type: str,
        source: str,
        fact: SourceFact,
        command: str | None = None,
        at: datetime | None = None,
    ) -> None:
        draft = self._draft(type, source, fact, command, at)
        self._note(draft)
        post = self._post
        if post:
            post(draft)

    def _note(self, draft: Draft) -> None:
        """Fold what is about to be logged into what we know, exactly as a reader of the log will."""
        event = Event(
            seq=0, prev=GENESIS, token=0, at=now(), logged_at=now(), node="", type=draft.type,
            data=draft.data, schema=SCHEMA, source=draft.source,
        )  # fmt: skip
        with self._lock:
            after = fold(self._sources.get(draft.source), event)
            if after is not None:
                self._sources[draft.source] = after
            else:
                self._sources.pop(draft.source, None)

    def _draft(
        self,
        type: str,
        source: str,
        fact: SourceFact,
        command: str | None = None,
        at: datetime | None = None,
    ) -> Draft:
        return Draft(type=type, source=source, data=plain(fact), command=command, at=at)

    def _attend(self) -> None:
        """Log what captures report, and reconcile every few seconds; the body of a thread."""
        due = time.monotonic() + RECONCILE
        while self._ours.is_set():
            try:
                self._reported(*self._reports.get(timeout=max(due - time.monotonic(), 0)))
            except Empty:
                self.reconcile()
                due = time.monotonic() + RECONCILE

    def reconcile(self) -> None:
        """Start what should run and does not, stop what should not and does, log what was not logged."""
        with self._lock:
            sources = {id: s for id, s in self._sources.items() if id not in self._busy}
            captures = dict(self._captures)
            gone = captures.keys() - self._sources.keys() - self._busy
        for id in gone:
            self._halt(id)
        for id, source in sources.items():
            capture = captures.get(id)
            if source.desired == "stopped":
                self._halt(id)
                if source.state != "stopped":
                    self._tell("source.stopped", id, SourceFact(reason="reconciled"))
            elif capture is None:
                self._tell("source.starting", id, SourceFact(reason="reconciled"))
                self._capture(id, source.settings, tell_first=True)
            elif capture.tried.is_set() and capture.last.state != source.state:
                self._tell(f"source.{capture.last.state}", id, capture.last.fact, at=capture.last.at)
