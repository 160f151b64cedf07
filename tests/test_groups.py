"""Groups: which member counts, decided by what is heard of them, wherever they are captured."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from control.groups import Change, Ear, Group, Refusal, choose, decide, fold, made_group
from control.stationlane import StationLane
from streams.connection import connect
from streams.durability import Prover
from streams.group_messages import GroupCreate, GroupRemove
from streams.messages import Level, canonical, now
from streams.settings import RedisSection
from tests.fix_control import Bureau
from tests.fix_servers import eventually
from tests.fix_streams import Hall, insist, working

GROUP = Group(id="news", members=("a", "b", "c"), fallback_after=20.0, back_after=60.0)


def ears(**heard: Ear) -> dict[str, Ear]:
    """Of a, b and c; those that are not named were never heard since 0."""
    return {one: heard.get(one, Ear(begun=0.0)) for one in "abc"}


def well(since: float, until: float) -> Ear:
    return Ear(begun=0.0, level_at=until, loud_at=until, well_since=since)


def counting(active: str | None) -> Group:
    return Group(id="news", members=GROUP.members, fallback_after=20.0, back_after=60.0, active=active)


def test_the_first_counts_as_soon_as_it_is_heard() -> None:
    """And where it is not, the next one after the set time, not before."""
    assert choose(GROUP, ears(a=well(1, 5), b=well(1, 5)), 5.0) == ("a", "it is heard")
    assert choose(GROUP, ears(b=well(1, 19)), 19.0) is None
    assert choose(GROUP, ears(b=well(1, 20)), 20.0) == ("b", "a is down for 20 s")


def test_the_next_takes_over_after_the_set_time() -> None:
    """Silent for 20 s, or down: told apart. One that is not there itself takes nothing over."""
    silent = Ear(begun=0.0, level_at=120.0, loud_at=100.0, well_since=0.0)
    down = Ear(begun=0.0, level_at=100.0, loud_at=100.0, well_since=0.0)
    both = counting("a")
    assert choose(both, ears(a=silent, b=well(0, 119)), 119.0) is None
    assert choose(both, ears(a=silent, b=well(0, 120)), 120.0) == ("b", "a is silent for 20 s")
    assert choose(both, ears(a=down, b=well(0, 120)), 120.0) == ("b", "a is down for 20 s")
    assert choose(both, ears(a=down, b=down, c=well(0, 120)), 120.0) == ("c", "a is down for 20 s")
    assert choose(both, ears(a=down, b=down, c=down), 120.0) is None


def test_one_before_it_takes_its_place_back_once_it_lasts() -> None:
    """Sixty seconds on and on; the first of several; nobody is replaced by one behind it."""
    now_b = counting("b")
    assert choose(now_b, ears(a=well(100, 159), b=well(0, 159)), 159.0) is None
    back = choose(now_b, ears(a=well(100, 160), b=well(0, 160)), 160.0)
    assert back == ("a", "a has been heard again for 60 s")
    assert choose(counting("a"), ears(a=well(0, 500), b=well(0, 500), c=well(0, 500)), 500.0) is None
    first = choose(counting("c"), ears(a=well(0, 500), b=well(0, 500), c=well(0, 500)), 500.0)
    assert first == ("a", "a has been heard again for 60 s")


def test_a_silence_as_long_as_the_set_time_breaks_what_lasted() -> None:
    """A pause between sentences does not."""
    ear = Ear(begun=0.0)
    for at, loud in ((1.0, True), (15.0, True), (30.0, False), (34.0, True)):
        ear.hear(at, loud=loud, patience=20.0)
    assert ear.well_since == 1.0
    ear.hear(54.0, loud=True, patience=20.0)
    assert ear.well_since == 54.0
    assert ear.lasts(55.0) == 1.0
    assert ear.lasts(58.0) == 0.0


def test_commands_are_decided_by_what_is_so() -> None:
    """The same again changes nothing; another of that id, a member twice, none to remove are refused."""
    asked = GroupCreate(group="news", members=("a", "b", "c"))
    groups = {"news": made_group(asked)}
    made = decide({}, asked)
    assert isinstance(made, Change)
    assert [type for type, _ in made.drafts] == ["group.created"]
    assert decide(groups, asked) == Change("created")
    for wrong, reason in (
        (GroupCreate(group="news", members=("a",)), "exists"),
        (GroupCreate(group="other", members=("a", "a")), "invalid_params"),
        (GroupRemove(group="other"), "unknown_group"),
    ):
        refused = decide(groups, wrong)
        assert isinstance(refused, Refusal)
        assert refused.reason == reason


class Voices:
    """Levels of sources as ingest nodes write them, ten a second, as loud as the test says (None: none)."""

    def __init__(self, bureau: Bureau, lanes: dict[str, str]) -> None:
        self.loud: dict[str, float | None] = dict.fromkeys(lanes, -10.0)
        self._keys, self._link = bureau.keys, connect(bureau.settings.redis, "voices")
        self._lanes = lanes
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._speak)
        for source, lane in lanes.items():
            bureau.link.call("HSET", bureau.keys.sources, source, lane)
        self._thread.start()

    def _speak(self) -> None:
        while not self._over.wait(0.1):
            for source, loud in list(self.loud.items()):
                level = Level(source=source, at=now(), rms_dbfs=loud, peak_dbfs=-3.0, seconds=1.0)
                key = self._keys.lane(self._lanes[source]).telemetry
                self._link.call("XADD", key, "*", "l", canonical([level]))

    def close(self) -> None:
        self._over.set()
        self._thread.join(10)
        self._link.close()


@pytest.fixture
def voices(bureau: Bureau) -> Iterator[Voices]:
    """A source that floats and one that is wired: a group may span lanes."""
    made = Voices(bureau, {"a": "p3", "b": "node.mast"})
    yield made
    made.close()


def ask(bureau: Bureau, type: str, **params: Any) -> Any:
    return bureau.do(bureau.command(type, "station", params=params))


def switches(bureau: Bureau) -> list[tuple[str | None, str, str]]:
    """From which to which, and why."""
    found = [event.data for event in bureau.events() if event.type == "group.switched"]
    return [(data.get("was"), data["to"], data["reason"]) for data in found]


def test_a_group_falls_back_and_comes_back(bureau: Bureau, voices: Voices) -> None:
    """Silence, a return, a stop: each switch is an event; the next process goes on from the log."""
    bureau.start()
    unknown = ask(bureau, "group.create", group="news", members=["a", "nobody"])
    assert (unknown.outcome, unknown.field) == ("rejected", "params.members")
    assert "no source 'nobody'" in unknown.detail
    made = ask(bureau, "group.create", group="news", members=["a", "b"], fallback_after=2, back_after=2)
    assert (made.outcome, made.state) == ("completed", "created")
    eventually(lambda: switches(bureau) == [(None, "a", "it is heard")], "the first to count")

    voices.loud["a"] = None  # digital silence
    eventually(lambda: switches(bureau)[-1:] == [("a", "b", "a is silent for 2 s")], "the next to take over")
    voices.loud["a"] = -10.0
    eventually(
        lambda: switches(bureau)[-1:] == [("b", "a", "a has been heard again for 2 s")],
        "the first to be back",
    )
    bureau.end()
    # A hum of −55 dBFS is heard, unless the settings say that it is silence, as for the meters.
    with bureau.folder.settings.open("a") as settings:
        settings.write("\n[meters]\nsilence_dbfs = -50.0\n")
    bureau.start()
    voices.loud["a"] = -55.0
    eventually(lambda: switches(bureau)[-1:] == [("a", "b", "a is silent for 2 s")], "a hum to be silence")
    voices.loud["a"] = -45.0
    eventually(lambda: switches(bureau)[-1][1] == "a", "the first to be back")
    del voices.loud["a"]
    eventually(lambda: switches(bureau)[-1:] == [("a", "b", "a is down for 2 s")], "the next again")

    assert ask(bureau, "group.remove", group="news").state == "removed"
    assert ask(bureau, "group.remove", group="news").reason == "unknown_group"
    groups: Any = {}
    for event in bureau.events():
        groups = fold(groups, event)
    assert groups == {}


def test_a_group_is_made_by_a_turn_that_outlived_a_fold(
    valkey_server: RedisSection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The station lane: where the delivery was lost in a failover while the sources were being asked for."""
    monkeypatch.setattr("streams.worker.IDLE", 0.1)
    monkeypatch.setattr("streams.submit.ASK_AGAIN", 0.2)
    with closing(Hall(valkey_server, tmp_path, "memory", "station")) as hall:
        hall.link.call("HSET", hall.station.sources, "a", "p0", "b", "p0")
        handler = StationLane(hall.settings, Prover(hall.settings.redis), hall.keyring)
        entered, gate = threading.Event(), threading.Event()
        batch = handler._link.batch

        def asked(commands: Any, **kwargs: Any) -> Any:
            found = batch(commands, **kwargs)
            if not entered.is_set():
                entered.set()
                assert gate.wait(30)
            return found

        monkeypatch.setattr(handler._link, "batch", asked)
        folds: list[int] = []
        restore = handler.restore

        def restoring(*args: Any) -> None:
            restore(*args)
            folds.append(1)

        monkeypatch.setattr(handler, "restore", restoring)
        with working(hall, handler):
            create = hall.command("group.create", "", params={"group": "g", "members": ["a", "b"]})
            assert hall.submitter().accept(create, timeout=5) is None
            assert entered.wait(10)
            hall.lose_delivery()
            eventually(lambda: len(folds) == 2, "the log folded again", 20)
            gate.set()
            told = insist(hall.submitter(), create)
            assert told.outcome == "completed"
            mine = [one.event.type for one in hall.events() if one.event.command == create.command.id]
            assert mine == ["group.created", "command.completed"], (mine, handler._groups)
