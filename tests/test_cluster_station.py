"""A whole station on a Redis Cluster: its real processes, told what to do at a prompt."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile

from control.station.folder import Folder, with_value
from control.station.ports import free_port
from streams.names import StationKeys
from streams.settings import PostgresSection, RedisSection, load
from tests.fix_cli import Terminal, made_folder
from tests.fix_cluster import Cluster
from tests.fix_servers import eventually

pytestmark = pytest.mark.slow
ROOMS = ("ingest", "control", "projections", "web")


@pytest.fixture
def station(cluster: Cluster, postgres: PostgresSection, tmp_path: Path) -> Iterator[Terminal]:
    """The four processes of a station whose Redis is the cluster, and a prompt; they end in order."""
    folder = made_folder(tmp_path / "station", RedisSection(), postgres.url, free_port())
    text = folder.settings.read_text("utf-8")
    text = with_value(text, "redis", "cluster", str(list(cluster.redis.cluster)).replace("'", '"'))
    text = with_value(text, "redis", "replicas", "1")
    text = with_value(text, "station", "lanes", "3")
    folder.settings.write_text(with_value(text, "station", "id", '"spread"'), "utf-8")
    with ExitStack() as stack:
        processes = [stack.enter_context(running(folder, room)) for room in ROOMS]
        log = folder.logs / "ingest.log"
        eventually(lambda: log.read_text("utf-8").count("lane acquired") == 1 + 3, "the lanes have owners")
        yield Terminal(folder.path)
        for process in processes:
            process.send_signal(signal.SIGTERM)
        codes = {room: process.wait(15) for room, process in zip(ROOMS, processes, strict=True)}
        assert codes == dict.fromkeys(ROOMS, 0)


def running(folder: Folder, room: str) -> subprocess.Popen[bytes]:
    """A process of the station; leaving its block waits for its end."""
    command = [sys.executable, "-m", "control.composition", "run", room, "--station", str(folder.path)]
    with (folder.logs / f"{room}.log").open("ab") as log:
        return subprocess.Popen(command, env=dict(os.environ), stdout=log, stderr=log)


def test_a_station_works_on_a_cluster(station: Terminal, cluster: Cluster, tmp_path: Path) -> None:
    """What is added and started at the prompt runs and is shown, also after its shard has failed over."""
    settings = load(Folder(station.folder).settings)
    keys = StationKeys(settings.station.id)
    page = f"http://127.0.0.1:{settings.web.port}/api/audio/sources"
    wave = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(48_000) / 48_000)
    soundfile.write(tmp_path / "tone.wav", wave, 48_000)

    def shown() -> dict[str, Any]:
        """What the page reads of the source, where that is as it is now."""
        try:
            told = httpx.get(page, timeout=10, trust_env=False).json()
        except httpx.TransportError:
            return {}  # it does not serve yet
        return {} if told["stale"] else next((one for one in told["data"] if one["id"] == "tone"), {})

    # Given a source added and started by the real processes,
    add = ("source", "add", "tone", "--file", str(tmp_path / "tone.wav"), "--loop", "--start")
    assert station(*add).code == 0
    # I expect its levels on the way through telemetry and snapshots, which lie with other primaries.
    eventually(lambda: shown().get("level"), "the levels of the source", 20)
    assert shown()["state"] == "running"

    # When the primary of its lane is lost, and comes back as its supervisor does it,
    key = keys.lane("node.local").head
    old = cluster.primary_of(key)
    cluster.kill(old)
    new = cluster.wait_for_other_primary(key, old)
    cluster.restart(old)
    # I expect the next command to be confirmed by itself, at another server, and shown;
    assert station("source", "stop", "tone", "--timeout", "30s").code == 0
    assert cluster.primary_of(key) == new != old
    eventually(lambda: shown().get("state") == "stopped", "the source is shown as stopped", 30)
    # the log to verify, and the doctor to find each primary well.
    assert station("audit", "verify").code == 0
    cluster.wait_until_whole()
    told = station("doctor", "--json")
    findings = {(one["part"], one["verdict"]) for one in told.json["doctor"]["findings"]}
    assert {("redis", "ok"), ("cluster", "ok"), ("replicas", "ok"), ("functions", "ok")} <= findings
    assert not [one for one in findings if one[1] == "trouble"], told.out
