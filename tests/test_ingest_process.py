"""The ingest process beside others: started before its servers, twice, and ended by whatever signal."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from control.station.ports import free_port
from tests.fix_ingest_process import NODE_LANE, Ingest
from tests.fix_servers import eventually
from tests.fix_streams import Hall

Record = Callable[..., Path]


@pytest.fixture
def second(hall: Hall, tmp_path: Path) -> Iterator[Ingest]:
    """Another process of the same node."""
    folder = tmp_path / "second"
    folder.mkdir()
    (folder / "keys").symlink_to(tmp_path / "keys")
    made = Ingest(hall, folder)
    yield made
    made.close()


def test_started_before_redis(ingest: Ingest, tmp_path: Path) -> None:
    """A process that starts first waits for Redis, says so once, and can be ended meanwhile."""
    settings = tmp_path / "station.toml"
    url = ingest.hall.settings.redis.url
    settings.write_text(settings.read_text().replace(url, f"redis://127.0.0.1:{free_port()}/0"))
    process = ingest.launch()
    eventually(lambda: "waiting for Redis" in ingest.said, "a word about Redis")
    time.sleep(2)  # some attempts
    assert ingest.said.count("waiting for Redis") == 1
    assert process.poll() is None
    assert ingest.end() < 3.0


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_an_orderly_end_is_no_trouble(ingest: Ingest, record: Record, sign: signal.Signals) -> None:
    """Ended by either signal while a source plays, it exits with 0 within 3 s and warns of nothing."""
    ingest.start()
    ingest.add("tone", record(1.0), loop=True)
    ingest.do("source.start", "tone")
    begun = time.monotonic()
    ingest.running.send_signal(sign)
    assert ingest.running.wait(20) == 0, ingest.said
    assert time.monotonic() - begun < 3.0
    lines = [json.loads(line) for line in ingest.said.splitlines()]
    assert {line["level"] for line in lines} == {"info"}
    assert lines[-1]["event"] == "ingest stopped"


def test_a_second_process_of_the_same_node_waits(ingest: Ingest, second: Ingest, record: Record) -> None:
    """Nothing is played or logged twice; when the first process ends, the second goes on from the log."""
    ingest.start()
    ingest.add("tone", record(1.0), loop=True)
    ingest.do("source.start", "tone")
    told = ingest.types("tone")
    second.launch()
    eventually(lambda: "ingest runs" in second.said, "the second process")
    time.sleep(4)  # longer than the time between renewals of a lease
    assert "lane acquired" not in second.said
    assert ingest.types("tone") == told
    before = len(ingest.levels("tone"))
    time.sleep(1)
    assert len(ingest.levels("tone")) - before < 14
    ingest.end()
    eventually(lambda: ingest.types("tone")[-2:] == ["source.starting", "source.running"], "the second plays")
    assert second.do("source.stop", "tone").state == "stopped"
    assert ingest.verified()


def test_its_log_names_who_and_where_and_no_secret(ingest: Ingest, record: Record) -> None:
    """Each line is a JSON object with node and station; a lane's lines name it; the password is in none."""
    ingest.start()
    ingest.add("tone", record(1.0), loop=True)
    ingest.do("source.start", "tone")
    lines = [json.loads(line) for line in ingest.said.splitlines()]
    assert {(line["node"], line["station"]) for line in lines} == {("local", ingest.hall.settings.station.id)}
    assert NODE_LANE in {line.get("lane") for line in lines}
    assert ingest.hall.settings.redis.password not in ingest.said
