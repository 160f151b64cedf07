"""Traces: one for each command, from its submission to its fold, that nobody pays for who wants none."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest
import structlog
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from uuid_utils import uuid7

from control.station.ports import free_port
from projections.runner import Runner
from streams import traces
from streams.admission import Task
from streams.handler import Result
from streams.messages import Event, Logged
from streams.settings import InvalidSettings, PostgresSection, Settings, TracesSection, load
from streams.spans import Spans
from streams.submit import Refused, Signed
from streams.traces import exporting, trace_of, wanted
from streams.tracing import DAY, FRESH, Span, Tracing, executed
from tests.fix_ingest_process import Ingest
from tests.fix_projections import Yard
from tests.fix_servers import eventually
from tests.fix_streams import LANE, Hall, Scripted, working

STEPS = {"source.start", "submit", "execute", "fold"}


class Collected:
    """The spans of this process, as OpenTelemetry's in-memory exporter got them."""

    def __init__(self) -> None:
        self._memory = InMemorySpanExporter()
        self._spans = Spans(SimpleSpanProcessor(self._memory), {"service.name": "test"})

    def trace(self, patch: pytest.MonkeyPatch, ratio: float = 1.0) -> None:
        """Turn traces on until the end of the test."""
        patch.setattr(traces, "_tracing", Tracing(self._spans.write, ratio))

    def of(self, command: Signed) -> dict[str, ReadableSpan]:
        """The spans of the command's trace by name, which must be different."""
        found = [span for span in self.all() if span.context.trace_id == UUID(command.command.id).int]
        named = {span.name: span for span in found}
        assert len(named) == len(found), [span.name for span in found]
        return named

    def all(self) -> tuple[Any, ...]:
        return self._memory.get_finished_spans()


@pytest.fixture
def collected(monkeypatch: pytest.MonkeyPatch) -> Collected:
    """Traces are on, and collected in memory."""
    made = Collected()
    made.trace(monkeypatch)
    return made


@contextmanager
def folding(hall: Hall, postgres: PostgresSection) -> Iterator[Runner]:
    """Fold the hall's lane into Postgres meanwhile."""
    stopping = threading.Event()
    with closing(Yard(msgspec.structs.replace(hall.settings, postgres=postgres))) as yard:
        yard.prepare()
        runner = Runner(yard.engine, hall.new_link("fold"), LANE, hall.keys, stopping)
        thread = threading.Thread(target=runner.run, name="fold")
        thread.start()
        try:
            yield runner
        finally:
            stopping.set()
            thread.join(20)
            assert not thread.is_alive()


def told(span: ReadableSpan, *names: str) -> tuple[Any, ...]:
    return tuple((span.attributes or {}).get(f"tocsin.{name}") for name in names)


def test_one_trace_from_submit_to_execution_to_fold(
    hall: Hall, postgres: PostgresSection, collected: Collected
) -> None:
    """Each command has one trace, whose id is its own: a root by its owner, and under it what each did."""
    submitter = hall.submitter()
    first, second = hall.command(source="kwfm"), hall.command(source="wxk")
    with folding(hall, postgres), working(hall, Scripted()):
        answers = [(one, submitter.submit(one, timeout=20)) for one in (first, second)]
        for one in (first, second):
            eventually(lambda one=one: set(collected.of(one)) == STEPS, "all spans of the command")
        # Whoever asks again has submitted again; nothing else is done twice.
        assert submitter.submit(first, timeout=20) == answers[0][1]

    for one, answer in answers:
        spans = [span for span in collected.all() if told(span, "command") == (one.command.id,)]
        assert {span.context.trace_id for span in spans} == {UUID(one.command.id).int}
        root, *others = sorted(spans, key=lambda span: span.name != "source.start")
        assert root.parent is None
        assert {span.parent.span_id for span in others} == {root.context.span_id}
        said = {told(span, "lane", "source", "type") for span in spans}
        assert said == {(LANE, one.command.source, "source.start")}
        owned = [span for span in spans if span.name in STEPS - {"submit"}]
        assert {told(span, "outcome", "seq", "sequence", "state") for span in owned} == {
            ("completed", answer.seq, 1, "running")
        }
        assert all(span.status.status_code is StatusCode.UNSET for span in spans)
    assert {len(collected.of(second)), len(collected.all())} == {4, 9}, "it was submitted once more"


def test_what_comes_later_is_told_later(hall: Hall, postgres: PostgresSection, collected: Collected) -> None:
    """Issued, submitted, taken, begun, executed, logged and folded come in this order."""
    slow = Scripted(lambda task: time.sleep(0.05) or Result(outcome="failed", reason="unreadable"))
    command = hall.command()
    with folding(hall, postgres), working(hall, slow):
        assert hall.submitter().submit(command, timeout=20).outcome == "failed"
        eventually(lambda: set(collected.of(command)) == STEPS, "all spans of the command")
    spans = collected.of(command)
    root, submit, execute, fold = (spans[name] for name in ("source.start", "submit", "execute", "fold"))
    begun, done = execute.events
    assert (begun.name, done.name) == ("begun", "executed")
    times = [root.start_time, submit.start_time, execute.start_time, begun.timestamp, done.timestamp]
    assert sorted(times) == times
    assert done.timestamp - begun.timestamp >= 50_000_000
    assert done.timestamp <= execute.end_time == root.end_time
    assert done.timestamp <= fold.start_time < fold.end_time
    kinds = [span.kind for span in (root, submit, execute, fold)]
    assert kinds == [SpanKind.INTERNAL, SpanKind.PRODUCER, SpanKind.CONSUMER, SpanKind.CONSUMER]
    assert [span.status.description for span in (root, execute)] == ["unreadable", "unreadable"]


def test_ratio_decides_alike_everywhere(
    hall: Hall, postgres: PostgresSection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a ratio of 0.5 a trace is whole or not there, as its id alone decides."""
    collected = Collected()
    collected.trace(monkeypatch, ratio=0.5)
    submitter = hall.submitter()
    commands = [hall.command(source=f"source-{number}") for number in range(24)]
    chosen = [one for one in commands if trace_of(one.command.id).share < 0.5]
    with folding(hall, postgres) as runner, working(hall, Scripted()):
        answers = [submitter.submit(one, timeout=20) for one in commands]
        last = max(answer.seq for answer in answers)
        eventually(lambda: runner.positions()["commands"].seq >= last, "all folded")
        eventually(lambda: len(collected.all()) >= 4 * len(chosen), "all spans")
    assert {one.command.id for one in commands if collected.of(one)} == {one.command.id for one in chosen}
    assert all(set(collected.of(one)) == STEPS for one in chosen)


def test_half_of_the_ids_is_half_of_the_commands() -> None:
    """The ids' times and variant, the same for all made at once, do not decide who is chosen."""
    shares = [trace_of(str(uuid7())).share for _ in range(2000)]
    for ratio in (0.1, 0.5, 0.75):
        assert abs(sum(share < ratio for share in shares) / 2000 - ratio) < 0.06
    assert all(0 <= share < 1 for share in shares)


def test_a_commands_trace_is_found_by_its_id() -> None:
    """Its id without hyphens is its trace's; what is no UUID has a trace as well."""
    id = str(uuid7())
    assert f"{trace_of(id).id:032x}" == id.replace("-", "")
    assert trace_of("mine") == trace_of("mine") != trace_of("yours")
    assert trace_of(str(UUID(int=0))).id != 0


def test_what_was_accepted_without_waiting_is_traced(hall: Hall, collected: Collected) -> None:
    """Commands submitted together have a span each; a refusal is its submission's error."""
    submitter = hall.submitter()
    commands = [hall.command(source="a"), hall.command(source="b")]
    assert submitter.accept_all(commands, timeout=5) == [None, None]
    assert [set(collected.of(one)) for one in commands] == [{"accept"}, {"accept"}]
    refused = hall.command(if_sequence=7)
    with pytest.raises(Refused):
        submitter.submit(refused, timeout=5)
    assert collected.of(refused)["submit"].status.description == "Refused: sequence"


def test_what_was_folded_long_ago_is_not_traced_again() -> None:
    """Read models that are rebuilt fold all of history, which has had its traces."""
    spans: list[Span] = []
    began = time.time_ns()
    for age in (0, 2 * FRESH):
        event = result_at(datetime.fromtimestamp((began - age) / 1e9, UTC))
        Tracing(spans.append).folded(LANE, [Logged(event, b"", "")], began)
    assert [span.name for span in spans] == ["fold"]


def result_at(at: datetime, **data: Any) -> Event:
    return Event(
        seq=1, prev="", token=1, at=at, logged_at=at, node="one", schema=1, source="kwfm",
        type=f"command.{data.pop('outcome', 'completed')}", command="c-1", data=data,
    )  # fmt: skip


@pytest.mark.parametrize("request_", [
    None, "", "no json", '{"issued_at": 7}', '{"issued_at": "0001-01-01T00:00:00Z"}',
    '{"issued_at": "9999-12-31T23:59:59Z"}', '{"issued_at": "0001-01-01T00:00:00"}', "[" * 4000,
], ids=range(8))  # fmt: skip
def test_a_time_that_a_stranger_signed_is_not_believed(request_: str | None) -> None:
    """A root begins when its command was issued, or where that cannot be, when it was taken."""
    at = datetime.now(UTC)
    event = result_at(at, outcome="rejected", type="x" * 9000, request=request_)
    root, execution = executed(LANE, event, trace_of("c-1"), None, time.time_ns())
    assert root.start == execution.start > time.time_ns() - DAY
    assert root.name == "command"


def test_a_root_begins_when_its_command_was_issued() -> None:
    """The time on the way and in the queue is seen before the execution."""
    at = datetime.now(UTC)
    issued = (at - timedelta(seconds=5)).isoformat()
    event = result_at(at, type="source.start", request=msgspec.json.encode({"issued_at": issued}).decode())
    root, execution = executed(LANE, event, trace_of("c-1"), None, time.time_ns())
    assert 4.9e9 < execution.start - root.start < 5.1e9
    assert (root.trace, root.end, root.is_root) == (execution.trace, execution.end, True)


def test_what_goes_wrong_with_a_span_harms_no_command(hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is logged, and the command has its answer."""

    def broken(span: Span) -> None:
        raise RuntimeError("no span today")

    monkeypatch.setattr(traces, "_tracing", Tracing(broken))
    with structlog.testing.capture_logs() as lines, working(hall, Scripted()):
        answers = [hall.submitter().submit(hall.command(), timeout=20).outcome for _ in range(3)]
    assert answers == ["completed"] * 3
    assert 1 <= sum(line["event"] == "a span was not made" for line in lines) <= 2


def test_a_handler_that_raises_is_still_a_result(hall: Hall, collected: Collected) -> None:
    """Being watched changes nothing of how an owner treats its handler's errors."""

    def play(task: Task) -> Result:
        raise OSError("no such device")

    command = hall.command()
    with working(hall, Scripted(play)):
        answer = hall.submitter().submit(command, timeout=20)
        eventually(lambda: "execute" in collected.of(command), "the execution's span")
    assert (answer.outcome, answer.detail) == ("failed", "OSError: no such device")
    assert [moment.name for moment in collected.of(command)["execute"].events] == ["begun", "executed"]


@pytest.mark.parametrize("hangs", [False, True])
def test_a_collector_that_is_away_holds_nobody_up(hall: Hall, hangs: bool) -> None:
    """Refusing or hanging, it costs a process a second at its end and the commands nothing."""
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        port = deaf.getsockname()[1] if hangs else free_port()
        settings = with_traces(hall.settings, endpoint=f"http://127.0.0.1:{port}")
        with exporting(settings, "test"), working(hall, Scripted()):
            submitter = hall.submitter()
            began = time.monotonic()
            for _ in range(600):  # more than a batch, so that it is sent meanwhile
                assert submitter.submit(hall.command(), timeout=20).outcome == "completed"
            took, ended = time.monotonic() - began, time.monotonic()
        assert took < 10
        assert time.monotonic() - ended < 5
    assert traces._tracing is None


def with_traces(settings: Settings, **changes: Any) -> Settings:
    return msgspec.structs.replace(settings, traces=TracesSection(**changes))


OFF = """
import sys, threading
from pathlib import Path
from streams.settings import load
from streams.signing import load_key
from streams.connection import connect
from streams.durability import Prover
from streams.messages import new_command
from streams.submit import Submitter, signed
from streams.traces import exporting
from streams.worker import LaneWorker
from tests.fix_streams import Scripted
import control.composition, control.cli.session, projections.runner, projections.service, ingest.service

settings = load(None)
key = load_key(Path(settings.keys.directory), "operator")
stop = threading.Event()
with exporting(settings, "test"):
    prover = Prover(settings.redis)
    worker = LaneWorker(settings, "p0", "one", Scripted(), keyring=lambda: {key.id: key}, prover=prover)
    threading.Thread(target=worker.run, args=(stop,)).start()
    command = new_command(station=settings.station.id, lane="p0", source="kwfm", type="source.start",
                          params={}, key=key.id)
    submitter = Submitter(settings, connect(settings.redis, "x"), prover)
    print(submitter.submit(signed(command, key), timeout=20).outcome)
stop.set()
# redis-py looks whether OpenTelemetry is there, for metrics of its own.
ours = ("streams.spans", "streams.tracing", "opentelemetry.sdk.trace", "opentelemetry.exporter")
print(sorted(name for name in sys.modules if name.startswith(ours)))
"""


@pytest.mark.chaos
def test_off_nothing_of_opentelemetry_is_imported(hall: Hall) -> None:
    """Without a collector a command goes all its way and nothing that makes or sends spans is imported."""
    redis = hall.settings.redis
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith("OTEL_")},
        "TOCSIN_STATION_ID": hall.settings.station.id,
        "TOCSIN_REDIS_URL": redis.url,
        "TOCSIN_REDIS_PASSWORD": redis.password,
        "TOCSIN_KEYS_DIRECTORY": hall.settings.keys.directory,
    }
    ran = subprocess.run([sys.executable, "-c", OFF], env=env, capture_output=True, text=True, timeout=60)
    assert ran.stdout.splitlines()[-2:] == ["completed", "[]"], ran.stdout + ran.stderr


def test_without_the_extra_it_is_said_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A collector that is set while OpenTelemetry is not installed: one warning, and all else goes on."""
    monkeypatch.delitem(sys.modules, "streams.spans")
    monkeypatch.setitem(sys.modules, "opentelemetry.context", None)
    settings = with_traces(Settings(), endpoint="http://127.0.0.1:4318")
    with structlog.testing.capture_logs() as lines:
        for brief in (False, True):
            with exporting(settings, "test", brief=brief):
                assert traces._tracing is None
    (line,) = lines
    assert line["log_level"] == "warning"
    assert "extra 'otel'" in line["event"]


def test_who_asks_for_traces() -> None:
    """The settings do, or the variables that others heed too; a ratio of 0 and the SDK's switch do not."""
    here = TracesSection(endpoint="http://collector:4318")
    assert wanted(here, {})
    assert wanted(TracesSection(), {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"})
    assert not wanted(TracesSection(), {})
    assert not wanted(here, {"OTEL_SDK_DISABLED": "true"})
    assert not wanted(TracesSection(endpoint="http://collector:4318", ratio=0), {})
    assert load(None, {"TOCSIN_TRACES_RATIO": "0.25"}).traces.ratio == 0.25
    for wrong in ("collector:4318", "http://user:secret@collector:4318"):
        with pytest.raises(InvalidSettings, match=r"traces\.endpoint.*like http://host:4318"):
            load(None, {"TOCSIN_TRACES_ENDPOINT": wrong})


class Receiver:
    """A collector that speaks OTLP over HTTP, as far as it takes to see what it is sent."""

    def __init__(self) -> None:
        received: list[bytes] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.path == "/v1/traces":
                    received.append(body)
                self.send_response(200 if self.path == "/v1/traces" else 404)
                self.end_headers()

            def log_message(self, *words: object) -> None:
                pass

        self._received = received
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def spans(self, command: str) -> set[tuple[str, str]]:
        """Service and name of each span in the command's trace; its parents must be there too."""
        found, ids, parents = set(), set(), set()
        for body in list(self._received):
            for sent in ExportTraceServiceRequest.FromString(body).resource_spans:
                resource = {one.key: one.value.string_value for one in sent.resource.attributes}
                for span in (span for scope in sent.scope_spans for span in scope.spans):
                    if span.trace_id == UUID(command).bytes:
                        found.add((resource["service.name"], span.name))
                        ids.add(span.span_id)
                        parents |= {span.parent_span_id} - {b""}
        return found if parents <= ids else set()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join(10)
        self._server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with closing(Receiver()) as made:
        yield made


@contextmanager
def projecting(folder: str, postgres: PostgresSection) -> Iterator[None]:
    """The real projections process meanwhile."""
    env = {**os.environ, "TOCSIN_POSTGRES_URL": postgres.url, "TOCSIN_POSTGRES_PASSWORD": postgres.password}
    argv = [sys.executable, "-m", "control.composition", "run", "projections", "--station", folder]
    process = subprocess.Popen(argv, env=env, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.chaos
def test_processes_of_their_own_make_one_trace(
    ingest: Ingest,
    tmp_path: Path,
    postgres: PostgresSection,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The command line, the ingest and the projections, told of the collector by its standard variable."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
    folder = str(tmp_path)
    with projecting(folder, postgres):
        ingest.start()
        id = str(uuid7())
        words = ("source", "add", "kwfm", "--file", "/nowhere.wav", "--id", id, "--station", folder, "--json")
        ran = subprocess.run([sys.executable, "-m", "control.composition", *words], capture_output=True)
        assert ran.returncode == 0, ran.stderr
        eventually(lambda: len(receiver.spans(id)) == 4, "the whole trace")
    assert receiver.spans(id) == {
        ("tocsin-cli", "submit"),
        ("tocsin-ingest", "source.add"),
        ("tocsin-ingest", "execute"),
        ("tocsin-projections", "fold"),
    }
