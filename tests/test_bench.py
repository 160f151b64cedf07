"""What the benches rest on: figures of a log that is not whole are worth nothing."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import pytest
import soundfile
from sqlalchemy import text

from bench import replay, transmitter
from bench.ingest import SENT, programme
from bench.ledger import Wrong, sound
from bench.roundtrip import audit
from tests.fix_owner import answer_of
from tests.fix_projections import Yard
from tests.fix_streams import LANE, Hall, Scripted, working


def test_a_bench_fails_where_the_end_of_the_log_is_cut_off(hall: Hall) -> None:
    """What is left verifies; only by the lane's head is it noticed that the last event is missing."""
    with working(hall, Scripted()):
        answer_of(hall, hall.command())
    stage: Any = SimpleNamespace(link=hall.new_link, keys=hall.station, lanes=[LANE])
    assert sound(hall.link, hall.keys, LANE) == 3
    assert audit(stage, {LANE: 0}, 1) == []
    (last,) = hall.link.call("XREVRANGE", hall.keys.events, "+", "-", "COUNT", 1)
    hall.link.call("XDEL", hall.keys.events, last[0])
    with pytest.raises(Wrong, match="missing"):
        sound(hall.link, hall.keys, LANE)
    (fault,) = audit(stage, {LANE: 0}, 1)
    assert "missing" in fault


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
