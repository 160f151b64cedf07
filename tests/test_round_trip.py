"""The whole way round, on a whole station: CLI or page → Redis → ingest → log → Postgres → page and CLI."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest
import soundfile
import sqlalchemy

from control.station import instance
from control.station.folder import Folder
from projections.database import open_engine
from projections.projection import ALL, fold_all
from projections.store import load_rows
from streams import audit
from streams.connection import Link, connect
from streams.messages import Command, Logged, canonical, new_command
from streams.names import LaneKeys, StationKeys, node_lane
from streams.replay import replay, stored
from streams.settings import Settings, load
from streams.signing import load_key
from streams.submit import Signed, Submitter, signed
from tests.fix_browser import Visit
from tests.fix_servers import eventually
from tests.fix_station import nothing_left

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
LANE = node_lane("local")
TOCSIN = (sys.executable, "-m", "control.composition")


class Whole:
    """A station started as an operator starts it, and what a test does with it."""

    def __init__(self, path: Path) -> None:
        self.folder = Folder(path)
        self.output = path.parent / "up.output"
        self.up: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.output.open("ab") as output:
            self.up = subprocess.Popen(
                [*TOCSIN, "up", "--demo", "--station", str(self.folder.path)],
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        eventually(lambda: "Ready after" in self.output.read_text(), f"ready; {self.output}", 60)
        eventually(lambda: self.source("demo").get("state") == "running", "the demo runs", 30)

    def tocsin(self, *words: str, timeout: float = 40) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "TOCSIN_STATION": str(self.folder.path)}
        return subprocess.run([*TOCSIN, *words], env=env, capture_output=True, text=True, timeout=timeout)

    def json(self, *words: str) -> Any:
        ran = self.tocsin(*words, "--json")
        assert ran.returncode == 0, ran.stderr
        return json.loads(ran.stdout)

    def source(self, id: str) -> dict[str, Any]:
        ran = self.tocsin("source", "show", id, "--json")
        return json.loads(ran.stdout)["source"] if ran.returncode == 0 else {}

    @property
    def settings(self) -> Settings:
        return load(self.folder.path / "station.toml")

    @property
    def lane(self) -> LaneKeys:
        return StationKeys(self.settings.station.id).lane(LANE)

    def child(self, name: str) -> int:
        running = instance.read(self.folder)
        assert running is not None
        return running.children[name].pid

    def log(self) -> list[Logged]:
        with self.link() as link:
            return list(replay(link, self.lane))

    def verdict(self) -> audit.Verdict:
        with self.link() as link:
            return audit.verify(LANE, stored(link, self.lane))

    def link(self) -> Any:
        return closing(connect(self.settings.redis, "test"))

    def results(self, id: str) -> list[Logged]:
        """What the log says became of a command."""
        return [
            one for one in self.log() if one.event.command == id and one.event.type.startswith("command.")
        ]

    def command(self, **changed: Any) -> Command:
        wanted = {"station": self.settings.station.id, "lane": LANE, "source": "demo", "params": {}}
        return new_command(**{**wanted, "type": "source.stop", "key": "operator", **changed})

    def stop(self) -> None:
        if self.up is not None and self.up.poll() is None:
            self.up.send_signal(signal.SIGINT)
            self.up.wait(40)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    """A whole station with the demo source, kept for this file's tests."""
    station = Whole(tmp_path_factory.mktemp("whole") / "station")
    station.start()
    yield station
    station.stop()


@pytest.fixture
def demo(whole: Whole) -> Whole:
    """The station with its demo source running."""
    assert whole.tocsin("source", "start", "demo").returncode == 0
    return whole


@pytest.fixture(scope="module")
def sine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of a 1 kHz sine at half of full scale, in stereo."""
    path = tmp_path_factory.mktemp("audio") / "sine.wav"
    wave = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(96_000) / 48_000)
    soundfile.write(path, np.stack([wave, wave], axis=1), 48_000)
    return path


def test_through_the_command_line(whole: Whole, sine: Path) -> None:
    """A recording added and started by the CLI shows its true levels, and its log is kept."""
    # Given a source added and started,
    added = whole.tocsin("source", "add", "tone", "--file", str(sine), "--loop", "--start", "--json")
    assert added.returncode == 0, added.stderr
    told = json.loads(added.stdout)["command"]
    assert (told["outcome"], told["state"]) == ("completed", "running")

    # I expect its levels on the way through telemetry and snapshot: −9.03 dBFS RMS, −6.02 peak.
    def levels() -> tuple[float, float]:
        level = whole.source("tone").get("level") or {"rms_dbfs": 0, "peak_dbfs": 0}
        return round(level["rms_dbfs"], 1), round(level["peak_dbfs"], 1)

    eventually(lambda: levels() == (-9.0, -6.0), "the sine's levels")
    shown = whole.source("tone")
    assert (shown["rate"], shown["channels"], shown["state"]) == (48_000, 2, "running")

    # the command with its outcome in Postgres,
    kept = whole.json("command", "show", told["id"])["command"]
    assert (kept["outcome"], kept["type"], kept["key"]) == ("completed", "source.start", "operator")

    # and its events, in order, in a log that verifies.
    events = [one["type"] for one in whole.json("event", "list", "--source", "tone")["events"]]
    assert events == [
        "source.added",
        "command.completed",
        "source.starting",
        "source.running",
        "command.completed",
    ]
    assert whole.tocsin("audit", "verify").returncode == 0

    # When it is removed, it is gone from everywhere.
    assert whole.tocsin("source", "remove", "tone").returncode == 0
    eventually(lambda: whole.source("tone") == {}, "the source is gone")


def test_through_the_page(demo: Whole, visit: Visit) -> None:
    """When I press Stop on the page, the source stops, and page, log and CLI say so; the same with Start."""
    link = demo.tocsin("dashboard").stdout.strip()
    page: Page = visit.page
    page.goto(link)
    tile = page.locator(".tile[data-source='demo']")
    tile.get_by_text("running").first.wait_for()
    before = len(demo.log())

    tile.get_by_role("button", name=re.compile("^Stop")).click()
    tile.get_by_text("stopped").first.wait_for()
    page.locator("#outcome, [aria-live]").get_by_text("completed").first.wait_for()
    assert demo.source("demo")["state"] == "stopped"
    types = [one.event.type for one in demo.log()[before:]]
    assert types == ["source.stopped", "command.completed"]

    tile.get_by_role("button", name=re.compile("^Start")).click()
    tile.get_by_text("running").first.wait_for()
    assert demo.source("demo")["state"] == "running"
    assert visit.errors == []


def test_unsigned_and_altered_commands_have_no_effect(demo: Whole) -> None:
    """An unsigned and an altered stop are rejected with their reasons, logged, and the source runs on."""
    settings = demo.settings
    key = load_key(Path(settings.keys.directory), "operator")
    stop = demo.command()
    bare = Signed(stop, canonical(stop), "")
    restart = signed(demo.command(type="source.restart"), key)
    altered = Signed(
        restart.command, restart.raw.replace(b"source.restart", b"source.remove"), restart.signature
    )
    with demo.link() as link:
        submitter = Submitter(settings, link)
        assert submitter.submit(bare).reason == "unsigned"
        assert submitter.submit(altered).reason == "bad_signature"
    for sent in (bare, altered):
        assert [one.event.type for one in demo.results(sent.command.id)] == ["command.rejected"]
    assert demo.source("demo")["state"] == "running"


def test_the_worker_killed_in_the_middle(demo: Whole) -> None:
    """A command submitted while the ingest process lies dead has one result once it is back, and is done."""
    # Given an ingest process that is killed,
    os.kill(demo.child("ingest"), signal.SIGKILL)
    # when a command is submitted meanwhile,
    told = demo.tocsin("source", "stop", "demo", "--timeout", "30s", "--json")
    # I expect its outcome from the process that the supervisor started again, and just one.
    assert told.returncode == 0, told.stderr
    command = json.loads(told.stdout)["command"]
    assert (command["outcome"], command["state"]) == ("completed", "stopped")
    assert len(demo.results(command["id"])) == 1
    assert demo.verdict().fault is None


def test_the_primary_killed_in_the_middle(demo: Whole) -> None:
    """What was confirmed before the primary was killed is there afterwards; the next command works."""
    # Given a confirmed command,
    confirmed = demo.json("source", "stop", "demo")["command"]
    with demo.link() as link:
        link.call("PING")
        assert isinstance(link, Link)
        lost = link.address
    running = instance.read(demo.folder)
    assert running is not None
    assert lost is not None
    name = next(name for name, child in running.children.items() if child.port == lost.port)
    # when the primary is killed,
    os.kill(running.children[name].pid, signal.SIGKILL)
    # I expect the next command to be confirmed by itself, once a replica was promoted,
    nxt = demo.tocsin("source", "start", "demo", "--timeout", "30s", "--json")
    assert nxt.returncode == 0, nxt.stderr
    # at another primary, with exactly one result of each in a log that verifies.
    with demo.link() as link:
        link.call("PING")
        assert link.address != lost
    for id in (confirmed["id"], json.loads(nxt.stdout)["command"]["id"]):
        assert len(demo.results(id)) == 1
    assert demo.verdict().fault is None

    # And the dead one is back as a replica before the next test.
    def attached() -> bool:
        with demo.link() as link:
            return b"connected_slaves:2" in link.call("INFO", "replication")

    eventually(attached, "both replicas are attached again", 40)


def test_folds_equal_replay(demo: Whole) -> None:
    """The rows in Postgres are those that a fresh fold of the whole log gives."""
    demo.tocsin("source", "restart", "demo")
    engine = open_engine(demo.settings.postgres, name="test")

    def agree() -> bool:
        events = demo.log()
        with engine.connect() as connection:
            return all(
                load_rows(connection, one, LANE, ids := set(fold_all(one, {}, events)))
                == {id: row for id, row in fold_all(one, {}, events).items() if row is not None and id in ids}
                for one in ALL
            )

    try:
        eventually(agree, "rows equal a fresh replay")
        with engine.connect() as connection:
            count = connection.scalar(sqlalchemy.text("select count(*) from commands"))
        results = [one for one in demo.log() if one.event.type.startswith("command.") and one.event.command]
        assert count == len({one.event.command for one in results})
    finally:
        engine.dispose()


def test_down_leaves_nothing_and_up_goes_on(whole: Whole) -> None:
    """After `down` no process and no port is left; the next `up` goes on from the data, by itself."""

    assert whole.up is not None
    me = psutil.Process(whole.up.pid)
    processes = [me, *me.children(recursive=True)]
    running = instance.read(whole.folder)
    assert running is not None
    ports = [child.port for child in running.children.values() if child.port]
    before = whole.log()
    assert whole.tocsin("down").returncode == 0
    whole.up.wait(10)
    nothing_left(processes, ports)

    whole.output.write_text("")
    whole.start()
    assert whole.log()[: len(before)] == before
    assert whole.verdict().fault is None
