"""What a command's spans are: made of what its submitter, its owner and its folder know.

They only look on: whatever goes wrong here is logged, once, and no command is the worse for it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import wraps
from typing import Literal, ParamSpec, TypeVar

import msgspec
import structlog

from streams.admission import UNREADABLE, Delivery, Task
from streams.drafts import Post
from streams.handler import Handler, Result
from streams.messages import Command, Event, Logged, decode_event
from streams.traces import Trace, trace_of

NOTES = 10_000
"""Commands whose times are noted at most; a lane that is lost takes its notes with it only by this."""
FRESH = 3600 * 10**9
"""Nanoseconds after which a fold is of old events, read again, and has no place in their traces."""
DAY = 24 * 3600 * 10**9
"""Nanoseconds between the issue of a command and its result that are believed."""
WRONG = frozenset({"failed", "rejected", "expired"})
"""Outcomes that are marked as errors."""
RESULT = b'"type":"command.'

log = structlog.get_logger(__name__)
Given = ParamSpec("Given")
Made = TypeVar("Made")
Kind = Literal["internal", "submit", "receive"]


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """Something that was done, from `start` to `end` (nanoseconds since 1970). `moments` lie between."""

    name: str
    trace: Trace
    kind: Kind
    start: int
    end: int
    attributes: dict[str, str | int]
    is_root: bool = False
    moments: tuple[tuple[str, int], ...] = ()
    error: str | None = None


class Times:
    """When what was done with a command, by its owner's clock; 0 where it was not."""

    __slots__ = ("begun", "executed", "taken")

    def __init__(self, taken: int) -> None:
        self.taken = taken
        self.begun = self.executed = 0


def _harmless(method: Callable[Given, None]) -> Callable[Given, None]:
    """Let nobody who is traced be harmed by it."""
    said: list[str] = []

    @wraps(method)
    def harmless(*args: Given.args, **kwargs: Given.kwargs) -> None:
        try:
            method(*args, **kwargs)
        except Exception as error:
            if repr(error) not in said[-1:]:
                said.append(repr(error))
                log.exception("a span was not made")

    return harmless


class Tracing:
    """Makes the spans of one process, for the commands that fall into `ratio`, and gives them to `write`."""

    def __init__(self, write: Callable[[Span], None], ratio: float = 1.0) -> None:
        self._write = write
        self._ratio = ratio
        self._times: dict[str, Times] = {}
        self._lock = threading.Lock()

    def _trace(self, command: str) -> Trace | None:
        trace = trace_of(command)
        return trace if trace.share < self._ratio else None

    @contextmanager
    def submitting(self, how: str, commands: Sequence[Command]) -> Iterator[None]:
        """A span for each command over the block."""
        start, error = time.time_ns(), None
        try:
            yield
        except Exception as raised:
            error = ": ".join(filter(None, (type(raised).__name__, getattr(raised, "reason", ""))))
            raise
        finally:
            self._submitted(how, commands, start, error)

    @_harmless
    def _submitted(self, how: str, commands: Sequence[Command], start: int, error: str | None) -> None:
        end = time.time_ns()
        for command in commands:
            if trace := self._trace(command.id):
                known = _attributes(command.id, command.lane, command.source, command.type)
                self._write(
                    Span(
                        name=how,
                        trace=trace,
                        kind="submit",
                        start=start,
                        end=end,
                        attributes=known,
                        error=error,
                    )
                )

    def watched(self, handler: Handler) -> Handler:
        """The handler, with a note of when it begins and ends a command."""
        return _Watched(handler, self._times)

    @_harmless
    def taken(self, deliveries: Sequence[Delivery]) -> None:
        """Note when commands were taken."""
        at = time.time_ns()
        with self._lock:
            for delivery in deliveries:
                if self._trace(delivery.id):
                    # What is taken again after an interruption may be executing already.
                    self._times.setdefault(delivery.id, Times(at))
            while len(self._times) > NOTES:
                del self._times[next(iter(self._times))]

    @_harmless
    def logged(self, lane: str, entries: Sequence[tuple[bytes, str]]) -> None:
        """The execution's span of each result, and the root."""
        end = time.time_ns()
        for raw, _ in entries:
            if RESULT not in raw:
                continue
            event = decode_event(raw)
            if not (event.command and event.type.startswith("command.")):
                continue
            if trace := self._trace(event.command):
                with self._lock:
                    times = self._times.pop(event.command, None)
                for span in executed(lane, event, trace, times, end):
                    self._write(span)

    @_harmless
    def folded(self, lane: str, events: Sequence[Logged], began: int) -> None:
        """The fold's span of each result."""
        end = time.time_ns()
        for one in events:
            event = one.event
            if not (event.command and event.type.startswith("command.")):
                continue
            if end - _nanoseconds(event.logged_at) > FRESH:
                continue
            if trace := self._trace(event.command):
                self._write(
                    Span(
                        name="fold",
                        trace=trace,
                        kind="receive",
                        start=began,
                        end=end,
                        attributes=_told(lane, event),
                    )
                )


def executed(lane: str, event: Event, trace: Trace, times: Times | None, end: int) -> tuple[Span, Span]:
    """The root of a command's trace and the span of its execution, by the result that stands in its log."""
    told = _told(lane, event)
    outcome = str(told["tocsin.outcome"])
    start = times.taken if times else min(_nanoseconds(event.logged_at), end)
    issued = _issued(event)
    # What a stranger signed may tell any time.
    began = issued if 0 <= start - issued <= DAY else start
    known = (("begun", times.begun), ("executed", times.executed)) if times else ()
    moments = tuple((name, at) for name, at in known if at)
    error = str(told.get("tocsin.reason", outcome)) if outcome in WRONG else None
    # The type that a stranger chose is no name to list traces by.
    name = "command" if outcome == "rejected" else str(told["tocsin.type"]) or "command"
    execution = Span(
        name="execute",
        trace=trace,
        kind="receive",
        start=start,
        end=end,
        attributes=told,
        moments=moments,
        error=error,
    )
    whole = {"name": name, "kind": "internal", "start": began, "moments": (), "is_root": True}
    return msgspec.structs.replace(execution, **whole), execution


def _attributes(command: str, lane: str, source: str, type: str) -> dict[str, str | int]:
    return {
        "tocsin.command": command, "tocsin.lane": lane, "tocsin.source": source, "tocsin.type": type
    }  # fmt: skip


def _told(lane: str, event: Event) -> dict[str, str | int]:
    """What a result says, without what was asked for: that may be nobody else's business."""
    data = event.data
    told = _attributes(event.command or "", lane, event.source, str(data.get("type") or ""))
    told |= {"tocsin.outcome": event.type.removeprefix("command."), "tocsin.seq": event.seq}
    for name in ("sequence", "deliveries", "reason", "state", "by"):
        if isinstance(value := data.get(name), str | int):
            told[f"tocsin.{name}"] = value
    return told


class _Issued(msgspec.Struct, frozen=True):
    issued_at: datetime


def _issued(event: Event) -> int:
    """When the command was issued; 0 where that cannot be read."""
    try:
        return _nanoseconds(msgspec.json.decode(event.data.get("request") or "", type=_Issued).issued_at)
    except (*UNREADABLE, TypeError, ValueError, OverflowError):
        return 0


def _nanoseconds(at: datetime) -> int:
    return int(at.timestamp() * 1e6) * 1000


class _Watched:
    """A handler that notes in `times` when it began and ended what it carried out."""

    def __init__(self, handler: Handler, times: dict[str, Times]) -> None:
        self._handler = handler
        self._times = times
        self.summary = handler.summary

    def restore(self, events: Iterator[Logged], known: bytes = b"") -> None:
        self._handler.restore(events, known)

    def begin(self, post: Post) -> None:
        self._handler.begin(post)

    def attempt(self, task: Task) -> Result | None:
        return self._noted(task, self._handler.attempt)

    def execute(self, task: Task) -> Result:
        return self._noted(task, self._handler.execute)

    def end(self) -> None:
        self._handler.end()

    def _noted(self, task: Task, how: Callable[[Task], Made]) -> Made:
        times = self._times.get(task.command.id)
        if times is None:
            return how(task)
        begun, made = time.time_ns(), None
        try:
            made = how(task)
        except Exception:
            times.begun, times.executed = begun, time.time_ns()
            raise
        if made is not None:
            times.begun, times.executed = begun, time.time_ns()
        return made
