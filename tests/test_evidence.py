"""What outlives outages and is kept as evidence, on the real ingest process and a real server."""

from __future__ import annotations

import os
import shutil
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from hashlib import sha256
from pathlib import Path

import msgspec
import numpy as np
import pytest
import soundfile

from ingest.courier import Courier
from ingest.spool import Spool
from ingest.weekly_test import RATE, weekly_test
from streams.messages import Event, canonical, now
from streams.replay import replay
from streams.signing import create_key
from tests.fix_archive import ArchivedHall, rows_of
from tests.fix_ingest_process import NODE_LANE, Ingest
from tests.fix_servers import eventually, running_valkey
from tests.fix_streams import Hall, Scripted, working


@pytest.fixture
def weekly(tmp_path: Path) -> Path:
    """A recording of a weekly test, after twelve seconds of silence."""
    path = tmp_path / "weekly.wav"
    samples = np.concatenate([np.zeros(12 * RATE, np.float32), weekly_test(now())])
    soundfile.write(path, samples, RATE, subtype="PCM_16")
    return path


def told(ingest: Ingest, prefix: str, source: str = "s") -> list[Event]:
    return [event for event in ingest.log() if event.type.startswith(prefix) and event.source == source]


def spooled(folder: Path) -> list[Path]:
    return sorted((folder / "spool").glob("*/*.json"))


def test_an_alert_is_evidence_that_anyone_can_check(ingest: Ingest, weekly: Path, tmp_path: Path) -> None:
    """From 10 s before the first burst to 5 s after the end: the file, its hash in the log, over HTTP."""
    ingest.start()
    ingest.add("s", weekly, pace="fast")
    ingest.do("source.start", "s")
    eventually(lambda: told(ingest, "recording.finished"), "the recording", 120)
    (finished,) = told(ingest, "recording.finished")
    (ended,) = told(ingest, "alert.ended")
    bursts = told(ingest, "alert.burst")
    path = tmp_path / "recordings" / finished.data["file"]
    raw = path.read_bytes()
    assert sha256(raw).hexdigest() == finished.data["sha256"]
    assert path.is_relative_to(tmp_path / "recordings" / NODE_LANE / "s")
    played, rate = soundfile.read(path, dtype="int16")
    assert rate == finished.data["rate"] == RATE
    original, _ = soundfile.read(weekly, dtype="int16")
    first = round((bursts[0].data["start"] - 10.0) * RATE)
    assert np.array_equal(played, original[first : first + len(played)])
    until = min(ended.data["end"] + 5.0, len(original) / RATE)
    assert len(played) / RATE == pytest.approx(until - bursts[0].data["start"] + 10.0, abs=0.2)
    (received,) = told(ingest, "alert.received")
    assert finished.data["hearings"] == [received.data["hearing"]]
    # The node serves it to whoever has the pass, whole or in part, and to nobody else.
    beat = ingest.heartbeat()
    url = f"http://{beat['address']}/recordings/{finished.data['recording']}"
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {beat['pass']}"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.headers["Content-Type"] == "audio/flac"
        assert answer.read() == raw
    request.add_header("Range", "bytes=100-199")
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert (answer.status, answer.read()) == (206, raw[100:200])
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(url, timeout=10)
    # What is durable is no longer spooled.
    eventually(lambda: spooled(tmp_path) == [], "an empty spool")
    assert ingest.verified()


def test_a_test_is_played_through_a_source_and_marked_everywhere(
    ingest: Ingest, weekly: Path, tmp_path: Path
) -> None:
    """Its bursts, message, end and recording say so, and it is no weekly test that was received."""
    silence = tmp_path / "silence.wav"
    soundfile.write(silence, np.zeros(8000), 8000)
    ingest.start()
    ingest.add("s", silence, loop=True)
    refused = ingest.do("source.inject", "s", path=str(weekly))
    assert (refused.outcome, refused.reason) == ("rejected", "not_running")
    ingest.do("source.start", "s")
    gone = ingest.do("source.inject", "s", path=str(tmp_path / "none.wav"))
    assert (gone.outcome, gone.reason) == ("failed", "not_played")
    answer = ingest.do("source.inject", "s", path=str(weekly), timeout=60)
    assert (answer.outcome, answer.state) == ("completed", "injected")
    assert "ZCZC-WXR-RWT" in (answer.detail or "")
    eventually(lambda: told(ingest, "recording.finished"), "the recording", 20)
    heard = [*told(ingest, "alert."), *told(ingest, "recording.")]
    assert {event.type for event in heard} >= {"alert.burst", "alert.received", "alert.ended"}
    assert all(event.data["injected"] is True for event in heard)
    assert "-test-" in told(ingest, "recording.finished")[0].data["file"]
    source = ingest.source("s")
    assert source is not None
    assert source.last_test is None
    assert source.state == "running"


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Ingest]:
    """An ingest process on a server that no other test uses."""
    with running_valkey(tmp_path / "valkey") as redis:
        hall = Hall(redis, tmp_path)
        made = Ingest(hall, tmp_path)
        try:
            yield made
        finally:
            made.close()
            hall.close()


@contextmanager
def away(hall: Hall) -> Iterator[None]:
    """The server hangs meanwhile."""
    info = hall.link.call("INFO", "server").decode()
    pid = int(next(line for line in info.splitlines() if line.startswith("process_id:")).split(":")[1])
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize(
    "killed", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["killed", "alive"]
)
def test_an_alert_heard_while_redis_is_away_is_logged_once(
    alone: Ingest, weekly: Path, tmp_path: Path, killed: bool
) -> None:
    """Redis away, an alert heard and recorded, SIGKILL or not: all of it is in the log, once, as heard."""
    path = tmp_path / "later.wav"
    alone.start()
    alone.add("s", path, pace="fast")
    assert alone.do("source.start", "s").outcome == "failed"
    with away(alone.hall):
        weekly.rename(path)
        eventually(
            lambda: any("finished" in one.read_text() for one in spooled(tmp_path)), "the evidence", 120
        )
        heard = [msgspec.json.decode(one.read_bytes()) for one in spooled(tmp_path)]
        back = now()
        if killed:
            alone.running.kill()
            alone.running.wait(20)
            # Else it would be played, and heard, once more.
            path.unlink()
    if killed:
        alone.kill()
        alone.start()
    eventually(lambda: told(alone, "recording.finished"), "what was spooled", 60)
    logged = [*told(alone, "alert."), *told(alone, "recording.")]
    assert sorted(event.data["spool"] for event in logged) == sorted(
        f"{one['node']}/{one['boot']}/{one['counter']}" for one in heard
    )
    by_id = {event.data["spool"]: event for event in logged}
    for one in heard:
        event = by_id[f"{one['node']}/{one['boot']}/{one['counter']}"]
        assert event.type == one["type"]
        assert {**one["data"], "spool": event.data["spool"]} == event.data
        assert event.at == msgspec.convert(one["at"], type(event.at)) <= back <= event.logged_at
    (finished,) = told(alone, "recording.finished")
    raw = (tmp_path / "recordings" / finished.data["file"]).read_bytes()
    assert sha256(raw).hexdigest() == finished.data["sha256"]
    eventually(lambda: spooled(tmp_path) == [], "an empty spool", 30)
    assert alone.verified()


@pytest.mark.slow
def test_what_a_killed_process_was_recording_is_salvaged(alone: Ingest, weekly: Path, tmp_path: Path) -> None:
    """SIGKILL in the middle of a recording: what there is of it becomes evidence with its hash."""
    alone.start()
    alone.add("s", weekly)
    alone.do("recording.start", "s")
    alone.do("source.start", "s")
    size = lambda: sum(one.stat().st_size for one in (tmp_path / "recordings").rglob("*.part"))  # noqa: E731
    eventually(lambda: size() > 10_000, "a part of a recording", 60)
    (started,) = told(alone, "recording.started")
    alone.running.send_signal(signal.SIGKILL)
    alone.kill()
    weekly.unlink()
    alone.start()
    eventually(lambda: told(alone, "recording.finished"), "the salvaged recording", 30)
    (finished,) = told(alone, "recording.finished")
    assert finished.data["recording"] == started.data["recording"]
    assert finished.data["salvaged"] is True
    raw = (tmp_path / "recordings" / finished.data["file"]).read_bytes()
    assert sha256(raw).hexdigest() == finished.data["sha256"]
    source = alone.source("s")
    assert source is not None
    assert source.recorded == "always"


def test_what_is_of_a_lane_that_moved_is_logged_by_its_owner(
    ingest: Ingest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that comes back finds its lane with another: the owner logs what it has spooled, once."""
    ingest.start()
    theirs = tmp_path / "theirs"
    (theirs / "keys").mkdir(parents=True)
    create_key(theirs / "keys", "node-other", "node")
    shutil.copy(theirs / "keys" / "node-other.json", tmp_path / "keys")
    ingest.end()
    ingest.start()
    fact = {"text": "ZCZC-", "confidence": 0.9, "start": 1.0, "end": 2.0}
    heard_at = now() - timedelta(minutes=1)
    spool = Spool(theirs / "spool", "other")
    kept = spool.keep("p0", "radio", "alert.burst", fact, heard_at)
    # As it was kept a minute ago, by a boot before this one.
    (file,) = (theirs / "spool").glob("*/*.json")
    file.write_bytes(canonical(msgspec.structs.replace(kept, kept_at=heard_at)))
    monkeypatch.setenv("TOCSIN_INGEST_NODE", "other")
    other = Ingest(ingest.hall, theirs)
    try:
        other.launch()
        lane = ingest.hall.station.lane("p0")
        logged = lambda: [  # noqa: E731
            one.event for one in replay(ingest.link, lane) if one.event.type == "alert.burst"
        ]
        eventually(logged, "the fact", 40)
        eventually(lambda: not file.exists(), "an empty spool", 30)
        # Sent once more, as after a crash in between: nothing is added.
        again = Spool(theirs / "spool", "other")
        again._write(msgspec.structs.replace(kept, kept_at=heard_at))
        other.end()
        other.launch()
        eventually(lambda: not file.exists(), "an empty spool, again", 40)
        (event,) = logged()
        assert (event.node, event.source, event.at) == ("local", "radio", heard_at)
        assert event.data == {**fact, "spool": kept.id}
    finally:
        other.close()


def test_nothing_is_deleted_before_it_is_archived(archived_hall: ArchivedHall, tmp_path: Path) -> None:
    """What stands in the log stays spooled while nobody archives, and goes once it is in Postgres."""
    hall, spool = archived_hall, Spool(tmp_path / "spool", "here")
    kept = spool.keep("p0", "s", "alert.ended", {"end": 1.0}, now())
    courier = Courier(
        hall.settings, hall.new_link("courier"), hall.submitter(), spool,
        owned=lambda: ["p0"], keyring=lambda: hall.keyring,
    )  # fmt: skip
    courier.see_to("p0")
    handler = Scripted()
    with working(hall, handler, archive=hall.archive):
        handler.post(kept.draft())
        eventually(lambda: [e for e in hall.events() if e.event.type == "alert.ended"], "the event")
        courier.see_to("p0")
        assert spool.pending("p0") == [kept]
        with hall.yard.projections():
            hall.wait_until_archived()
        # Only what Postgres holds was deleted.
        courier.see_to("p0")
        assert rows_of(hall.yard) == hall.stored()
    assert spool.pending("p0") == []
    assert list((tmp_path / "spool").glob("*/*.json")) == []
