"""Random commands to a lane of sources whose server loses, now and then, what had come after some moment.

That is what a failover to a replica that was behind brings about. The owner goes on, and knows more than
the log says: what was told it puts back; what was not is forgotten everywhere, and done when it is
submitted again. Nobody is told, or remembers, what the log does not say.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from ingest.ledger import past_of
from ingest.listener import Noted
from streams import steps
from streams.alerts import AlertBurst
from streams.messages import Durability, now
from streams.settings import RedisSection
from streams.submit import Signed
from streams.vocabulary import Reported, plain
from tests.fix_failover import Pair
from tests.fix_ingest_lane import file_settings
from tests.fix_projections import Yard
from tests.fix_servers import eventually
from tests.fix_streams import insist
from tests.test_crash_points import COMMAND_STEPS, EVENT_STEPS, HEALING_STEPS
from tests.test_stateful import (
    NAME,
    PATH,
    SOURCE,
    SOURCES,
    WHO,
    Lane,
    Record,
    Settling,
    check,
    fast,
    play,
    recorded,
)

EXAMPLES = int(os.environ.get("TOCSIN_STATEFUL", "6"))
"""How many random histories are played; more by option."""
LOSING = ("executed", "settled", "appending", "appended")
"""Steps at which a command may be lost that was carried out: they come more often than the others."""
STEP = st.sampled_from(sorted({*COMMAND_STEPS, *HEALING_STEPS, *EVENT_STEPS}))
VERBS = ("update", "update", "update", "add", "remove", "start", "stop")
LEVEL = st.sampled_from([None, "memory", "replica"])
WISHES = st.lists(st.tuples(WHO, st.sampled_from(VERBS), SOURCE, PATH, NAME, LEVEL), min_size=1, max_size=5)
BURST = AlertBurst(text="ZCZC-WXR-RWT", confidence=1.0, start=0.0, end=1.0)

Wish = tuple[int, str, str, str, str, Durability | None]
"""Who wants what of which source, with which path and name, and how durable."""


class Failing(Lane):
    """A lane whose server fails over, at steps named beforehand, to a replica that is behind."""

    def __init__(
        self, redis: RedisSection, folder: Path, yard: Yard, durability: Durability | None = None
    ) -> None:
        self._failing = threading.Lock()
        self._due: list[tuple[str, Callable[[], None]]] = []
        self._behind: dict[str, bytes] | None = None
        super().__init__(redis, folder, yard, durability)
        self._beside = self.hall.new_link("failover")

    def fail_over(self, parted: str | None, failed: str, passes: int = 1, again: str | None = None) -> None:
        """Let the replica get nothing more from the step `parted` on (None: from now on).

        It leads as soon as the step `failed` was passed so many times after that, and another one like
        it once the step `again` is passed.
        """
        self.calm()
        with self._failing:
            if parted is None:
                self._part()
            else:
                self._due.append((parted, self._part))
            self._due += [(failed, lambda: None)] * (passes - 1)
            self._due += [(step, self._lead) for step in (failed, again) if step]

    def passed(self, step: str) -> None:
        """See to what is due where a thread passes this step, before it goes on."""
        if not self._is_due(step):
            return
        with self._failing:
            if self._is_due(step):
                _, act = self._due.pop(0)
                act()

    def _is_due(self, step: str) -> bool:
        return [due for due, _ in self._due[:1]] == [step]

    def calm(self) -> None:
        """Let what was begun come to its end, and nothing happen after that."""
        with self._failing:
            self._due = []
            if self._behind is not None:
                self._lead()
        # Its connection may be one that was killed.
        self.hall.link.close()
        eventually(self._is_owned, "the lane in the hands of its owner")

    def _is_owned(self) -> bool:
        fences = [one.event.data["fence"] for one in self.hall.events() if one.event.type == "lane.acquired"]
        return fences[-1:] == [(self.hall.link.call("GET", self.hall.keys.lease) or b"").decode()]

    def _part(self) -> None:
        self._behind = self.hall.dump(self._beside)

    def _lead(self) -> None:
        assert self._behind is not None
        self.rolled_back.append(self.hall.roll_back(self._behind, self._beside))
        if not self._due:
            self._behind = None

    def leave(self) -> None:
        # Nobody but this owner could put back what is lost later.
        self.calm()
        super().leave()
        # Where a link that was killed hindered the release: as if its time had passed.
        self.hall.link.call("DEL", self.hall.keys.lease)

    def crash(self) -> None:
        self.calm()
        super().crash()

    def close(self) -> None:
        with self._failing:
            self._due, self._behind = [], None
        super().close()

    def hear(self, source: str) -> None:
        """Put something that was heard into the owner's spool, and into the log."""
        self.owner.handler.notes.note(source, Noted(BURST, now()))

    def report(self, source: str, number: int) -> Signed:
        """The command that tells what another node has in its spool: the fact with this number."""
        fact = Reported(
            spool=f"there/boot/{number}", source=source, type="alert.burst", data=plain(BURST), at=now()
        )
        self.reported.add(fact.spool)
        return self.command("source.report", source, facts=[plain(fact)])


class Behind(Settling):
    """Commands from several submitters, who insist, and failovers that lose what came last."""

    lane: Failing
    durability: Durability = "memory"

    def new_lane(self) -> Lane:
        lane = Failing(self.redis, self.folder(), self.yard, self.durability)
        steps.watch = lane.passed
        return lane

    @initialize()
    def add_two(self) -> None:
        self.send_all([(0, "add", source, "one.wav", "x", None) for source in SOURCES[:2]])

    @rule(wishes=WISHES)
    def send_all(self, wishes: list[Wish]) -> None:
        for who, verb, source, path, name, level in wishes:
            told: dict[str, Any] = {}
            if verb in ("add", "update"):
                told = {"settings": self.settings_of(path), "name": name}
            self.send(who, self.lane.command(f"source.{verb}", source, level, **told))

    @rule(
        before=WISHES,
        parted=st.none() | STEP,
        failed=st.sampled_from(LOSING) | STEP,
        passes=st.integers(1, 4),
        after=WISHES,
    )
    def fail_over(
        self, before: list[Wish], parted: str | None, failed: str, passes: int, after: list[Wish]
    ) -> None:
        self.send_all(before)
        self.lane.fail_over(parted, failed, passes)
        self.send_all(after)

    @rule(failed=st.sampled_from(LOSING), again=STEP, after=WISHES)
    def fail_over_twice(self, failed: str, again: str, after: list[Wish]) -> None:
        self.lane.fail_over(None, failed, again=again)
        self.send_all(after)

    @rule(failed=st.sampled_from(LOSING), source=SOURCE, after=WISHES)
    def fail_over_while_it_is_heard(self, failed: str, source: str, after: list[Wish]) -> None:
        self.lane.fail_over(None, failed)
        self.lane.hear(source)
        self.send_all(after)

    @rule(failed=st.sampled_from(LOSING), who=WHO, source=SOURCE, number=st.integers(1, 3))
    def fail_over_while_it_is_reported(self, failed: str, who: int, source: str, number: int) -> None:
        self.lane.fail_over(None, failed)
        self.send(who, self.lane.report(source, number))

    @rule()
    def settle(self) -> None:
        self.lane.calm()
        super().settle()
        asked = [command for command, _ in self.sent]
        if asked:
            told = [asking[0].result() for _, asking in self.sent]
            assert self.lane.hall.submitter().accept_all(asked, timeout=5) == told

    def teardown(self) -> None:
        try:
            super().teardown()
        finally:
            steps.watch = None


class BehindReplicas(Behind):
    """The same where everybody is told only of what the replicas have."""

    durability = "replica"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("machine", [Behind, BehindReplicas])
def test_random_failovers_leave_nobody_with_what_the_log_does_not_say(
    machine: type[Behind],
    valkey_server: RedisSection,
    yard: Yard,
    tmp_path_factory: pytest.TempPathFactory,
    record: Record,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever is lost, and when: each command has one answer, which stands, and its whole effect."""
    fast(monkeypatch)

    play(machine, EXAMPLES, valkey_server, yard, lambda: tmp_path_factory.mktemp("lane"), recorded(record))


def wished(lane: Failing, verb: str, audio: Path) -> Signed:
    """A command that the handler carries out at once (update, report), or in its turn."""
    if verb == "report":
        return lane.report("a", 1)
    told: dict[str, Any] = {}
    if verb in ("add", "update"):
        told = {"settings": file_settings(audio), "name": verb}
    return lane.command(f"source.{verb}", "b" if verb == "add" else "a", **told)


@pytest.mark.parametrize("lost", ["command", "delivery"])
@pytest.mark.parametrize("verb", ["update", "report", "add", "remove"])
def test_what_is_lost_while_it_is_carried_out_is_done_once_it_is_submitted_again(
    verb: str,
    lost: str,
    valkey_server: RedisSection,
    yard: Yard,
    tmp_path: Path,
    record: Record,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Between the handler's attempt and the append the server loses the command, or only its delivery."""
    fast(monkeypatch)
    audio = record(1.0)
    with closing(Failing(valkey_server, tmp_path, yard, "memory")) as lane:
        ask = lane.hall.submitter()
        sent = [lane.command("source.add", "a", settings=file_settings(audio), name="")]
        told = [insist(ask, sent[0])]
        sent.append(lane.command("source.stop", "a"))
        command = wished(lane, verb, audio)

        def watch(step: str) -> None:
            if step == "executed" and lost == "delivery" and command not in sent:
                # While another one is being carried out, so that it is there and not delivered.
                sent.append(command)
                assert lane.hall.submitter().accept(command, timeout=5) is None
            lane.passed(step)

        monkeypatch.setattr("streams.steps.watch", watch)
        if lost == "delivery":
            lane.fail_over("executed", "executed")
        told.append(insist(ask, sent[1]))
        if lost == "command":
            sent.append(command)
            lane.fail_over(None, "executed")
        told.append(insist(ask, command))
        assert told[2].outcome == "completed"
        assert len(lane.rolled_back) == 1
        lane.calm()
        check(lane, [(one, [answer]) for one, answer in zip(sent, told, strict=True)])


@pytest.mark.parametrize("at", ["executed", "appended"])
def test_what_only_an_island_had_is_done_at_the_new_primary(
    at: str,
    valkeys: Pair,
    yard: Yard,
    tmp_path: Path,
    record: Record,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An update is carried out, perhaps logged, where no replica gets it: it has its effect in the end."""
    fast(monkeypatch)
    audio = record(1.0)
    with closing(Lane(valkeys.wire.redis, tmp_path, yard, "replica")) as lane:
        hall = lane.hall
        ask = hall.submitter()
        sent = [lane.command("source.add", "a", settings=file_settings(audio), name="before")]
        told = [insist(ask, sent[0])]
        valkeys.part(hall)
        failed = threading.Event()

        def watch(step: str) -> None:
            if step == at and not failed.is_set():
                failed.set()
                valkeys.fail_over(hall)

        monkeypatch.setattr("streams.steps.watch", watch)
        sent.append(lane.command("source.update", "a", settings=file_settings(audio), name="after"))
        told.append(insist(ask, sent[1]))
        assert failed.is_set()
        assert told[1].outcome == "completed"
        check(lane, [(one, [answer]) for one, answer in zip(sent, told, strict=True)])
        mine = [one.event.type for one in hall.events() if one.event.command == sent[1].command.id]
        assert mine == ["source.updated", "command.completed"]
        assert past_of(hall.events()).sources["a"].name == "after"


def test_what_was_begun_stands_though_its_command_was_lost(
    valkey_server: RedisSection,
    yard: Yard,
    tmp_path: Path,
    record: Record,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The facts of a slow update are put back, not its command: submitted again, it finds its own effect."""
    fast(monkeypatch)
    audio, missing = record(1.0), tmp_path / "missing.wav"
    with closing(Failing(valkey_server, tmp_path, yard, "memory")) as lane:
        ask = lane.hall.submitter()
        sent = [
            lane.command("source.add", "a", settings=file_settings(audio), name=""),
            lane.command("source.start", "a"),
            lane.command("source.update", "a", settings=file_settings(missing), name=""),
        ]
        told = [insist(ask, command) for command in sent[:2]]
        monkeypatch.setattr("streams.steps.watch", lane.passed)
        lane.fail_over(None, "replied")
        told.append(insist(ask, sent[2]))
        assert len(lane.rolled_back) == 1
        lane.calm()
        check(lane, [(one, [answer]) for one, answer in zip(sent, told, strict=True)])
        mine = [one.event.type for one in lane.hall.events() if one.event.command == sent[2].command.id]
        assert mine.count("source.updated") == 1
        assert told[2].state == "failed"


@pytest.mark.parametrize("lost", ["append", "command"])
def test_what_was_told_at_memory_is_put_back_though_its_owner_never_heard_of_it(
    lost: str,
    valkey_server: RedisSection,
    yard: Yard,
    tmp_path: Path,
    record: Record,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The reply to an append is lost, and then the append: whoever was told of it finds the same bytes."""
    fast(monkeypatch)
    settings = file_settings(record(1.0))
    with closing(Failing(valkey_server, tmp_path, yard, "memory")) as lane:
        ask = lane.hall.submitter()
        sent = [
            lane.command(f"source.{verb}", "a", settings=settings, name=verb) for verb in ("add", "update")
        ]
        told = [insist(ask, sent[0])]

        def watch(step: str) -> None:
            if step == "lease taken":
                # It comes back to a server that has failed over.
                eventually(lambda: lane.rolled_back, "the failover")
            lane.passed(step)

        monkeypatch.setattr("streams.steps.watch", watch)
        lane.fail_over("executed" if lost == "append" else None, "no step")
        lane.owner.lose_reply("tocsin_append")
        told.append(insist(ask, sent[1]))
        stood = lane.hall.events()
        lane.calm()
        assert insist(lane.hall.submitter(), sent[1]) == told[1]
        assert len(lane.rolled_back) == 1
        assert [one.event.command for one in stood][-1] == sent[1].command.id
        assert lane.hall.events()[: len(stood)] == stood
        check(lane, [(one, [answer]) for one, answer in zip(sent, told, strict=True)])
