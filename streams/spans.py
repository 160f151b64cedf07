"""Spans to a collector, by OpenTelemetry. Imported only where traces are on; needs the extra `otel`."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

import structlog
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from streams.settings import Settings
from streams.tracing import Kind, Span

KINDS: dict[Kind, SpanKind] = {
    "internal": SpanKind.INTERNAL, "submit": SpanKind.PRODUCER, "receive": SpanKind.CONSUMER
}  # fmt: skip
LONGEST = 256
"""Characters of an attribute that are sent."""
BRIEFLY = 0.5
"""Seconds that a process which lives briefly gives the collector; too few for a second try."""
PATH = "/v1/traces"

log = structlog.get_logger(__name__)


class _Ids(RandomIdGenerator):
    """Random ids, but for a root, whose ids are laid down by its command's."""

    def __init__(self) -> None:
        self.root = threading.local()

    def generate_trace_id(self) -> int:
        return int(self.root.trace)

    def generate_span_id(self) -> int:
        laid = getattr(self.root, "span", 0)
        return int(laid) or super().generate_span_id()

    def is_trace_id_random(self) -> bool:
        return False


class Spans:
    """Gives finished spans to a processor, as this process's."""

    def __init__(self, processor: SpanProcessor, attributes: dict[str, str]) -> None:
        self._ids = _Ids()
        self._provider = TracerProvider(
            sampler=ALWAYS_ON,  # what is sampled is decided before a span is made
            resource=Resource.create(attributes),
            shutdown_on_exit=False,
            id_generator=self._ids,
            span_limits=SpanLimits(max_span_attribute_length=LONGEST),
        )
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("tocsin")

    def write(self, span: Span) -> None:
        """Queue the span for the collector; never waits for it."""
        context = Context()
        if span.is_root:
            self._ids.root.trace, self._ids.root.span = span.trace.id, span.trace.root
        else:
            root = SpanContext(span.trace.id, span.trace.root, True, TraceFlags(TraceFlags.SAMPLED))
            context = set_span_in_context(NonRecordingSpan(root), context)
        try:
            made = self._tracer.start_span(
                span.name,
                context,
                kind=KINDS[span.kind],
                attributes=span.attributes,
                start_time=span.start,
            )
        finally:
            self._ids.root.span = 0
        for name, at in span.moments:
            made.add_event(name, timestamp=at)
        if span.error:
            made.set_status(Status(StatusCode.ERROR, span.error[:LONGEST]))
        made.end(max(span.start, span.end))

    def close(self, seconds: float) -> None:
        """Send what is queued, within so many seconds; a collector that hangs keeps nobody."""
        closing = threading.Thread(target=self._provider.shutdown, name="traces-close", daemon=True)
        closing.start()
        closing.join(seconds)


class _Telling(SpanExporter):
    """Says when the collector goes away and when it is back, once each; spans are dropped meanwhile."""

    def __init__(self, exporter: SpanExporter, *, brief: bool) -> None:
        self._exporter = exporter
        self._away = False
        self._brief = brief

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        away = result is not SpanExportResult.SUCCESS
        if away != self._away and not self._brief:
            if away:
                log.warning("the collector of traces is away, spans are dropped")
            else:
                log.info("spans are collected again")
        self._away = away
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()


def collector(settings: Settings, process: str, *, brief: bool) -> Spans:
    """Spans sent to the collector that the settings name, or the standard variables, in batches."""
    # `_Telling` says it in one line.
    logging.getLogger(OTLPSpanExporter.__module__).setLevel(logging.CRITICAL)
    address = settings.traces.endpoint.rstrip("/")
    if address and not address.endswith(PATH):
        address += PATH
    exporter = OTLPSpanExporter(endpoint=address or None, timeout=BRIEFLY if brief else None)
    attributes = {
        "service.name": f"tocsin-{process}",
        "service.namespace": settings.station.id,
        "tocsin.node": settings.ingest.node,
    }
    return Spans(BatchSpanProcessor(_Telling(exporter, brief=brief)), attributes)
