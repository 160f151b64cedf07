"""A lane of sources: commands carried out on real recordings, and what runs kept as the log says."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from ingest.claims import Claims
from ingest.lane import SourcesLane
from ingest.state import Source
from streams.vocabulary import FileSettings
from tests.fix_ingest import Tap, equipment
from tests.fix_ingest_lane import LANE, Owned, captures, file_settings
from tests.fix_servers import eventually
from tests.fix_streams import Hall

Record = Callable[..., Path]


def test_the_life_of_a_source(owned: Owned, record: Record) -> None:
    """Added, started, stopped, started, removed: each is completed, and the log tells it in that order."""
    path = record(1.0)
    assert (owned.add(path, loop=True).state, captures()) == ("stopped", [])
    started = owned.do("source.start")
    assert (started.outcome, started.state) == ("completed", "running")
    assert captures() == ["s"]
    eventually(lambda: owned.heard.levels, "levels")
    stopped = owned.do("source.stop")
    assert (stopped.outcome, stopped.state, captures()) == ("completed", "stopped", [])
    assert owned.do("source.start").state == "running"
    assert owned.do("source.remove").outcome == "completed"
    assert captures() == []
    expected = ["added", "starting", "running", "stopped", "starting", "running", "removed"]
    assert owned.types() == expected


def test_a_start_is_completed_only_once_audio_was_read(owned: Owned, tap: Tap) -> None:
    """While no audio comes, a start has no result; with the first block it is completed."""
    tap.open.clear()
    owned.add("/tap", loop=True)
    with ThreadPoolExecutor() as pool:
        start = pool.submit(owned.do, "source.start")
        eventually(lambda: tap.opened, "opening")
        time.sleep(0.2)  # nothing may happen, and there is nothing to wait for
        assert not start.done()
        assert owned.state() == "starting"
        tap.open.set()
        assert start.result(5).state == "running"
    assert owned.state() == "running"


def test_commands_carry_their_events(owned: Owned, record: Record) -> None:
    """The events that a command brought about name it."""
    owned.add(record(1.0), loop=True)
    start = owned.task("source.start")
    owned.run(start)
    caused = [logged.event.type for logged in owned.log if logged.event.command == start.command.id]
    assert caused == ["source.starting", "source.running"]


def test_what_is_so_already_is_completed_without_an_event(owned: Owned, record: Record) -> None:
    """Execution is at least once: add, start and stop a second time change nothing and say what is so."""
    path = record(1.0)
    owned.add(path, loop=True)
    assert owned.add(path, loop=True).outcome == "completed"
    owned.do("source.start")
    told = owned.types()
    levels = len(owned.heard.levels)
    assert owned.do("source.start").state == "running"
    assert owned.types() == told
    eventually(lambda: len(owned.heard.levels) > levels, "levels that go on")
    owned.do("source.stop")
    told = owned.types()
    assert owned.do("source.stop").state == "stopped"
    assert owned.types() == told


def test_a_start_that_fails(owned: Owned, record: Record, tmp_path: Path) -> None:
    """A start without audio has failed, with the reason; the wish stands, and is fulfilled when it can be."""
    path = tmp_path / "later.wav"
    owned.add(path, loop=True)
    failed = owned.do("source.start")
    assert (failed.outcome, failed.state, failed.reason) == ("failed", "failed", "source_failed")
    assert f"{path}: No such file or directory" in (failed.detail or "")
    source = owned.source()
    assert source is not None
    assert (source.desired, source.state) == ("running", "failed")
    assert str(path) in (source.reason or "")
    time.sleep(0.3)  # many attempts, each failing alike, are one fact
    assert owned.types() == ["added", "starting", "failed"]
    record(1.0).rename(path)
    eventually(lambda: owned.state() == "running", "running")


def test_a_start_that_takes_too_long(owned: Owned, tap: Tap, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without audio within START_TIMEOUT the submitter is told so; later audio is good all the same."""
    monkeypatch.setattr("ingest.lane.START_TIMEOUT", 0.3)
    tap.open.clear()
    owned.add("/tap", loop=True)
    failed = owned.do("source.start")
    assert (failed.outcome, failed.reason) == ("failed", "no_audio")
    assert owned.state() == "failed"
    tap.open.set()
    eventually(lambda: owned.state() == "running", "running")


def test_a_start_that_is_overtaken(owned: Owned, tap: Tap) -> None:
    """A start in progress ends at once when a newer command overtakes it; after both, log and world agree."""
    tap.open.clear()
    owned.add("/tap", loop=True)
    start = owned.task("source.start")
    with ThreadPoolExecutor() as pool:
        running = pool.submit(owned.run, start)
        eventually(lambda: tap.opened, "opening")
        start.cancelled.set()
        assert running.result(1).outcome == "superseded"
    tap.open.set()
    assert owned.do("source.stop").state == "stopped"
    assert (owned.state(), captures()) == ("stopped", [])


def test_a_slow_start_delays_no_other_source(owned: Owned, tap: Tap) -> None:
    """While one source's start waits for audio, another's is completed."""
    owned.add("/tap/slow", "slow", loop=True)
    owned.add("/nowhere", "other", loop=True)
    tap.open.clear()
    slow = owned.task("source.start", "slow")
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(owned.run, slow)
        eventually(lambda: tap.opened, "opening")
        begun = time.monotonic()
        assert owned.do("source.start", "other").outcome == "failed"
        assert time.monotonic() - begun < 1
        assert not waiting.done()
        slow.cancelled.set()


def test_restarting(owned: Owned, record: Record) -> None:
    """A restart begins the recording anew, and starts what was stopped."""
    owned.add(record(30.0))
    owned.do("source.start")
    eventually(lambda: owned.heard.levels[-1:] and owned.heard.levels[-1].seconds > 0.3, "some audio")
    begun = len(owned.heard.levels)
    assert owned.do("source.restart").state == "running"
    eventually(lambda: len(owned.heard.levels) > begun, "levels")
    assert owned.heard.levels[begun].seconds == 0.1
    owned.do("source.stop")
    assert owned.do("source.restart").state == "running"


def test_updating_what_runs(owned: Owned, record: Record, tmp_path: Path) -> None:
    """New settings take effect at once; a new name does not interrupt; settings that fail are said to."""
    owned.add(record(1.0, "one.wav"), loop=True)
    owned.do("source.start")
    two = record(1.0, "two.wav", rate=16_000, channels=2)
    assert owned.do("source.update", settings=file_settings(two, loop=True)).state == "running"
    last = owned.log[-1].event
    assert (last.type, last.data["rate"], last.data["channels"]) == ("source.running", 16_000, 2)
    assert owned.do("source.update", name="Two").state == "running"
    assert owned.types()[-1] == "updated"
    failed = owned.do("source.update", settings=file_settings(tmp_path / "none.wav"))
    assert (failed.outcome, owned.state()) == ("failed", "failed")


def test_a_recording_that_ends(owned: Owned, record: Record) -> None:
    """What does not loop stops at its end, and is not started again by anybody but a command."""
    owned.add(record(0.2))
    owned.do("source.start")
    eventually(lambda: owned.state() == "stopped", "its end")
    source = owned.source()
    assert source is not None
    assert (source.reason, source.desired) == ("ended", "stopped")
    time.sleep(0.4)  # some reconciliations
    assert owned.types() == ["added", "starting", "running", "stopped"]
    assert owned.do("source.start").state == "running"


def test_nothing_is_tried_that_makes_no_sense(owned: Owned) -> None:
    """Unknown sources and wrong parameters are rejected by reason and field, and leave no trace."""
    unknown = owned.do("source.start", "nobody")
    assert (unknown.outcome, unknown.reason, unknown.field) == ("rejected", "unknown_source", "source")
    wrong = owned.add("relative.wav")
    assert (wrong.outcome, wrong.reason, wrong.field) == (
        "rejected",
        "invalid_params",
        "params.settings.path",
    )
    assert owned.log == []


def test_an_id_is_in_one_lane(owned: Owned, hall: Hall, record: Record) -> None:
    """An id that another lane has is not added here; after a removal it is free for any."""
    hall.link.call("HSET", hall.station.sources, "s", "p1")
    refused = owned.add(record(1.0))
    assert (refused.outcome, refused.reason, owned.log) == ("rejected", "exists", [])
    assert "'p1'" in (refused.detail or "")
    owned.add(record(1.0), "mine")
    assert hall.link.call("HGET", hall.station.sources, "mine") == LANE.encode()
    owned.do("source.remove", "mine")
    eventually(lambda: hall.link.call("HGET", hall.station.sources, "mine") is None, "a free id")


def test_a_node_that_takes_over_runs_what_should_run(owned: Owned, hall: Hall, record: Record) -> None:
    """The log is the memory: another handler, given the log, captures what is wanted and nothing else."""
    path = record(1.0)
    for id in ("on", "off"):
        owned.add(path, id, loop=True)
        owned.do("source.start", id)
    owned.do("source.stop", "off")
    owned.handler.end()
    assert captures() == []
    # What the log cannot know: it says running, and nothing is.
    assert owned.state("on") == "running"
    owned.handler = SourcesLane(LANE, owned.heard, Claims(hall.new_link("other"), hall.station), equipment())
    owned.own()
    eventually(lambda: owned.types("on")[-2:] == ["starting", "running"], "running again")
    assert captures() == ["on"]
    assert owned.types("off")[-1] == "stopped"


def test_what_runs_is_not_started_twice(owned: Owned, record: Record) -> None:
    """After an interruption restore and begin come again while captures run: they go on without a gap."""
    owned.add(record(1.0), loop=True)
    owned.do("source.start")
    eventually(lambda: owned.heard.levels, "levels")
    told = owned.types()
    for _ in range(3):
        owned.own()
    seconds = owned.heard.levels[-1].seconds
    eventually(lambda: owned.heard.levels[-1].seconds > seconds + 0.3, "levels that go on")
    assert captures() == ["s"]
    assert owned.types() == told


def test_a_log_that_lost_its_end_is_followed(owned: Owned, record: Record) -> None:
    """Where the log, after a failover, does not say that a source was started, it is stopped again."""
    owned.add(record(1.0), loop=True)
    kept = len(owned.log)
    owned.do("source.start")
    del owned.log[kept:]
    owned.own()
    eventually(lambda: not captures(), "its stop")
    assert owned.state() == "stopped"


def test_a_capture_that_died_is_started_again(owned: Owned, tap: Tap) -> None:
    """Whatever ends a capture that should run, the next comparison starts another."""
    owned.add("/tap", loop=True)
    owned.do("source.start")
    run = owned.handler._runs.pop("s")
    run.capture.stop()
    eventually(lambda: captures() == ["s"], "another capture")
    eventually(lambda: owned.state() == "running", "running")


def test_a_source_that_hangs_is_stalled(owned: Owned, tap: Tap) -> None:
    """A read that hangs is said to, and so is audio that comes again; a start by hand opens it anew."""
    owned.add("/tap", loop=True)
    owned.do("source.start")
    tap.open.clear()
    eventually(lambda: owned.state() == "stalled", "stalled")
    source = owned.source()
    assert source is not None
    assert "no audio for" in (source.reason or "")
    assert source.desired == "running"
    tap.open.set()
    eventually(lambda: owned.state() == "running", "running")
    tap.open.clear()
    eventually(lambda: owned.state() == "stalled", "stalled again")
    opened = tap.opened
    with ThreadPoolExecutor() as pool:
        start = pool.submit(owned.do, "source.start")
        eventually(lambda: tap.opened > opened, "another opening")
        tap.open.set()
        assert start.result(5).state == "running"


def test_a_lane_that_is_lost_is_silent(owned: Owned, record: Record) -> None:
    """Once the lane is another's nothing runs and nothing is logged; a start that waited is done with."""
    owned.add(record(1.0), loop=True)
    owned.do("source.start")
    told = len(owned.log)
    owned.handler.end()
    assert captures() == []
    late = owned.handler.execute(owned.task("source.start"))
    assert late.outcome == "failed"
    assert (len(owned.log), captures()) == (told, [])


def test_many_sources_at_once(owned: Owned, record: Record) -> None:
    """Forty sources started from as many threads all run, each with one capture; the counts say so."""
    path = record(1.0)
    ids = [f"s{number:02}" for number in range(40)]
    for id in ids:
        owned.add(path, id, loop=True)
    with ThreadPoolExecutor(40) as pool:
        results = list(pool.map(lambda one: owned.do("source.start", one), ids))
    assert {result.state for result in results} == {"running"}
    assert captures() == ids
    assert owned.handler.counts() == {"running": 40}


def test_memory_and_log_say_the_same(owned: Owned, record: Record) -> None:
    """After commands from several threads at once, a fresh fold of the log gives what the handler says."""
    path = record(0.3)

    def operate(id: str) -> None:
        owned.add(path, id)
        for verb in ("start", "restart", "stop", "start", "start", "restart"):
            owned.do(f"source.{verb}", id)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(operate, [f"s{number}" for number in range(6)]))
    eventually(lambda: not captures(), "the end of all")
    eventually(lambda: owned.handler.counts() == {"stopped": 6}, "stopped, all")
    for number in range(6):
        source = owned.source(f"s{number}")
        assert source is not None
        assert msgspec.structs.replace(source, wanted_since=None, conditions={}) == Source(
            settings=msgspec.convert(file_settings(path), FileSettings), state="stopped", reason="ended"
        )
