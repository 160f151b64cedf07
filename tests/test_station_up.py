"""The local station as a whole: it starts, heals, and goes without a trace, but for its data."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import psycopg
import pytest

from control.station import instance
from control.station.folder import SERVERS, Folder
from control.station.rooms import ROOMS
from control.station.sentinel import SENTINELS, sees_all
from control.station.up import down
from streams.access import ROLES
from streams.settings import load
from tests.fix_servers import eventually
from tests.fix_station import ROOT, RUN, STAND_IN, Station, nothing_left

MakeStation = Callable[..., Station]
EVERY_CHILD = {*SERVERS, *SENTINELS, "postgres", *ROOMS}


def wait_for_new_pid(station: Station, name: str, former: int) -> None:
    eventually(lambda: station.pid(name) not in (0, former), f"{name} started again")


def kill(station: Station, name: str) -> int:
    """SIGKILL the named child and return the pid it had."""
    pid = station.pid(name)
    os.kill(pid, signal.SIGKILL)
    return pid


def test_starts_everything_and_says_where(station: Station) -> None:
    """Within ten seconds all servers and rooms run, and the operator reads where the dashboard is."""
    assert station.seconds < 10
    assert set(station.state.children) == EVERY_CHILD
    assert station.state.web in station.said
    assert str(station.folder.path) in station.said
    settings = load(station.folder.settings, {})
    assert settings.web.port == station.port("web")
    assert settings.durability == "replica"
    station.wait_until_whole()


def test_is_ready_once_the_rooms_have_found_their_servers(station_in: MakeStation, tmp_path: Path) -> None:
    """They are asked after the servers have started: earlier questions would only open their breakers."""
    one = station_in(tmp_path / "one")
    one.folder.path.mkdir()
    away = one.folder.path / "away"
    away.touch()
    one.start(wait=False)
    asked = one.folder.path / "asked"
    eventually(lambda: asked.exists() and len(asked.read_text().split()) > 3, "the web room asked", 30)
    assert "Ready after" not in one.said
    away.unlink()
    one.wait_until_ready()
    assert set(asked.read_text().split()) == {"ready"}


def test_keeps_its_secrets_to_itself(station: Station) -> None:
    """Passwords and keys lie in 0700 folders in 0600 files, and stand on no command line."""
    secrets = list(station.folder.secrets.iterdir())
    assert {path.name for path in secrets} == {
        *(f"redis-{role}.password" for role in ROLES),
        "postgres.password",
        "web.token",
    }
    for path in (*secrets, *station.folder.keys.iterdir()):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    words = " ".join(" ".join(one.cmdline()) for one in station.family())
    for path in secrets:
        assert path.read_text().strip() not in words


def test_a_second_start_in_the_same_folder_is_refused(station: Station, station_in: MakeStation) -> None:
    """Another `up` on a folder in use says so, and harms nothing."""
    pids = {name: station.pid(name) for name in EVERY_CHILD}
    other = station_in(station.folder.path)
    other._output = other._output.with_suffix(".second")
    other.start(wait=False)
    assert other.process.wait(20) == 1
    assert "AlreadyRunning" in other.said
    assert f"pid {station.process.pid}" in other.said
    assert {name: station.pid(name) for name in EVERY_CHILD} == pids


def test_a_killed_room_is_started_again(station: Station) -> None:
    """A python child that dies is seen, said and started again."""
    former = kill(station, "ingest")
    wait_for_new_pid(station, "ingest", former)
    assert "ingest ended (killed by SIGKILL)" in station.said
    eventually(lambda: "ingest was started again" in station.said, "the word of it")


def test_a_killed_postgres_is_started_again(station: Station) -> None:
    """A killed PostgreSQL comes back on the same port with its data."""
    password = station.folder.secret("postgres.password")
    url = load(station.folder.settings, {}).postgres.url
    with psycopg.connect(url, password=password, autocommit=True) as connection:
        connection.execute("CREATE TABLE kept (value int)")
        connection.execute("INSERT INTO kept VALUES (7)")
    former = kill(station, "postgres")
    wait_for_new_pid(station, "postgres", former)

    def there() -> bool:
        try:
            with psycopg.connect(url, password=password) as connection:
                return connection.execute("SELECT value FROM kept").fetchall() == [(7,)]
        except psycopg.OperationalError:
            return False

    eventually(there, "the row in the PostgreSQL that was started again")


def test_a_killed_sentinel_is_started_again_with_what_it_knew(station: Station) -> None:
    """A killed Sentinel comes back as itself and names the primary."""
    own_id = station.ask("sentinel-2", "SENTINEL", "MYID")
    former = kill(station, "sentinel-2")
    wait_for_new_pid(station, "sentinel-2", former)

    def itself() -> bool:
        try:
            return station.ask("sentinel-2", "SENTINEL", "MYID") == own_id
        except Exception:
            return False

    eventually(itself, "the same Sentinel")
    station.wait_until_whole()


def test_a_killed_replica_comes_back_in_sync(station: Station) -> None:
    """A killed replica is started as a replica of the named primary and follows it again."""
    station.wait_until_whole()
    replica = next(name for name in SERVERS if name != station.named())
    former = kill(station, replica)
    wait_for_new_pid(station, replica, former)
    station.wait_until_whole()


def test_a_killed_primary_comes_back_as_a_replica(station: Station) -> None:
    """A killed primary waits for the failover, then follows the new one; no write is lost."""
    station.wait_until_whole()
    old = station.named()
    assert old is not None
    station.ask(old, "SET", "written", "before")
    assert station.ask(old, "WAIT", 2, 2000) == 2
    former = kill(station, old)
    wait_for_new_pid(station, old, former)
    new = station.named()
    assert new not in (None, old)
    station.wait_until_whole()
    assert station.named() == new
    assert station.ask(old, "GET", "written") == "before"
    assert f"{new} leads now, {old} did before" in station.said


@pytest.mark.slow
def test_a_primary_that_hung_may_not_be_promoted_until_it_follows(station: Station) -> None:
    """A server that wakes up calling itself primary gets replica-priority 0 until its new link is up."""
    station.wait_until_whole()
    old = station.named()
    assert old is not None
    os.kill(station.pid(old), signal.SIGSTOP)
    try:
        eventually(lambda: station.named() not in (None, old), "another primary")
    finally:
        os.kill(station.pid(old), signal.SIGCONT)

    def hidden() -> bool:
        said = station.standing(old)
        return said is not None and said.role == "master" and said.priority == 0

    eventually(hidden, "the old primary hidden while it calls itself primary", 10)
    station.wait_until_whole()
    said = station.standing(old)
    assert said is not None
    assert said.role == "slave"


def test_a_planned_switch_over_needs_no_more_rights(station: Station) -> None:
    """`SENTINEL FAILOVER … COORDINATED` works with the Sentinels' own user, and nothing is refused to it."""
    station.wait_until_whole()
    old = station.named()
    # One that knows no other Sentinel yet is elected by nobody.
    eventually(
        lambda: all(sees_all(station.port(one), station.login, replicas=2, sentinels=2) for one in SENTINELS),
        "Sentinels that know one another",
    )
    station.ask("sentinel-1", "SENTINEL", "FAILOVER", "tocsin", "COORDINATED")
    eventually(lambda: station.named() not in (None, old), "another primary")
    station.wait_until_whole()
    for name in (*SERVERS, *SENTINELS):
        log = station.ask(name, "ACL", "LOG")
        assert isinstance(log, list)
        refused = [dict(zip(entry[::2], entry[1::2], strict=True)) for entry in log]
        servers_own = ("station-sentinel", "station-replica")
        assert [one for one in refused if one["username"] in servers_own] == []


def test_all_redis_servers_killed_at_once_come_back_with_their_data(station: Station) -> None:
    """With no server left to promote, the one whose lanes are furthest is started first, as primary."""
    station.wait_until_whole()
    named = station.named()
    assert named is not None
    station.ask(named, "HSET", "tocsin:station:{p0}:head", "seq", "41")
    assert station.ask(named, "WAIT", 2, 2000) == 2
    former = {name: kill(station, name) for name in (*SERVERS, *SENTINELS)}
    for name, pid in former.items():
        wait_for_new_pid(station, name, pid)
    station.wait_until_whole()
    assert station.ask(station.named() or "", "HGET", "tocsin:station:{p0}:head", "seq") == "41"


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_stops_in_order_and_leaves_only_data(
    station_in: MakeStation, tmp_path: Path, sign: signal.Signals
) -> None:
    """Ctrl-C and SIGTERM end everything: no process, no port, and a PostgreSQL that was shut down cleanly."""
    one = station_in(tmp_path / "one")
    one.start()
    family, ports = one.family(), one.ports()
    assert len(family) > len(EVERY_CHILD)
    assert one.stop(sign) == 0
    nothing_left(family, ports, timeout=2)
    assert not one.folder.state.exists()
    assert one.said.endswith("Stopped. The data are kept.\n")
    assert "database system is shut down" in one.folder.log("postgres").read_text()


def test_goes_on_from_its_data(station_in: MakeStation, tmp_path: Path) -> None:
    """After `down` and `up` the data, the ports and the operator's own settings are as before."""
    one = station_in(tmp_path / "one")
    one.start()
    primary = one.named()
    assert primary is not None
    one.ask(primary, "HSET", "tocsin:station:{p1}:head", "seq", "5")
    assert one.ask(primary, "WAIT", 2, 2000) == 2
    edited = one.folder.settings.read_text().replace('level = "info"', 'level = "debug"  # for now')
    one.folder.settings.write_text(edited)
    ports = one.ports()
    assert down(one.folder.path)
    assert one.process.wait(1) == 0
    assert not down(one.folder.path)

    one.start()
    assert one.seconds < 10
    assert one.ports() == ports
    assert one.folder.settings.read_text() == edited
    assert one.ask(one.named() or "", "HGET", "tocsin:station:{p1}:head", "seq") == "5"


def test_at_a_start_the_furthest_leads_though_another_led_last(
    station_in: MakeStation, tmp_path: Path
) -> None:
    """The last primary's disk has less than its replicas': another leads, and what they have stays."""
    station = station_in(tmp_path / "station")
    station.start()
    last, head = station.named(), "tocsin:station:{p0}:head"
    assert last is not None

    def on_disk() -> int:
        """How long its log of writes is once all is written."""
        eventually(
            lambda: "aof_pending_bio_fsync:0" in str(station.ask(last, "INFO", "persistence")), "on disk"
        )
        return aof.stat().st_size

    (aof,) = (station.folder.server(last) / "appendonlydir").glob("*.incr.aof")
    station.ask(last, "HSET", head, "seq", 11)
    short = on_disk()
    station.ask(last, "HSET", head, "seq", 12)
    for name in SERVERS:
        eventually(lambda name=name: station.ask(name, "HGET", head, "seq") == "12", f"{name} has it")  # type: ignore[misc]
    on_disk()
    assert station.stop() == 0
    os.truncate(aof, short)
    station.start()
    station.wait_until_whole()
    assert station.named() != last
    assert [station.ask(name, "HGET", head, "seq") for name in SERVERS] == ["12"] * 3


def test_two_stations_run_side_by_side(station_in: MakeStation, tmp_path: Path) -> None:
    """Stations in two folders share nothing; one goes and the other stays."""
    one, two = station_in(tmp_path / "one"), station_in(tmp_path / "two")
    one.start(wait=False)
    two.start(wait=False)
    one.wait_until_ready()
    two.wait_until_ready()
    assert not set(one.ports()) & set(two.ports())
    assert one.folder.secret("redis-admin.password") != two.folder.secret("redis-admin.password")
    assert down(one.folder.path)
    assert two.is_whole()


def test_a_killed_supervisor_leaves_nothing_and_no_obstacle(station_in: MakeStation, tmp_path: Path) -> None:
    """After SIGKILL of `up` all its processes end, grandchildren too, and the next `up` just works."""
    one = station_in(tmp_path / "one")
    one.folder.path.mkdir()
    (one.folder.path / "ingest.parent").touch()
    (one.folder.path / "projections.stubborn").touch()
    one.start()
    family, ports = one.family(), one.ports()
    one.stop(signal.SIGKILL)
    (one.folder.path / "projections.stubborn").unlink()
    # The next start waits for the last one's processes; nothing is started on data still in use.
    one.start(wait=False)
    nothing_left(family[1:], [], timeout=10)
    one.wait_until_ready()
    assert one.ports() == ports


def test_what_a_killed_station_and_its_warden_left_is_ended_by_the_next(
    station_in: MakeStation, tmp_path: Path
) -> None:
    """Where even the warden was killed, the next `up` ends the processes that still run, and says so."""
    one = station_in(tmp_path / "one")
    one.start()
    family = one.family()
    (warden,) = [process for process in family if "warden.py" in " ".join(process.cmdline())]
    one.process.send_signal(signal.SIGSTOP)  # so that it starts no other warden
    warden.kill()
    one.stop(signal.SIGKILL)
    assert [process for process in family if process.is_running()]
    one.start()
    assert "redis-1 of an earlier station still ran and was ended" in one.said
    nothing_left(family, [], timeout=2)


def test_a_second_ctrl_c_hurries(station_in: MakeStation, tmp_path: Path) -> None:
    """A child that ignores SIGTERM holds the end up, until Ctrl-C is pressed again."""
    one = station_in(tmp_path / "one")
    one.folder.path.mkdir()
    (one.folder.path / "ingest.stubborn").touch()
    one.start()
    family, ports = one.family(), one.ports()
    one.process.send_signal(signal.SIGINT)
    eventually(lambda: not psutil.pid_exists(one.pid("web")), "the willing child gone")
    assert psutil.pid_exists(one.pid("ingest"))
    began = time.monotonic()
    assert one.stop(signal.SIGINT) == 0
    assert time.monotonic() - began < 5
    nothing_left(family, ports, timeout=2)


def test_a_port_taken_meanwhile_makes_it_choose_others(tmp_path: Path) -> None:
    """A child whose port was taken between choice and start is no failure: other ports are tried."""
    script = tmp_path / "taken.py"
    script.write_text(
        RUN.replace(
            "def stand_in(room):",
            "import socket\n"
            "from streams.settings import load\n"
            "thieves = []\n"
            "def steal(folder):\n"
            "    if not thieves:\n"
            "        thieves.append(socket.create_server(('127.0.0.1', load(folder.settings).web.port)))\n"
            "def stand_in(room):\n"
            "    if room == 'web':\n"
            "        return lambda f: steal(f) or (sys.executable, sys.argv[2], room, str(f.path))",
        )
    )
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    output = tmp_path / "output"
    with output.open("wb") as file:
        process = subprocess.Popen(
            (sys.executable, str(script), str(tmp_path / "one"), str(tmp_path / "stand_in.py")),
            stdout=file,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    try:
        eventually(lambda: "Ready after" in output.read_text(), "a ready station", 30)
        assert "web did not start: its port was taken meanwhile" in output.read_text()
    finally:
        process.terminate()
        assert process.wait(30) == 0


def test_an_operator_who_looks_away_ends_nothing(tmp_path: Path) -> None:
    """When nobody reads its words any more, the station runs on, heals, and stops in order."""
    for name, text in (("run.py", RUN), ("stand_in.py", STAND_IN)):
        (tmp_path / name).write_text(text)
    home = Folder(tmp_path / "one")
    with subprocess.Popen(
        (sys.executable, str(tmp_path / "run.py"), str(home.path), str(tmp_path / "stand_in.py")),
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:
        assert process.stdout is not None
        while b"Ready after" not in process.stdout.readline():
            pass
        process.stdout.close()
        running = instance.read(home)
        assert running is not None
        former = running.children["ingest"].pid
        os.kill(former, signal.SIGKILL)

        def healed() -> bool:
            now = instance.read(home)
            return now is not None and "ingest" in now.children and now.children["ingest"].pid != former

        eventually(healed, "ingest started again")
        process.terminate()
        process.wait(30)
    assert not home.state.exists()
    assert "database system is shut down" in home.log("postgres").read_text()


AS_NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
AS_NOBODY_IN_A_NAMESPACE = ("unshare", "--user", "--map-user=65534", "--map-group=65534")
# It is asked to start a second one, as `up` does: setpriv alone does not show that it may.
RUNS_ITSELF = """
import os, subprocess, sys, control.station.up
again = subprocess.run([sys.executable, "-c", "import control.station.up"])
sys.exit(again.returncode or os.geteuid() != 65534)
"""


def ordinary_user() -> Sequence[str]:
    """The words before a command that make it run as another than root; skips the test without them."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    for prefix in (AS_NOBODY, AS_NOBODY_IN_A_NAMESPACE):
        argv = (*prefix, sys.executable, "-c", RUNS_ITSELF)
        if subprocess.run(argv, capture_output=True, env=env, cwd="/").returncode == 0:
            return prefix
    pytest.skip("real part missing: a Python that an ordinary user can run")


def test_an_ordinary_user_can_run_it(station_in: MakeStation) -> None:
    """Without root all the same happens, in a folder of one's own."""
    if os.geteuid() != 0:
        pytest.skip("every other test here runs as an ordinary user already")
    prefix = ordinary_user()
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        if prefix is AS_NOBODY:
            os.chown(base, 65534, 65534)
        one = station_in(base / "one", prefix=prefix)
        one.start()
        one.wait_until_whole()
        family, ports = one.family(), one.ports()
        assert one.stop() == 0
        nothing_left(family, ports, timeout=2)


def test_root_adds_no_user_and_changes_no_mode_outside(station_in: MakeStation, tmp_path: Path) -> None:
    """As root too, the folders above keep their modes and /etc/passwd stays as it is."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    watched = [closed, *closed.parents]
    before = [(path, path.stat().st_mode, path.stat().st_uid) for path in watched]
    accounts = Path("/etc/passwd").read_bytes()
    one = station_in(closed / "one")
    one.start()
    assert one.stop() == 0
    assert [(path, path.stat().st_mode, path.stat().st_uid) for path in watched] == before
    assert Path("/etc/passwd").read_bytes() == accounts
    assert instance.read(one.folder) is None
