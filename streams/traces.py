"""Traces: one for each command, from its submission to its fold, where somebody collects them.

Nothing travels for them. A command's id is a UUID, as long as the id of a trace: whoever knows the
command knows its trace, and the id of its root span. The owner makes the root, for each command has
one owner that logs its one result; submit, execution and fold are its children, in any process.

OpenTelemetry is imported by `streams.spans` alone, and that only where traces are on.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

import structlog

if TYPE_CHECKING:
    from streams.admission import Delivery
    from streams.handler import Handler
    from streams.messages import Command, Logged
    from streams.settings import Settings, TracesSection
    from streams.tracing import Tracing

SHARES = 1 << 53
"""As fine as a float tells numbers below 1 apart."""
CLOSE_WITHIN = 1.0
"""Seconds that a process gives the collector for its last spans."""
ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
MISSING = (
    "traces are off: the collector is set, but OpenTelemetry is not installed. Install Tocsin with its "
    "extra 'otel', or take traces.endpoint and the variables OTEL_EXPORTER_OTLP_* away"
)

_tracing: Tracing | None = None
"""Makes this process's spans; None where traces are off."""
_NOTHING: AbstractContextManager[None] = nullcontext()

log = structlog.get_logger(__name__)


class Trace(NamedTuple):
    """The ids of a command's trace and of its root span, and where it lies among all: from 0 to 1."""

    id: int
    root: int
    share: float


def trace_of(command: str) -> Trace:
    """The trace of the command with this id.

    The share is of a digest: a UUIDv7 is not evenly spread, neither in its first bits (the time) nor
    in those that samplers look at (its variant makes each the same half). An id that is no UUID has a
    trace too, by its digest.
    """
    digest = sha256(command.encode("utf-8", "replace")).digest()
    try:
        id = UUID(command).int
    except ValueError:
        id = 0
    first, second = int.from_bytes(digest[:8]), int.from_bytes(digest[8:16]) >> 11
    return Trace(id or int.from_bytes(digest[16:]), first or 1, second / SHARES)


def wanted(traces: TracesSection, env: Mapping[str, str]) -> bool:
    """Whether the settings, or the variables that all who use OpenTelemetry heed, ask for traces."""
    if not traces.ratio or env.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    return bool(traces.endpoint or any(env.get(name) for name in ENDPOINTS))


@contextmanager
def exporting(settings: Settings, process: str, *, brief: bool = False) -> Iterator[None]:
    """Export this process's spans meanwhile, where that is wanted.

    A process that is `brief` says nothing of the collector, and hardly waits for it.
    """
    global _tracing
    if not wanted(settings.traces, os.environ):
        yield
        return
    try:
        from streams.spans import collector
        from streams.tracing import Tracing
    except ImportError as error:
        if not brief:
            log.warning(MISSING, detail=str(error))
        yield
        return
    spans = collector(settings, process, brief=brief)
    _tracing = Tracing(spans.write, settings.traces.ratio)
    try:
        yield
    finally:
        _tracing = None
        spans.close(CLOSE_WITHIN)


def submitting(how: str, commands: Sequence[Command]) -> AbstractContextManager[None]:
    """A span for each of `commands` over the block; an error that leaves the block is its error."""
    return _NOTHING if _tracing is None else _tracing.submitting(how, commands)


def watched(handler: Handler) -> Handler:
    """The handler; where traces are on, one that notes when it begins and ends a command."""
    return handler if _tracing is None else _tracing.watched(handler)


def taken(deliveries: Sequence[Delivery]) -> None:
    """Commands were taken from their lane now."""
    if _tracing is not None:
        _tracing.taken(deliveries)


def logged(lane: str, entries: Sequence[tuple[bytes, str]]) -> None:
    """An append stands: these are its events' bytes and hashes."""
    if _tracing is not None:
        _tracing.logged(lane, entries)


def clock() -> int:
    """The time now as `folded` takes it, in nanoseconds."""
    return time.time_ns()


def folded(lane: str, events: Sequence[Logged], began: int) -> None:
    """These events were folded into the read models, from `began` to now."""
    if _tracing is not None:
        _tracing.folded(lane, events, began)
