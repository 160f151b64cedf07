"""Log, memory and what runs agree, whatever comes in between: bursts, take-overs, hanging audio."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ingest.capture import Report
from projections.folds import sources as rows
from streams.admission import Task
from streams.drafts import Draft
from streams.messages import now
from streams.turns import Turns
from streams.vocabulary import FileSettings, SourceFact
from tests.fix_ingest import Tap
from tests.fix_ingest_lane import Owned, captures, file_settings
from tests.fix_servers import eventually

Record = Callable[..., Path]


def numbered(task: Task, sequence: int) -> Task:
    delivery = msgspec.structs.replace(task.delivery, sequence=sequence)
    return msgspec.structs.replace(task, delivery=delivery)


@pytest.mark.parametrize("seed", range(4))
def test_a_burst_of_starts_stops_and_restarts(owned: Owned, record: Record, seed: int) -> None:
    """In turns as the lane's owner gives them, from three threads at once: in the end log, memory and
    captures agree, on what the newest command wished, and do so after the lane was taken anew."""
    chance = random.Random(seed)
    owned.add(record(0.3), loop=chance.random() < 0.5)
    turns = Turns(lambda task: owned.run(task) and None)
    sending = threading.Lock()
    newest: list[Task] = []

    def operate(seed: int) -> None:
        own = random.Random(seed)
        for _ in range(15):
            with sending:
                verb = own.choice(["start", "stop", "restart"])
                newest.append(numbered(owned.task(f"source.{verb}"), len(newest) + 1))
                turns.put(newest[-1])
            time.sleep(own.choice([0, 0, 0.001, 0.01]))

    for _ in range(2):
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(operate, [chance.random() for _ in range(3)]))  # type: ignore[arg-type]
        assert turns.wait_idle(10)
        eventually(owned.agree, "agreement", 5)
        source = owned.source()
        assert source is not None
        if newest[-1].command.type == "source.stop":
            assert (source.desired, source.state, captures()) == ("stopped", "stopped", [])
        else:
            assert source.state == "running" or source.reason == "ended"
        owned.own()
        eventually(owned.agree, "agreement after a take-over", 5)


def test_a_log_that_says_less_than_runs_is_told_the_rest(owned: Owned, record: Record) -> None:
    """Where the log lost that a source runs, it is logged again, and the audio goes on without a gap."""
    owned.add(record(1.0), loop=True)
    owned.do("source.start")
    eventually(lambda: owned.heard.levels, "levels")
    assert owned.types().pop() == "running"
    del owned.log[-1]
    owned.own()
    assert owned.types() == ["added", "starting", "running"]
    assert owned.log[-1].event.data == {"rate": 8000, "channels": 1}
    assert owned.agree()
    seconds = [level.seconds for level in owned.heard.levels]
    assert seconds == sorted(seconds)
    assert captures() == ["s"]


def test_a_recording_that_ended_while_nothing_was_logged(owned: Owned, record: Record) -> None:
    """What ends between restore and begin is not played again: its end is logged as soon as it can be."""
    owned.add(record(0.3))
    owned.do("source.start")
    log = iter(list(owned.log))
    owned.handler.restore(log)
    eventually(lambda: not captures(), "its end")
    owned.handler.begin(owned.post)
    eventually(lambda: owned.state() == "stopped", "its end in the log")
    assert owned.types() == ["added", "starting", "running", "stopped"]
    assert owned.agree()


def test_a_lane_lost_and_taken_again(owned: Owned, record: Record) -> None:
    """After end and begin there is one attending thread, one capture, and a log that agrees."""
    owned.add(record(1.0), loop=True)
    owned.do("source.start")
    for _ in range(5):
        owned.handler.end()
        assert captures() == []
        owned.own()
    eventually(lambda: owned.state() == "running" and owned.agree(), "running")
    assert captures() == ["s"]

    def attending() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name.startswith("attend-")]

    eventually(lambda: len(attending()) == 1, "one attending thread")


def test_starts_that_follow_fast_let_a_slow_source_begin(owned: Owned, tap: Tap) -> None:
    """A start that overtakes another joins it: the source is opened once, and the event names the newer."""
    owned.add("/tap", loop=True)
    tap.open.clear()
    first, second = owned.task("source.start"), owned.task("source.start")
    with ThreadPoolExecutor() as pool:
        overtaken = pool.submit(owned.run, first)
        eventually(lambda: tap.opened, "opening")
        first.cancelled.set()
        assert overtaken.result(2).outcome == "superseded"
        joined = pool.submit(owned.run, second)
        time.sleep(0.1)  # time to do something wrong
        tap.open.set()
        assert joined.result(5).state == "running"
    assert tap.opened == 1
    assert owned.types() == ["added", "starting", "running"]
    assert owned.log[-1].event.command == second.command.id


def test_removed_while_it_starts(owned: Owned, tap: Tap) -> None:
    """A source removed before its audio came is gone for good, also when the audio comes."""
    owned.add("/tap", loop=True)
    tap.open.clear()
    start = owned.task("source.start")
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(owned.run, start)
        eventually(lambda: tap.opened, "opening")
        start.cancelled.set()
        waiting.result(2)
    assert owned.do("source.remove").outcome == "completed"
    tap.open.set()
    eventually(lambda: not captures(), "its end")
    assert owned.types()[-1] == "removed"
    assert owned.heard.levels == []
    assert owned.agree()


def test_audio_that_hangs_does_not_hold_up_the_end(owned: Owned, tap: Tap) -> None:
    """Twenty captures that hang are left behind within about a second, and are silent ever after."""
    for number in range(20):
        owned.add("/tap", f"s{number}", loop=True)
        owned.do("source.start", f"s{number}")
    tap.open.clear()
    time.sleep(0.3)  # until all of them hang
    begun = time.monotonic()
    owned.handler.end()
    assert time.monotonic() - begun < 2.0
    heard, told = len(owned.heard.levels), len(owned.log)
    tap.open.set()
    eventually(lambda: not captures(), "their end")
    assert (len(owned.heard.levels), len(owned.log)) == (heard, told)


def test_what_an_old_capture_says_is_not_heard(owned: Owned, record: Record) -> None:
    """A report of a capture that was replaced meanwhile changes nothing."""
    owned.add(record(1.0), loop=True)
    owned.do("source.start")
    old = owned.handler._runs["s"]
    owned.do("source.restart")
    told = owned.types()
    owned.handler._heard(old, Report(state="failed", fact=SourceFact(reason="late"), at=now()))
    assert owned.types() == told
    assert owned.agree()


def test_one_failing_post_harms_nobody_else(owned: Owned, tap: Tap) -> None:
    """An event that cannot be logged is tried again, and the other sources are attended to meanwhile."""
    refusing = threading.Event()
    refusing.set()

    def picky(draft: Draft) -> None:
        if refusing.is_set() and (draft.source, draft.type) == ("odd", "source.running"):
            raise TypeError("not now")
        owned.post(draft)

    for source in ("odd", "good"):
        owned.add("/tap", source, loop=True)
    owned.handler.begin(picky)
    for source in ("odd", "good"):
        assert owned.do("source.start", source).state == "running"
    assert (owned.state("odd"), owned.state("good")) == ("starting", "running")
    refusing.clear()
    eventually(lambda: owned.state("odd") == "running", "running, in the log too")
    assert owned.agree()


def test_an_attempt_decides_what_needs_no_waiting(owned: Owned, record: Record) -> None:
    """What changes no capture is carried out at once, as `execute` would; the rest is left to it."""
    path = record(1.0)
    assert owned.handler.attempt(owned.task("source.add", settings=file_settings(path))) is None
    owned.add(path, loop=True)
    assert owned.handler.attempt(owned.task("source.start")) is None
    named = owned.handler.attempt(owned.task("source.update", name="News"))
    assert named is not None
    assert [draft.type for draft in named.drafts] == ["source.updated"]
    for draft in named.drafts:
        owned.post(draft)
    stopped = owned.handler.attempt(owned.task("source.stop"))
    assert stopped is not None
    assert (stopped.outcome, stopped.state, stopped.drafts) == ("completed", "stopped", ())
    owned.do("source.start")
    assert owned.handler.attempt(owned.task("source.stop")) is None
    assert owned.handler.attempt(owned.task("source.remove")) is None
    nobody = owned.handler.attempt(owned.task("source.stop", "nobody"))
    assert nobody is not None
    assert nobody.reason == "unknown_source"
    assert owned.agree()


def test_a_source_with_settings_of_a_newer_version_survives_a_take_over(owned: Owned, record: Record) -> None:
    """A field that a newer version added is left out, and the source runs on; the read side has it too."""
    settings = file_settings(record(1.0), loop=True, volume={"db": -3})
    owned.post(Draft(type="source.added", source="s", data={"settings": settings, "name": "Newer", "hue": 7}))
    owned.post(Draft(type="source.starting", source="s", data={"desired": "running", "hue": 7}))
    owned.own()
    eventually(lambda: owned.state() == "running" and owned.agree(), "running")
    source = owned.source()
    assert source is not None
    assert (source.name, source.settings) == ("Newer", FileSettings(path=settings["path"], loop=True))
    row = None
    for logged in owned.log:
        row = rows.fold(row, logged)
    assert row is not None
    assert (row.id, row.state, row.desired, row.name) == ("s", source.state, source.desired, source.name)
    assert row.settings == settings
    # In a command the same field is refused: half a wish is none.
    refused = owned.do("source.update", settings=settings)
    assert (refused.outcome, refused.reason) == ("rejected", "invalid_params")
    assert "volume" in (refused.detail or "")


@pytest.mark.parametrize("settings", [{"kind": "satellite", "dish": 3}, {"kind": "file", "path": 7}])
def test_a_source_that_only_a_newer_version_can_run_says_so(owned: Owned, settings: dict[str, Any]) -> None:
    """It does not vanish: it has failed, with why, and can be stopped and removed."""
    owned.post(Draft(type="source.added", source="s", data={"settings": settings, "name": "Dish"}))
    owned.post(Draft(type="source.starting", source="s", data={"desired": "running"}))
    owned.own()
    eventually(lambda: owned.state() == "failed", "the failure")
    source = owned.source()
    assert source is not None
    assert "only a newer version can run it" in (source.reason or "")
    assert owned.do("source.start").reason == "source_failed"
    assert owned.do("source.update", name="Old dish").outcome == "completed"
    assert owned.do("source.stop").outcome == "completed"
    assert owned.agree()
    assert owned.do("source.remove").outcome == "completed"
    assert owned.sources() == {}
