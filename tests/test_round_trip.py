"""The whole way round, on a whole station: CLI or page → Redis → ingest → log → Postgres → page and CLI."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import httpx
import numpy as np
import psutil
import pytest
import soundfile
import sqlalchemy

from control.station import instance
from control.station.ask import ask
from control.station.folder import SERVERS
from control.station.sentinel import SENTINELS
from ingest.weekly_test import write_weekly_test
from projections.database import open_engine
from projections.projection import ALL, fold_all
from projections.store import load_rows
from streams.access import ROLES
from streams.connection import Link
from streams.messages import canonical
from streams.signing import load_key
from streams.submit import Signed, Submitter, signed
from tests.fix_browser import Visit
from tests.fix_servers import eventually
from tests.fix_station import nothing_left
from tests.fix_whole import LANE, Whole

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    """A whole station with the demo source, kept for this file's tests."""
    station = Whole(tmp_path_factory.mktemp("whole") / "station")
    station.start("--demo")
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
    eventually(lambda: demo.source("demo")["state"] == "stopped", "the read model says so too")
    types = [one.event.type for one in demo.log()[before:]]
    # What its meters find, and what the demo is heard to send, may come between.
    told = [type for type in types if type.startswith(("source.", "command."))]
    assert told == ["source.stopped", "command.completed"]

    tile.get_by_role("button", name=re.compile("^Start")).click()
    tile.get_by_text("running").first.wait_for()
    # The read model follows the log: on a busy machine a moment later than the outcome.
    eventually(lambda: demo.source("demo")["state"] == "running", "the read model says so too")
    assert visit.errors == []


def test_the_weekly_test_of_the_demo_shows_on_the_page(demo: Whole, visit: Visit) -> None:
    """What the demo source sends is decoded; it is on the wall, in the station log and among the alerts."""
    link = demo.tocsin("dashboard").stdout.strip()
    page: Page = visit.page
    page.goto(link)
    page.locator(".tile[data-source='demo']").get_by_text(re.compile("^Weekly test .+ ago")).wait_for()
    page.locator("#nav a[href='/tests']").click()
    row = page.locator(".weeks table tbody tr").filter(has=page.locator("a[href='/sources/demo']"))
    row.locator("td[data-is='good']").wait_for()
    page.locator("#nav a[href='/alerts']").click()
    page.locator(".incident h2").filter(has_text="Required Weekly Test").first.wait_for()
    assert visit.errors == []
    # At the prompt it is the same.
    listed = demo.json("alert", "list", "--source", "demo", "--event", "RWT")["alerts"][0]
    shown = demo.json("alert", "show", listed["id"])["alert"]
    assert (shown["header"], shown["event_name"]) == (listed["header"], "Required Weekly Test")


def test_unsigned_and_altered_commands_have_no_effect(demo: Whole) -> None:
    """An unsigned and an altered stop are rejected with their reasons, logged, and the source runs on."""
    settings = demo.settings.as_role("submitter")
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
    # The read model follows the log: on a busy machine a moment later than the outcome.
    eventually(lambda: demo.source("demo")["state"] == "running", "the read model says so too")


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


def test_no_secret_stands_where_it_could_be_read(demo: Whole) -> None:
    """Not in arguments, environments, logs or data: only in files of mode 0600 in folders of mode 0700."""
    assert demo.tocsin("source", "restart", "demo").returncode == 0
    kept = demo.folder.secrets, demo.folder.keys
    secrets = [path.read_text().strip() for path in demo.folder.secrets.iterdir()]
    secrets.append(json.loads((demo.folder.keys / "operator.json").read_text())["secret"])
    assert len(secrets) == len(ROLES) + 3
    assert demo.up is not None
    up = psutil.Process(demo.up.pid)
    for process in (up, *up.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            told = " ".join([*process.cmdline(), *process.environ().values()])
            assert not [secret for secret in secrets if secret in told], process.cmdline()
            listening = [one for one in process.net_connections() if one.status == psutil.CONN_LISTEN]
            assert {one.laddr.ip for one in listening} <= {"127.0.0.1"}
    assert not [secret for secret in secrets if secret in demo.output.read_text()]

    holders = set()
    for path in demo.folder.path.rglob("*"):
        # The servers' own files come and go.
        with suppress(FileNotFoundError):
            if path.is_file() and path.parent not in kept and "postgres" not in path.parts:
                raw = path.read_bytes()
                if any(secret.encode() in raw for secret in secrets):
                    holders.add(path)
    # A server must know the password by which it follows, a Sentinel that by which it looks.
    assert {path.name for path in holders} == {"valkey.conf", "sentinel.conf"}
    for path in (*holders, *kept[0].iterdir(), *kept[1].iterdir()):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700, path.parent


def test_nobody_in_a_station_is_refused_anything(demo: Whole) -> None:
    """Each process and each verb has the user that its work needs, by the servers' own logs."""
    for verb in ("status", "doctor", "event list", "parked list", "source list", "audit verify"):
        ran = demo.tocsin(*verb.split(" "))
        assert ran.returncode == 0, (verb, ran.stdout, ran.stderr)
    refused = set()
    login = demo.folder.users(demo.settings.station.id).login("admin")
    running = instance.read(demo.folder)
    assert running is not None
    for name, child in running.children.items():
        if name in (*SERVERS, *SENTINELS):
            for entry in ask(child.port or 0, login, "ACL", "LOG"):
                said = dict(zip(entry[::2], entry[1::2], strict=True))
                refused.add((said["username"], said["object"]))
    # Two things are asked for, and done without: how often the disk is written to, and loading functions,
    # where a process was quicker than the station.
    assert {object for _, object in refused} <= {"config|get", "function|load"}, refused


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
            of_lane = sqlalchemy.text("select count(*) from commands where lane = :lane")
            count = connection.scalar(of_lane, {"lane": LANE})
        results = [one for one in demo.log() if one.event.type.startswith("command.") and one.event.command]
        assert count == len({one.event.command for one in results})
    finally:
        engine.dispose()


def test_a_group_is_made_followed_and_read(demo: Whole) -> None:
    """Made at the prompt, switched by the control process, and told by HTTP, in a list and by itself."""
    made = demo.tocsin("group", "create", "news", "demo", "--name", "The news")
    assert made.returncode == 0, made.stderr

    def followed() -> bool:
        # It can take a second to show at all.
        shown = demo.tocsin("group", "show", "news", "--json")
        return shown.returncode == 0 and json.loads(shown.stdout)["group"]["active"] == "demo"

    eventually(followed, "it to be followed", 20)
    (listed,) = demo.json("group", "list")["groups"]
    running = instance.read(demo.folder)
    assert running is not None
    assert httpx.get(f"{running.web}/api/audio/groups").json()["data"] == [listed]
    assert (listed["name"], listed["members"], listed["reason"]) == ("The news", ["demo"], "it is heard")
    shown = demo.tocsin("group", "list").stdout
    assert "news" in shown
    assert "news*" in demo.tocsin("source", "list").stdout
    assert demo.source("demo")["recorded"] == "alerts"
    assert demo.tocsin("group", "remove", "news").returncode == 0
    gone = demo.tocsin("group", "show", "news")
    assert (gone.returncode != 0, "the station knows no group 'news'" in gone.stderr) == (True, True)


def test_a_test_is_played_recorded_and_listened_to(demo: Whole, tmp_path: Path) -> None:
    """Injected at the prompt: an alert and a recording marked as a test, its sound by the web process."""
    path = tmp_path / "weekly.wav"
    write_weekly_test(path)
    ran = demo.tocsin("source", "inject", "demo", str(path))
    assert ran.returncode == 0, ran.stderr
    assert "heard as a test: ZCZC-WXR-RWT" in ran.stdout
    tests = lambda noun: [one for one in demo.json(noun[:-1], "list")[noun] if one["injected"]]  # noqa: E731
    eventually(lambda: tests("alerts"), "the alert", 20)
    eventually(
        lambda: tests("recordings")[:1] and tests("recordings")[0]["state"] == "finished", "its sound", 20
    )
    (found,) = tests("recordings")
    assert found["source"] == "demo"
    assert demo.json("recording", "show", found["id"])["recording"]["sha256"] == found["sha256"]
    running = instance.read(demo.folder)
    assert running is not None
    url = f"{running.web}/api/audio/recordings/{found['id']}/audio"
    sound = httpx.get(url)
    assert sound.headers["content-type"] == "audio/flac"
    assert sha256(sound.content).hexdigest() == found["sha256"]
    part = httpx.get(url, headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, sound.content[10:20])
    assert httpx.get(url.replace(found["id"], str(uuid4()))).status_code == 404


def test_meters_and_a_spectrum_are_read(demo: Whole) -> None:
    """A source has its meters in the read API; its spectrum only once somebody has asked for it."""

    def level(**asked: str) -> dict[str, Any]:
        running = instance.read(demo.folder)
        assert running is not None
        found = httpx.get(f"{running.web}/api/audio/sources/demo", params=asked).json()["data"]["level"]
        return found or {}

    eventually(lambda: level().get("meters"), "meters", 20)
    assert level()["spectrum"] is None
    assert set(level()["meters"]) >= {"true_peak_dbtp", "integrated_lufs", "flatness", "drift_ppm"}
    eventually(lambda: level(spectrum="true").get("spectrum"), "a spectrum", 20)
    assert demo.tocsin("recording", "start", "demo").returncode == 0
    eventually(
        lambda: any(one["kind"] == "continuous" for one in demo.json("recording", "list")["recordings"]),
        "a continuous recording", 20,
    )  # fmt: skip
    assert demo.tocsin("recording", "stop", "demo").returncode == 0


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
    whole.start("--demo")
    assert whole.log()[: len(before)] == before
    assert whole.verdict().fault is None
