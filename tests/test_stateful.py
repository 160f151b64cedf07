"""Random commands from several submitters to a running lane of sources, with a pure model beside it.

Model, log, ingest's fold and the rows that a running projection has in Postgres must agree, whatever
the order the server chose, and whether owners give the lane up or crash.
"""

from __future__ import annotations

import itertools
import os
import threading
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from ingest.claims import Claims
from ingest.entered import FIELD
from ingest.lane import SourcesLane
from ingest.ledger import Past, past_of
from ingest.spool import Spool
from projections.projection import SOURCES as SOURCES_TABLE
from projections.runner import Runner
from streams.admission import Task
from streams.connection import connect
from streams.durability import Prover
from streams.handler import Result
from streams.messages import Answer, Durability, Event, Outcome
from streams.settings import RedisSection
from streams.submit import Signed
from streams.vocabulary import OVERTAKING, CommandResult
from streams.worker import LaneWorker
from tests.fix_ingest import Heard, equipment
from tests.fix_projections import Yard, folded
from tests.fix_servers import eventually
from tests.fix_streams import Hall, Wire, insist

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
    if verb == "report":
        return source, "completed", None
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

    def memory(self) -> Past:
        """What it remembers."""
        with self._lock:
            return Past(dict(self._ledger.sources), self._ledger.entered)


class Owner:
    """One that takes the lane for its own; its connections go by a wire, on which it can be cut off."""

    def __init__(self, hall: Hall, spool: Spool) -> None:
        self._wire = Wire(hall.settings.redis)
        self._claims = Claims(connect(self._wire.redis, "claims"), hall.station)
        parts = msgspec.structs.replace(equipment(), spool=spool)
        self.handler = Counted(hall.lane, Heard(), self._claims, parts)
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

    def lose_reply(self, name: str) -> None:
        """Hear nothing of the next request with this name, though it is done."""
        self._wire.lose(name, "reply")

    def crash(self) -> None:
        """Be heard of no more, whatever was under way, the lease in its hands; the rest is for `leave`."""
        self._wire.cut()
        self._stop.set()


class Lane:
    """A hall whose lane is a node's own, a projection that follows it, and an owner that may change."""

    def __init__(
        self, redis: RedisSection, folder: Path, yard: Yard, durability: Durability | None = None
    ) -> None:
        self.hall = Hall(redis, folder, durability, next(LANES))
        self.yard = yard
        self.spool = Spool(folder / "spool", "here")
        self.reported: set[str] = set()
        """The ids of what another node is said to have in its spool."""
        self.rolled_back: list[int] = []
        """When the server lost what had come after some moment, by its clock."""
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
        self._owners.append(Owner(self.hall, self.spool))

    def leave(self) -> None:
        """Let the owner give the lane up."""
        self._owners.pop().leave()

    def crash(self) -> None:
        """Let the owner end without a word, and its lease run out."""
        self.owner.crash()
        # As if its time had passed.
        self.hall.link.call("DEL", self.hall.keys.lease)

    def command(self, type: str, source: str, durability: Durability | None = None, **params: Any) -> Signed:
        return self.hall.command(type, source, params=params, durability=durability)

    def facts(self) -> set[str]:
        """What was spooled, here and elsewhere, and has to stand in the log: the ids."""
        return {spooled.id for spooled in self.spool.pending(self.hall.lane)} | self.reported

    def close(self) -> None:
        for owner in self._owners:
            owner.leave()
        self._stop.set()
        self._projecting.join(10)
        assert not self._projecting.is_alive()
        self.hall.close()


WHO = st.integers(0, 2)
SOURCE, PATH, NAME = st.sampled_from(SOURCES), st.sampled_from(PATHS), st.sampled_from(["x", "y"])


class Settling(RuleBasedStateMachine):
    """Commands are submitted without waiting; now and then everything settles and is compared."""

    redis: RedisSection
    folder: Callable[[], Path]
    recordings: Path
    yard: Yard
    lane: Lane

    def __init__(self) -> None:
        super().__init__()
        self.lane = self.new_lane()
        self.crashes = 0
        # Each submitter is a thread with a link of its own.
        self.pools = [ThreadPoolExecutor(1) for _ in range(3)]
        self.sent: list[tuple[Signed, list[Future[Answer]]]] = []

    def new_lane(self) -> Lane:
        return Lane(self.redis, self.folder(), self.yard)

    def send(self, who: int, command: Signed, times: int = 1) -> None:
        def ask() -> Answer:
            return insist(self.lane.hall.submitter(), command)

        self.sent.append((command, [self.pools[(who + n) % 3].submit(ask) for n in range(times)]))

    def settings_of(self, path: str) -> dict[str, Any]:
        return {"kind": "file", "path": str(self.recordings / path), "loop": True}

    @rule(source=SOURCE, verb=st.sampled_from(["start", "remove"]))
    def the_same_three_times(self, source: str, verb: str) -> None:
        self.send(0, self.lane.command(f"source.{verb}", source), times=3)

    @precondition(lambda self: self.crashes < CRASHES)
    @rule()
    def change_owner(self) -> None:
        # Where it had no time to begin what it took, that was a delivery too.
        self.crashes += 1
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


class Random(Settling):
    """Whatever may be done to a source."""

    @rule(who=WHO, source=SOURCE, path=PATH, name=NAME)
    def add(self, who: int, source: str, path: str, name: str) -> None:
        self.send(who, self.lane.command("source.add", source, settings=self.settings_of(path), name=name))

    @rule(who=WHO, source=SOURCE, path=PATH, name=NAME)
    def update(self, who: int, source: str, path: str, name: str) -> None:
        self.send(who, self.lane.command("source.update", source, settings=self.settings_of(path), name=name))

    @rule(
        who=WHO,
        source=SOURCE,
        verbs=st.lists(st.sampled_from(["start", "stop", "restart"]), min_size=1, max_size=5),
    )
    def run_or_not(self, who: int, source: str, verbs: list[str]) -> None:
        for n, verb in enumerate(verbs):
            self.send(who + n, self.lane.command(f"source.{verb}", source))

    @rule(who=WHO, source=SOURCE)
    def remove(self, who: int, source: str) -> None:
        self.send(who, self.lane.command("source.remove", source))


def check(lane: Lane, sent: list[tuple[Signed, list[Answer]]]) -> None:
    """Everything agrees: answers with the log, the log with the model, all memory and all rows with it."""
    hall = lane.hall
    events = [logged.event for logged in hall.events()]
    results = {e.command: e for e in events if e.type.startswith("command.")}
    assert hall.verdict().fault is None
    assert set(hall.results()) == {command.command.id for command, _ in sent}
    assert all(len(outcomes) == 1 for outcomes in hall.results().values())
    assert {event.command for event in events} - {None} <= set(results)
    for command, answers in sent:
        assert answers == [answer_in(results[command.command.id], hall.lane)] * len(answers)
    modelled = model(events, lane.rolled_back)
    wanted = {
        id: (source.path, source.name, "running" if source.running else "stopped", source.state)
        for id, source in modelled.items()
        if source is not None
    }
    eventually(lambda: not differing(lane, wanted), lambda: f"{wanted} {differing(lane, wanted)}", 10)


def differing(lane: Lane, wanted: dict[str, tuple[str, str, str, str]]) -> dict[str, Any]:
    """What does not agree with the model's sources, or with what the log says."""
    logged = lane.hall.events()
    past = past_of(logged)
    memory = lane.owner.handler.memory()
    rows = lane.yard.all_rows(lane.hall.lane)
    read = {id: told(row) for id, row in rows[SOURCES_TABLE.name].items()}
    entered = sorted(one.event.data[FIELD] for one in logged if FIELD in one.event.data)
    pairs = {
        "log": ({id: told(source) for id, source in past.sources.items()}, wanted),
        "memory": (memory.sources, past.sources),
        "what memory has entered": (memory.entered, past.entered),
        "spooled facts in the log": (entered, sorted(lane.facts())),
        "rows of sources": (read, wanted),
        "rows": (rows, folded(logged)),
    }
    return {what: pair for what, pair in pairs.items() if pair[0] != pair[1]}


def told(source: Any) -> tuple[str, str, str, str]:
    """Of a source, or of its row, what the model has."""
    settings = msgspec.to_builtins(source.settings)
    return Path(settings["path"]).name, source.name, source.desired, source.state


def answer_in(event: Event, lane: str) -> Answer:
    """What may be told of the command whose result this is."""
    said = msgspec.convert(event.data, CommandResult)
    outcome = msgspec.convert(event.type.removeprefix("command."), Outcome)
    assert event.command is not None
    return Answer(
        id=event.command, lane=lane, outcome=outcome, sequence=said.sequence, seq=event.seq, state=said.state,
        reason=said.reason, field=said.field, by=said.by, detail=said.detail,
    )  # fmt: skip


def model(events: list[Event], rolled_back: Sequence[int] = ()) -> dict[str, Wanted | None]:
    """Play the commands, in the order of the log, by the model; each result must be the model's.

    What a command had begun may stand where its result does not: it was lost, or the command superseded.
    Until that is settled several sources may be so. Sequences begin anew where the server was rolled back.
    """
    may_be: dict[str, set[Wanted | None]] = {source: {None} for source in SOURCES}
    ends = {event.command: event for event in events if event.type.startswith("command.")}
    told = {id: msgspec.convert(end.data, CommandResult) for id, end in ends.items()}
    taken = [event.seq for event in events if event.type == "lane.acquired"]
    last: dict[tuple[str, int], int] = {}
    for event in events:
        if event.command is None:
            continue
        end, result = ends[event.command], told[event.command]
        params = msgspec.json.decode(result.request)["params"]
        before = may_be[end.source]
        played = [expected(one, result.type, params) for one in before]
        if event is not end:
            if bisect_left(taken, event.seq) < bisect_left(taken, end.seq):
                before |= {after for after, _, _ in played}
            continue
        order = primary(result, rolled_back), result.sequence
        if event.type == "command.superseded":
            newer = told[result.by]
            assert (primary(newer, rolled_back), newer.sequence) > order
            assert {newer.type, result.type} <= OVERTAKING
            before |= {after for after, _, _ in played}
            continue
        # A waiting command that is superseded is told so at once; all others have their order.
        assert order[1] > last.get((event.source, order[0]), 0), "results of a source out of order"
        last[event.source, order[0]] = order[1]
        said = event.type.removeprefix("command."), result.reason
        agreeing = {after for after, outcome, reason in played if (outcome, reason) == said}
        assert agreeing, (said, before, result.type, params)
        may_be[event.source] = agreeing
    assert all(len(sources) == 1 for sources in may_be.values()), may_be
    return {id: source for id, (source,) in may_be.items()}


def primary(result: CommandResult, rolled_back: Sequence[int]) -> int:
    """Which of the servers that there were, one after the other, took the command in."""
    at = int((result.entry or "").split("-")[0])
    # Between two of them is whoever came in the very millisecond: nobody can tell.
    return bisect_left(rolled_back, at) + bisect_right(rolled_back, at)


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

    play(Random, EXAMPLES, valkey_server, yard, lambda: tmp_path_factory.mktemp("lane"), recorded(record))


def recorded(record: Record) -> Path:
    """The folder in which all paths but the missing one lead to audio."""
    record(0.5, "two.wav")
    return record(1.0, "one.wav").parent


def play(
    machine: type[Settling],
    examples: int,
    valkey: RedisSection,
    rows: Yard,
    folders: Callable[[], Path],
    audio: Path,
) -> None:
    """Play so many random histories with these parts; each has a folder of its own."""
    parts = {"redis": valkey, "yard": rows, "folder": staticmethod(folders), "recordings": audio}
    run_state_machine_as_test(
        type("Here", (machine,), parts),
        settings=settings(
            max_examples=examples,
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
