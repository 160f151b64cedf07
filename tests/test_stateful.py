"""Random commands from several submitters to a running lane of sources, with a pure model beside it.

Model, log, ingest's fold and the rows that a running projection has in Postgres must agree, whatever
the order the server chose, and whether owners give the lane up or crash.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from ingest.claims import Claims
from ingest.lane import SourcesLane
from ingest.ledger import sources_of
from projections.projection import SOURCES as SOURCES_TABLE
from projections.runner import Runner
from streams.admission import Task
from streams.connection import connect
from streams.durability import Prover
from streams.handler import Result
from streams.messages import Answer, Event
from streams.settings import RedisSection
from streams.submit import Signed
from streams.vocabulary import OVERTAKING, CommandResult
from streams.worker import LaneWorker
from tests.fix_ingest import Heard, equipment
from tests.fix_projections import Yard, folded
from tests.fix_servers import eventually
from tests.fix_streams import Hall, Wire

LANES = (f"node.here-{number}" for number in itertools.count())
"""A lane for each history: all their rows are in one database."""
SOURCES = ("a", "b", "c")
PATHS = ("one.wav", "two.wav", "missing.wav")
EXAMPLES = int(os.environ.get("TOCSIN_STATEFUL", "12"))
"""How many random histories are played; more by option."""
CRASHES = 2
"""Before all is settled: the third delivery of a command is its last."""

Record = Callable[..., Path]


class Wanted(msgspec.Struct, frozen=True):
    """A source as the model has it. `path` says whether it can run: all but the missing file can."""

    path: str
    name: str
    running: bool = False

    @property
    def state(self) -> str:
        if not self.running:
            return "stopped"
        return "failed" if self.path == "missing.wav" else "running"


def expected(
    source: Wanted | None, type: str, params: dict[str, Any]
) -> tuple[Wanted | None, str, str | None]:
    """The model: the source after a command that was carried out, its outcome and its reason."""
    verb = type.removeprefix("source.")
    if verb == "add":
        made = Wanted(Path(params["settings"]["path"]).name, params["name"])
        if source is None:
            return made, "completed", None
        same = (source.path, source.name) == (made.path, made.name)
        return source, *(("completed", None) if same else ("rejected", "exists"))
    if source is None:
        return None, "rejected", "unknown_source"
    if verb == "remove":
        return None, "completed", None
    if verb == "stop":
        return msgspec.structs.replace(source, running=False), "completed", None
    if verb == "update":
        path = Path(params["settings"]["path"]).name
        after = msgspec.structs.replace(source, path=path, name=params["name"])
        starts = source.running and path != source.path
    else:
        after, starts = msgspec.structs.replace(source, running=True), True
    return after, *(
        ("failed", "source_failed") if starts and after.state == "failed" else ("completed", None)
    )


class Counted(SourcesLane):
    """The real handler; it counts how often each command was carried out to its end."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.carried_out: dict[str, int] = {}
        self._counting = threading.Lock()

    def _count(self, task: Task, result: Result | None) -> Result | None:
        with self._counting:
            if result is not None:
                self.carried_out[task.command.id] = self.carried_out.get(task.command.id, 0) + 1
        return result

    def attempt(self, task: Task) -> Result | None:
        return self._count(task, super().attempt(task))

    def execute(self, task: Task) -> Result:
        result = super().execute(task)
        self._count(task, result)
        return result


class Owner:
    """One that takes the lane for its own; its connections go by a wire, on which it can be cut off."""

    def __init__(self, hall: Hall) -> None:
        self._wire = Wire(hall.settings.redis)
        self._claims = Claims(connect(self._wire.redis, "claims"), hall.station)
        self.handler = Counted(hall.lane, Heard(), self._claims, equipment())
        settings = msgspec.structs.replace(hall.settings, redis=self._wire.redis)
        worker = LaneWorker(
            settings, hall.lane, "here", self.handler, keyring=lambda: hall.keyring,
            prover=Prover(self._wire.redis),
        )  # fmt: skip
        self._stop, self._stop_claims = threading.Event(), threading.Event()
        self._working = threading.Thread(target=worker.run, args=(self._stop,), name="owner")
        self._freeing = threading.Thread(target=self._claims.run, args=(self._stop_claims,))
        self._working.start()
        self._freeing.start()

    def leave(self) -> None:
        """Give the lane up, and end."""
        self._stop.set()
        self._working.join(30)
        self._stop_claims.set()
        self._freeing.join(10)
        assert not self._working.is_alive()
        assert not self._freeing.is_alive()
        self._wire.close()

    def crash(self) -> None:
        """Be heard of no more, whatever was under way, the lease in its hands; the rest is for `leave`."""
        self._wire.cut()
        self._stop.set()


class Lane:
    """A hall whose lane is a node's own, a projection that follows it, and an owner that may change."""

    def __init__(self, redis: RedisSection, folder: Path, yard: Yard) -> None:
        self.hall = Hall(redis, folder, lane=next(LANES))
        self.yard = yard
        self._owners: list[Owner] = []
        self._stop = threading.Event()
        runner = Runner(
            yard.engine, connect(redis, "projections"), self.hall.lane, self.hall.keys, self._stop
        )
        self._projecting = threading.Thread(target=runner.run, name="projections")
        self._projecting.start()
        self.own()

    @property
    def owner(self) -> Owner:
        return self._owners[-1]

    def own(self) -> None:
        """Let a new owner take the lane."""
        self._owners.append(Owner(self.hall))

    def leave(self) -> None:
        """Let the owner give the lane up."""
        self._owners.pop().leave()

    def crash(self) -> None:
        """Let the owner end without a word, and its lease run out."""
        self.owner.crash()
        # As if its time had passed.
        self.hall.link.call("DEL", self.hall.keys.lease)

    def command(self, type: str, source: str, **params: Any) -> Signed:
        return self.hall.command(type, source, params=params)

    def close(self) -> None:
        for owner in self._owners:
            owner.leave()
        self._stop.set()
        self._projecting.join(10)
        assert not self._projecting.is_alive()
        self.hall.close()


class Random(RuleBasedStateMachine):
    """Commands are submitted without waiting; now and then everything settles and is compared."""

    redis: RedisSection
    folder: Callable[[], Path]
    recordings: Path
    yard: Yard

    def __init__(self) -> None:
        super().__init__()
        self.lane = Lane(self.redis, self.folder(), self.yard)
        self.crashes = 0
        # Each submitter is a thread with a link of its own.
        self.pools = [ThreadPoolExecutor(1) for _ in range(3)]
        self.sent: list[tuple[Signed, list[Future[Answer]]]] = []

    def send(self, who: int, command: Signed, times: int = 1) -> None:
        def ask() -> Answer:
            return self.lane.hall.submitter().submit(command, timeout=30)

        self.sent.append((command, [self.pools[(who + n) % 3].submit(ask) for n in range(times)]))

    def settings_of(self, path: str) -> dict[str, Any]:
        return {"kind": "file", "path": str(self.recordings / path), "loop": True}

    who = st.integers(0, 2)
    source = st.sampled_from(SOURCES)
    path = st.sampled_from(PATHS)

    @rule(who=who, source=source, path=path, name=st.sampled_from(["x", "y"]))
    def add(self, who: int, source: str, path: str, name: str) -> None:
        self.send(who, self.lane.command("source.add", source, settings=self.settings_of(path), name=name))

    @rule(who=who, source=source, path=path, name=st.sampled_from(["x", "y"]))
    def update(self, who: int, source: str, path: str, name: str) -> None:
        self.send(who, self.lane.command("source.update", source, settings=self.settings_of(path), name=name))

    @rule(
        who=who,
        source=source,
        verbs=st.lists(st.sampled_from(["start", "stop", "restart"]), min_size=1, max_size=5),
    )
    def run_or_not(self, who: int, source: str, verbs: list[str]) -> None:
        for n, verb in enumerate(verbs):
            self.send(who + n, self.lane.command(f"source.{verb}", source))

    @rule(who=who, source=source)
    def remove(self, who: int, source: str) -> None:
        self.send(who, self.lane.command("source.remove", source))

    @rule(source=source, verb=st.sampled_from(["start", "remove"]))
    def the_same_three_times(self, source: str, verb: str) -> None:
        self.send(0, self.lane.command(f"source.{verb}", source), times=3)

    @rule()
    def change_owner(self) -> None:
        self.lane.leave()
        self.lane.own()

    @precondition(lambda self: self.crashes < CRASHES)
    @rule()
    def crash_the_owner(self) -> None:
        self.crashes += 1
        self.lane.crash()
        self.lane.own()

    @rule()
    def settle(self) -> None:
        self.crashes = 0
        check(self.lane, [(command, [asked.result(60) for asked in asking]) for command, asking in self.sent])

    def teardown(self) -> None:
        try:
            self.settle()
        finally:
            for pool in self.pools:
                pool.shutdown(wait=True)
            self.lane.close()


def check(lane: Lane, sent: list[tuple[Signed, list[Answer]]]) -> None:
    """Everything agrees: answers with the log, the log with the model, ingest's fold and all rows with it."""
    hall = lane.hall
    events = [logged.event for logged in hall.events()]
    results = {e.command: e for e in events if e.type.startswith("command.")}
    assert hall.verdict().fault is None
    assert set(hall.results()) == {command.command.id for command, _ in sent}
    assert all(len(outcomes) == 1 for outcomes in hall.results().values())
    for command, answers in sent:
        event = results[command.command.id]
        assert answers == [answers[0]] * len(answers)
        assert (answers[0].seq, f"command.{answers[0].outcome}") == (event.seq, event.type)
    modelled = model(list(results.values()))
    alive = {id: source for id, source in modelled.items() if source is not None}

    def agree() -> bool:
        logged = list(hall.events())
        memory = {
            id: (Path(source.settings.path).name, source.name, source.desired, source.state)
            for id, source in sources_of(logged).items()
        }
        rows = lane.yard.all_rows(hall.lane)
        read = {
            id: (Path(row.settings["path"]).name, row.name, row.desired, row.state)
            for id, row in rows[SOURCES_TABLE.name].items()
        }
        wanted = {
            id: (source.path, source.name, "running" if source.running else "stopped", source.state)
            for id, source in alive.items()
        }
        return memory == read == wanted and rows == folded(logged)

    eventually(agree, f"model and rows agree: {alive}", 10)


def model(results: list[Event]) -> dict[str, Wanted | None]:
    """Play the commands, in the order of the log, by the model; each result must be the model's."""
    found: dict[str, Wanted | None] = dict.fromkeys(SOURCES)
    told = {event.command: msgspec.convert(event.data, CommandResult) for event in results}
    last: dict[str, int] = {}
    for event in sorted(results, key=lambda event: event.seq):
        result = msgspec.convert(event.data, CommandResult)
        request = msgspec.json.decode(result.request)
        if event.type == "command.superseded":
            newer = told[result.by]
            assert newer.sequence > result.sequence
            assert {newer.type, result.type} <= OVERTAKING
            continue
        # A waiting command that is superseded is told so at once; all others have their order.
        assert result.sequence > last.get(event.source, 0), "results of a source out of order"
        last[event.source] = result.sequence
        after, outcome, reason = expected(found[event.source], result.type, request["params"])
        assert (event.type, result.reason) == (f"command.{outcome}", reason), (found[event.source], request)
        found[event.source] = after
    return found


@pytest.mark.timeout(600)
def test_random_commands_leave_model_log_and_read_model_in_agreement(
    valkey_server: RedisSection,
    yard: Yard,
    tmp_path_factory: pytest.TempPathFactory,
    record: Record,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Several submitters at once, owners that leave or crash: one answer each, in order, as modelled."""
    fast(monkeypatch)
    recordings = record(1.0, "one.wav").parent
    record(0.5, "two.wav")

    class Here(Random):
        redis = valkey_server
        folder = staticmethod(lambda: tmp_path_factory.mktemp("lane"))

    Here.recordings, Here.yard = recordings, yard
    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=15,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
            # To shrink a failure takes many minutes, as each try waits in vain: only where it is asked for.
            phases=[Phase.generate, *([Phase.shrink] if "TOCSIN_STATEFUL" in os.environ else [])],
        ),
    )


def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Less patience, so that histories are short."""
    monkeypatch.setattr("streams.worker.IDLE", 0.1)
    monkeypatch.setattr("streams.submit.ASK_AGAIN", 0.2)
    monkeypatch.setattr("ingest.lane.RECONCILE", 0.2)


def test_one_id_ten_times_at_once_is_carried_out_once(
    valkey_server: RedisSection, yard: Yard, tmp_path: Path, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten submitters send the same bytes together: one execution, ten equal answers."""
    fast(monkeypatch)
    lane = Lane(valkey_server, tmp_path, yard)
    try:
        file = {"kind": "file", "path": str(record(1.0)), "loop": True}
        for command in (
            lane.command("source.add", "a", settings=file, name=""),
            lane.command("source.start", "a"),
        ):
            together = threading.Barrier(10)

            def ask(command: Signed = command, together: threading.Barrier = together) -> Answer:
                submitter = lane.hall.submitter()
                together.wait(20)
                return submitter.submit(command, timeout=20)

            with ThreadPoolExecutor(10) as pool:
                answers = [asked.result() for asked in [pool.submit(ask) for _ in range(10)]]
            assert answers == [answers[0]] * 10
            assert answers[0].outcome == "completed"
            assert lane.owner.handler.carried_out[command.command.id] == 1
            assert lane.hall.results()[command.command.id] == ["completed"]
    finally:
        lane.close()
