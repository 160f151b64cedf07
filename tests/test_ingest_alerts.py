"""Alerts in a lane: what is heard stands in its log, and whether anything is listened for is watched."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from ingest import listener as listening
from ingest.weekly_test import write_weekly_test
from streams.messages import Event, now
from tests.fix_ingest import Tap
from tests.fix_ingest_lane import Owned
from tests.fix_servers import eventually


@pytest.fixture
def weekly(tmp_path: Path) -> Path:
    """A recording of a weekly test."""
    path = tmp_path / "weekly.wav"
    write_weekly_test(path)
    return path


def events(owned: Owned, prefix: str) -> list[Event]:
    return [logged.event for logged in list(owned.log) if logged.event.type.startswith(prefix)]


def conditions(owned: Owned) -> list[tuple[str, str]]:
    """What opened and closed; on a busy machine, where looks are a tenth apart, audio stalls now and then."""
    told = [(event.type, event.data["kind"]) for event in events(owned, "condition.")]
    return [one for one in told if one[1] != "stalled"]


def test_an_alert_stands_in_the_log_of_its_source(owned: Owned, weekly: Path) -> None:
    """Played once: three bursts, one alert, its end, each with its time; and memory knows the test."""
    owned.add(weekly, pace="fast")
    owned.do("source.start")
    eventually(lambda: owned.state() == "stopped", "the end of the recording", 30)
    eventually(lambda: events(owned, "alert.ended"), "the end of the alert")
    told = [event.type for event in events(owned, "alert.") if event.data.get("text") != "NNNN"]
    assert told == ["alert.burst", "alert.burst", "alert.received", "alert.burst", "alert.ended"]
    (received,), (ended,) = events(owned, "alert.received"), events(owned, "alert.ended")
    assert (received.source, received.data["event"], received.data["confirmed"]) == ("s", "RWT", True)
    assert list(received.data["locations"]) == ["020103"]
    assert ended.data["hearing"] == received.data["hearing"]
    source = owned.source()
    assert source is not None
    assert source.last_test == received.at
    assert now() - received.at < timedelta(seconds=60)
    assert owned.agree()


def test_an_alert_of_a_source_that_was_stopped_meanwhile_is_not_lost(owned: Owned, weekly: Path) -> None:
    """What was heard before the stop is in the log after it."""
    owned.add(weekly, loop=True, pace="fast")
    owned.do("source.start")
    eventually(lambda: events(owned, "alert.received"), "an alert", 30)
    owned.do("source.stop")
    count = len(events(owned, "alert."))
    assert owned.agree()
    owned.do("source.start")
    eventually(lambda: len(events(owned, "alert.")) > count, "more of them", 30)


def test_levels_say_how_much_was_listened_to(owned: Owned, tap: Tap) -> None:
    """What is read goes through the decoder, three blocks at a time: the seconds of both grow together."""
    owned.add("/tap", loop=True)
    owned.do("source.start")
    eventually(lambda: owned.heard.levels and owned.heard.levels[-1].seconds > 0.6, "levels")
    for level in owned.heard.levels:
        assert level.decoded is not None
        assert -0.01 < level.seconds - level.decoded < 0.31
    assert owned.heard.levels[-1].decoded


def test_a_decoder_that_starves_is_told(owned: Owned, tap: Tap, monkeypatch: pytest.MonkeyPatch) -> None:
    """The source runs and nothing is decoded: a condition opens, and closes once it is well again."""
    real: Any = listening.Decoder
    broken = [True]

    class Fragile(real):  # type: ignore[misc]
        def feed(self, samples: object) -> Any:
            if broken:
                raise ZeroDivisionError("a bug")
            return super().feed(samples)

    monkeypatch.setattr(listening, "Decoder", Fragile)
    monkeypatch.setattr(listening, "TRY_AGAIN", 0.2)
    owned.add("/tap", loop=True)
    assert owned.do("source.start").state == "running"
    eventually(lambda: conditions(owned) == [("condition.opened", "decoder.starved")], "the condition", 10)
    assert owned.state() == "running"
    broken.clear()
    eventually(lambda: len(conditions(owned)) == 2, "its end", 10)
    assert conditions(owned)[1] == ("condition.closed", "decoder.starved")
    opened, closed = (e for e in events(owned, "condition.") if e.data["kind"] == "decoder.starved")
    assert opened.data["episode"] == closed.data["episode"]
    assert owned.agree()


def test_a_missing_weekly_test_outlives_its_owner(
    owned: Owned, tap: Tap, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The condition opens once; whoever takes the lane over knows it, and a removal ends it."""
    monkeypatch.setattr("ingest.watch.NO_TEST_FOR", timedelta(seconds=0.2))
    owned.add("/tap", loop=True)
    owned.do("source.start")
    eventually(
        lambda: conditions(owned) == [("condition.opened", "weekly_test.missing")], "the condition", 10
    )
    owned.handler.end()
    owned.own()
    eventually(lambda: owned.agree() and owned.state() == "running", "the source, again")
    source = owned.source()
    assert source is not None
    assert list(source.conditions) == ["weekly_test.missing"]
    owned.do("source.remove")
    assert conditions(owned) == [
        ("condition.opened", "weekly_test.missing"),
        ("condition.closed", "weekly_test.missing"),
    ]


def test_a_silent_source_is_told_and_a_stop_ends_it(owned: Owned, tmp_path: Path) -> None:
    """Silence that lasts opens a condition in the log, with its reason; a source that is stopped has none."""
    path = tmp_path / "silence.wav"
    soundfile.write(path, np.zeros(40 * 8000), 8000)
    owned.add(path, pace="fast", loop=True)
    owned.do("source.start")
    eventually(lambda: conditions(owned) == [("condition.opened", "silence")], "the condition", 20)
    (opened,) = (event for event in events(owned, "condition.") if event.data["kind"] == "silence")
    assert opened.data["reason"] == "below -60 dBFS for 30 s"
    owned.do("source.stop")
    eventually(lambda: conditions(owned)[1:] == [("condition.closed", "silence")], "its end", 10)
    assert owned.agree()


def test_a_source_that_stalls_is_told(owned: Owned, tap: Tap) -> None:
    """A read that hangs is a state and a condition; both are over once audio comes again."""
    owned.add("/tap", loop=True)
    owned.do("source.start")
    tap.open.clear()
    stalls = lambda: [e.type for e in events(owned, "condition.") if e.data["kind"] == "stalled"]  # noqa: E731
    eventually(lambda: stalls()[-1:] == ["condition.opened"], "the condition", 20)
    tap.open.set()
    eventually(lambda: stalls()[-1:] == ["condition.closed"], "its end", 20)


def test_whoever_has_seen_an_episode_says_so_in_the_log(owned: Owned, tap: Tap) -> None:
    """The open episode of a condition is acknowledged with the key's name; no other is."""
    owned.add("/tap", loop=True)
    owned.do("source.start")
    tap.open.clear()
    eventually(lambda: "stalled" in (owned.source() or tap).conditions, "the condition", 20)  # type: ignore[union-attr]
    source = owned.source()
    assert source is not None
    episode = source.conditions["stalled"]
    refused = owned.do("condition.acknowledge", episode="another")
    assert (refused.outcome, refused.reason, refused.field) == (
        "rejected",
        "unknown_episode",
        "params.episode",
    )
    assert episode in (refused.detail or "")
    assert owned.do("condition.acknowledge", episode=episode).outcome == "completed"
    (seen,) = events(owned, "condition.acknowledged")
    assert seen.data == {"episode": episode, "kind": "stalled", "by": "k"}
    tap.open.set()
