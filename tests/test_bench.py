"""What the benches rest on: figures of a log that is not whole are worth nothing."""

from __future__ import annotations

import io
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import soundfile
from sqlalchemy import text

from bench import replay, roundtrip, transmitter
from bench.ingest import SENT, programme
from bench.ledger import Wrong, sound
from bench.roundtrip import audit, heads
from bench.stage import HMAC, Stage
from streams.handler import Result
from streams.messages import new_command
from streams.signing import create_key, load_key
from streams.submit import Submitter, signed
from tests.fix_owner import answer_of
from tests.fix_projections import Yard
from tests.fix_streams import DONE, LANE, Hall, Scripted, working


def stage_of(hall: Hall) -> Any:
    """The hall's lane as what a bench has measured on."""
    return SimpleNamespace(link=hall.new_link, keys=hall.station, lanes=[LANE], settings=hall.settings)


def test_a_bench_fails_where_the_end_of_the_log_is_cut_off(hall: Hall) -> None:
    """What is left verifies; only by the lane's head is it noticed that the last event is missing."""
    with working(hall, Scripted()):
        answer_of(hall, hall.command())
    stage = stage_of(hall)
    assert sound(hall.link, hall.keys, LANE) == 3
    assert audit(stage, {LANE: 0}, 1) == []
    (last,) = hall.link.call("XREVRANGE", hall.keys.events, "+", "-", "COUNT", 1)
    hall.link.call("XDEL", hall.keys.events, last[0])
    with pytest.raises(Wrong, match="missing"):
        sound(hall.link, hall.keys, LANE)
    (fault,) = audit(stage, {LANE: 0}, 1)
    assert "missing" in fault


def test_a_bench_fails_where_results_are_not_those_of_its_commands(hall: Hall) -> None:
    """One too many or too few, or another outcome than was confirmed, is a fault; older ones do not count."""
    outcome = {"wx-2": Result(outcome="failed", state="stopped", reason="bad_source")}
    with working(hall, Scripted(lambda task: outcome.get(task.command.source, DONE))):
        for _ in range(2):
            answer_of(hall, hall.command())
        stage, half = stage_of(hall), heads(stage_of(hall))
        answer_of(hall, hall.command())
        assert audit(stage, {LANE: 0}, 3) == []
        assert audit(stage, half, 1) == []
        for confirmed in (0, 2, 4):
            assert audit(stage, {LANE: 0}, confirmed) == [
                f"{confirmed} commands were confirmed, but the log holds {{'command.completed': 3}}"
            ]
        answer_of(hall, hall.command(source="wx-2"))
    (fault,) = audit(stage, {LANE: 0}, 4)
    assert "'command.failed': 1" in fault


def test_a_bench_fails_where_a_signature_is_not_by_its_key(hall: Hall, tmp_path: Path) -> None:
    """Every result of the run is looked at, also the last; a key that is not here proves nothing."""
    second = create_key(tmp_path / "keys", "laptop", "engineer", "ed25519")
    hall.keyring[second.id] = second
    with working(hall, Scripted()):
        answer_of(hall, hall.command())
        answer_of(hall, hall.command(key=second))
    stage = stage_of(hall)
    (last,) = [one.event.seq for one in hall.events() if one.event.type == "command.completed"][1:]
    assert audit(stage, {LANE: 0}, 2) == []
    path = tmp_path / "keys" / "laptop.json"
    path.unlink()
    assert audit(stage, {LANE: 0}, 2) == ["signed by keys that are not here: {'laptop': 1}"]
    create_key(tmp_path / "keys", "laptop", "engineer", "ed25519")
    (fault,) = audit(stage, {LANE: 0}, 2)
    assert fault.startswith(f"lane {LANE}: event {last}: the signature")


def test_the_bench_itself_fails_over_a_result_that_no_command_of_its_own_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A worker alone, measured for a moment, is well; then a command is carried out that nobody counts."""
    monkeypatch.setattr("bench.report.RESULTS", tmp_path)
    short = ("--bare", "--only", "tocsin-memory", "--rounds", "1", "--seconds", "0.1", "--in-flight", "8")
    assert roundtrip.main(short) == 0
    (written,) = tmp_path.iterdir()
    result = msgspec.json.decode(written.read_bytes())
    assert result["verified"]
    assert set(result["medians"]) == {"tocsin-memory-hmac", "tocsin-memory-ed25519"}

    def meddled(stage: Stage) -> dict[str, int]:
        found, key, link = heads(stage), load_key(Path(stage.settings.keys.directory), HMAC), stage.link()
        command = new_command(
            station=stage.settings.station.id,
            lane="p0",
            source="bench-0",
            type="source.update",
            params={},
            key=HMAC,
        )
        assert Submitter(stage.settings, link).submit(signed(command, key)).outcome == "completed"
        link.close()
        return found

    monkeypatch.setattr(roundtrip, "heads", meddled)
    assert roundtrip.main(short) == 1
    told = re.search(r"failed: (\d+) commands were confirmed.* holds .*: (\d+)}", capsys.readouterr().err)
    assert told is not None
    assert int(told[2]) == int(told[1]) + 1


def test_a_transmitter_sends_all_of_a_recording_in_its_own_time() -> None:
    """The frames of an MP3 file last as long as its sound, so that what is sent by them keeps its time."""
    written = io.BytesIO()
    sound = programme(1, 3.0, SENT)
    soundfile.write(written, sound, SENT, format="MP3", bitrate_mode="CONSTANT", compression_level=0.8)
    found = list(transmitter.frames(written.getvalue()))
    assert {rate for _, rate in found} == {SENT}
    assert len(found) * transmitter.FRAME / SENT == pytest.approx(3.0, abs=0.1)
    assert sum(len(frame) for frame, _ in found) == pytest.approx(len(written.getvalue()), rel=0.02)


def test_the_ways_to_read_history_come_to_the_same(yard: Yard) -> None:
    """Each way goes through all that is archived, and what is altered is noticed by the one that verifies."""
    settings = yard.settings
    replay.fill(settings, [300])
    lane = replay.lane_of(300)
    for way in ("read", "verify", "fold", "past"):
        assert replay.WORK[way](settings, lane) == 300
    assert replay.looked_back(settings, 300, 4)["longest"] < 20
    with yard.engine.begin() as connection:
        connection.execute(text("UPDATE archive SET raw = set_byte(raw, 40, 35) WHERE seq = 200"))
    with pytest.raises(Wrong, match="event 200"):
        replay.WORK["verify"](settings, lane)
