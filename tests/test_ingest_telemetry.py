"""Telemetry: levels of a lane in one entry, dropped and counted where they cannot be written."""

from __future__ import annotations

import json
import math
import threading

import msgspec
import pytest
from redis.exceptions import ResponseError

from ingest.meters import stated
from ingest.telemetry import HELD, KEPT, TelemetryWriter
from streams.connection import Unreachable
from streams.messages import Level, now
from tests.fix_servers import eventually
from tests.fix_streams import Hall, Wire


def level(seconds: float, source: str = "s", rms: float = -20.0) -> Level:
    return Level(source=source, at=now(), rms_dbfs=stated(rms), peak_dbfs=stated(rms), seconds=seconds)


def entries(hall: Hall, lane: str) -> list[list[Level]]:
    """What stands in a lane's telemetry, an entry a list."""
    found = hall.link.call("XRANGE", hall.station.lane(lane).telemetry, "-", "+")
    return [msgspec.json.decode(fields[1], type=list[Level]) for _, fields in found]


@pytest.fixture
def writer(hall: Hall) -> TelemetryWriter:
    return TelemetryWriter(hall.new_link("telemetry"), hall.station)


def test_the_levels_of_a_lane_travel_together(hall: Hall, writer: TelemetryWriter) -> None:
    """What the sources of a lane measured since the last write is one entry; each lane has its own."""
    here, there = writer.lane("node.here"), writer.lane("p1")
    here.put(level(0.1, "a"))
    there.put(level(0.1, "c"))
    here.put(level(0.1, "b"))
    writer.write()
    here.put(level(0.2, "a"))
    writer.write()
    told = [[one.source for one in entry] for entry in entries(hall, "node.here")]
    assert told == [["a", "b"], ["a"]]
    assert [[one.source for one in entry] for entry in entries(hall, "p1")] == [["c"]]


def test_silence_travels_as_null(hall: Hall, writer: TelemetryWriter) -> None:
    """JSON has no infinity: digital silence is null, and whoever reads it back finds None."""
    writer.lane("p1").put(level(0.1, rms=-math.inf))
    writer.write()
    ((_, (_, raw)),) = hall.link.call("XRANGE", hall.station.lane("p1").telemetry, "-", "+")
    assert json.loads(raw)[0]["rms_dbfs"] is None
    assert entries(hall, "p1")[0][0].rms_dbfs is None


def test_the_stream_stays_small(hall: Hall, writer: TelemetryWriter) -> None:
    """However long it goes on, about ten minutes are kept."""
    lane, key = writer.lane("p1"), hall.station.lane("p1").telemetry
    for number in range(KEPT + 600):
        lane.put(level(number / 10))
        writer.write()
    assert KEPT <= hall.link.call("XLEN", key) <= KEPT + 200


def test_what_is_too_much_is_dropped_and_counted(hall: Hall, writer: TelemetryWriter) -> None:
    """Levels that nobody fetches push out the oldest; audio does not wait, and memory does not grow."""
    lane = writer.lane("p1")
    for number in range(HELD + 7):
        lane.put(level(float(number)))
    assert writer.dropped == 7
    writer.write()
    (entry,) = entries(hall, "p1")
    assert (len(entry), entry[0].seconds) == (HELD, 7.0)


def test_what_redis_refuses_is_dropped_and_counted(hall: Hall, writer: TelemetryWriter) -> None:
    """One lane's stream that is none costs that lane its levels, and no other."""
    hall.link.call("SET", hall.station.lane("p1").telemetry, "no stream")
    writer.lane("p1").put(level(0.1))
    writer.lane("p2").put(level(0.1))
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        writer.write()
    assert writer.dropped == 1
    assert len(entries(hall, "p2")) == 1


def test_it_survives_redis_away(hall: Hall, wire: Wire) -> None:
    """While Redis cannot be reached levels are dropped and counted; then they are written again."""
    writer = TelemetryWriter(hall.new_link("telemetry", wire.redis), hall.station)
    lane = writer.lane("p1")
    stop = threading.Event()
    writing = threading.Thread(target=writer.run, args=(stop,))
    writing.start()
    try:
        lane.put(level(0.1))
        eventually(lambda: len(entries(hall, "p1")) == 1, "the first level")
        wire.cut()
        lane.put(level(0.2))
        eventually(lambda: writer.dropped == 1, "a dropped level")
        wire.mend()
        lane.put(level(0.3))
        eventually(lambda: len(entries(hall, "p1")) == 2, "levels again")
        assert [entry[0].seconds for entry in entries(hall, "p1")] == [0.1, 0.3]
    finally:
        stop.set()
        writing.join(5)
    assert not writing.is_alive()


def test_nothing_to_write_is_no_write(hall: Hall, wire: Wire) -> None:
    """Without levels Redis is not spoken to, so that it may be away."""
    wire.cut()
    writer = TelemetryWriter(hall.new_link("telemetry", wire.redis), hall.station)
    writer.write()
    writer.lane("p1").put(level(0.1))
    with pytest.raises(Unreachable):
        writer.write()
