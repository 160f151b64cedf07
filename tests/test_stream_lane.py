"""A stream lives in a floating lane: whichever node owns the lane captures it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import psutil
import pytest

from ingest.ledger import sources_of
from streams.messages import Answer, Level
from streams.names import lane_for
from streams.replay import replay
from tests.fix_ingest_process import Ingest
from tests.fix_radio import Radio, tone
from tests.fix_servers import eventually

LANE = lane_for("stream", "kec83", node="local", lane_count=2)


def do(ingest: Ingest, type: str, **params: object) -> Answer:
    command = ingest.hall.command(type, "kec83", lane=LANE, params=params)
    return ingest.hall.submitter().submit(command, timeout=15)


def latest(ingest: Ingest, telemetry: str) -> float | None:
    """The latest level in a lane's telemetry."""
    entries = ingest.link.call("XREVRANGE", telemetry, "+", "-", "COUNT", 1)
    levels = msgspec.json.decode(entries[0][1][1], type=list[Level]) if entries else []
    return levels[-1].rms_dbfs if levels else None


def test_another_node_takes_a_stream_over(
    ingest: Ingest, radio: Radio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its owner is killed: nothing of it is left, and the node that takes the lane over plays the stream."""
    keys = ingest.hall.station.lane(LANE)
    monkeypatch.setenv("TOCSIN_FETCH_PRIVATE", "127.0.0.1/32")
    ingest.start()
    url = radio.live("/live", tone(500, seconds=4.0), 4.0)
    bad = do(ingest, "source.add", settings={"kind": "stream", "url": "ftp://radio.example/"})
    assert (bad.outcome, bad.field) == ("rejected", "params.settings.url")
    assert "'ftp://radio.example/' has the scheme 'ftp'" in str(bad.detail)
    settings = {"kind": "stream", "url": url, "rate": 16_000, "channel": "mix"}
    assert do(ingest, "source.add", settings=settings).outcome == "completed"
    started = do(ingest, "source.start")
    assert (started.outcome, started.state) == ("completed", "running")
    children = psutil.Process(ingest.running.pid).children(recursive=True)
    assert len(children) == 2

    other_folder = tmp_path / "other"
    other_folder.mkdir()
    (other_folder / "keys").symlink_to(tmp_path / "keys")
    monkeypatch.setenv("TOCSIN_INGEST_NODE", "other")
    other = Ingest(ingest.hall, other_folder)
    other.launch()
    ingest.kill()
    try:
        eventually(lambda: not any(map(psutil.pid_exists, [c.pid for c in children])), "its decoders' end")

        def plays() -> bool:
            last = [logged.event for logged in replay(ingest.link, keys)][-1]
            return (last.node, last.type, last.data.get("rate")) == ("other", "source.running", 16_000)

        eventually(plays, "the other node to play it")
        assert sources_of(replay(ingest.link, keys))["kec83"].state == "running"
        eventually(lambda: latest(ingest, keys.telemetry) == pytest.approx(-9, abs=1), "its level")
    finally:
        other.close()
