"""A Postgres primary with a streaming standby, which a test may kill, pause and promote.

Each worker has one pair. It is mended before each test: what was killed is a standby then, copied
anew from the server that leads.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from control.station import postgres as pg
from control.station.account import account
from control.station.ports import LOOPBACK
from control.station.process import Process
from streams.settings import PostgresSection, RedisSection, Settings, StationSection
from tests.fix_projections import Yard
from tests.fix_servers import PASSWORD, eventually, on_free_port

_counter = itertools.count(1)

SETTINGS = {
    # Nothing is left in /dev/shm by a server that is killed.
    "dynamic_shared_memory_type": "mmap",
    "wal_retrieve_retry_interval": "100ms",
    "wal_keep_size": "64MB",
    "max_wal_size": "64MB",
    "min_wal_size": "32MB",
    "wal_level": "logical",  # so that somebody may also subscribe
}


class Pair:
    """Two servers, `one` and `two`: at first `one` leads and `two` follows it.

    Their processes are killed, not their machine: what a server wrote is there without fsync.
    """

    NAMES = ("one", "two")

    def __init__(self, folder: Path) -> None:
        self.leader = "one"
        self._folder = folder
        self._servers: dict[str, pg.Database] = {}
        self._running: dict[str, Process] = {}
        self._paused: dict[str, list[psutil.Process]] = {}

    @property
    def standby(self) -> str:
        """The name of the other one."""
        return next(name for name in self.NAMES if name != self.leader)

    def section(self, database: str = "tocsin", **more: Any) -> PostgresSection:
        """The settings that name both, `one` first."""
        hosts = ",".join(f"{LOOPBACK}:{self._servers[name].port}" for name in self.NAMES)
        return PostgresSection(url=f"postgresql://{pg.USER}@{hosts}/{database}", password=PASSWORD, **more)

    def ask(self, name: str, query: str, database: str = "tocsin") -> Any:
        """The first column of the first row that the named server answers; None where there is none."""
        with psycopg.connect(
            self._servers[name].url,
            dbname=database,
            password=PASSWORD,
            autocommit=True,
            connect_timeout=2,
        ) as connection:
            cursor = connection.execute(query.encode())
            row = cursor.fetchone() if cursor.description else None
            return row[0] if row else None

    def synchronous(self, names: str) -> None:
        """Have the leader's commits wait for the standbys of these names (empty: for none)."""
        self.ask(self.leader, f"ALTER SYSTEM SET synchronous_standby_names = '{names}'")
        self.ask(self.leader, "SELECT pg_reload_conf()")
        eventually(
            lambda: self.ask(self.leader, "SHOW synchronous_standby_names") == names, "the standbys' names"
        )
        if names:
            waited_for = "SELECT count(*) FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum')"
            eventually(lambda: self.ask(self.leader, waited_for), "a synchronous standby")

    @contextmanager
    def subscriber(self) -> Iterator[str]:
        """A logical subscriber of the leader, which has all that is written; the name of its slot."""
        slot, server = "subscriber", self._servers[self.leader]
        common = [pg.installed() / "bin" / "pg_recvlogical", f"--dbname={server.url}", f"--slot={slot}"]
        environment = {**os.environ, "PGPASSWORD": PASSWORD}
        made = ["--create-slot", "--plugin=test_decoding"]
        subprocess.run([*common, *made], env=environment, check=True)
        receiving = ["--start", "--file=/dev/null", "--fsync-interval=0", "--status-interval=1"]
        process = subprocess.Popen([*common, *receiving], env=environment)
        try:
            active = f"SELECT active FROM pg_replication_slots WHERE slot_name = '{slot}'"
            eventually(lambda: self.ask(self.leader, active), "the subscriber attached")
            yield slot
        finally:
            process.terminate()
            process.wait()
            eventually(lambda: not self.ask(self.leader, active), "the subscriber gone")
            self.ask(self.leader, f"SELECT pg_drop_replication_slot('{slot}')")

    def kill(self, name: str) -> None:
        """SIGKILL all processes of the named server at once."""
        process = self._running.pop(name)
        self._paused.pop(name, None)
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.kill()
        process.wait()
        eventually(lambda: not any(_runs(member) for member in family), f"{name} gone")
        _free_memory(self._servers[name])

    def pause(self, name: str) -> None:
        """SIGSTOP the named server: it keeps its connections, takes new ones, and answers nothing."""
        top = psutil.Process(self._running[name].pid)
        top.suspend()
        self._paused[name] = [top, *top.children(recursive=True)]
        for process in self._paused[name]:
            with suppress(psutil.NoSuchProcess):
                process.suspend()

    def resume(self, name: str) -> None:
        """SIGCONT the named server."""
        for process in reversed(self._paused.pop(name, [])):
            with suppress(psutil.NoSuchProcess):
                process.resume()

    def promote(self) -> None:
        """Make the standby the leader; what becomes of the former one is the caller's."""
        assert self.ask(self.standby, "SELECT pg_promote(true, 30)") is True
        self.leader = self.standby

    def caught_up(self) -> None:
        """Wait until the standby has replayed all that the leader has written."""
        # A record of our own: after a change of log files their ends differ while nothing is written.
        written = self.ask(self.leader, "SELECT pg_logical_emit_message(true, 'tests', 'here')")
        replayed = f"SELECT pg_last_wal_replay_lsn() >= '{written}'"
        eventually(lambda: self.ask(self.standby, replayed), "the standby caught up")

    def start(self) -> None:
        """Start `one`, and `two` as its standby."""

        def start(port: int) -> None:
            self._servers["one"] = self._place("one", port)
            pg.create(self._servers["one"], PASSWORD, sync=False)
            self._start("one")

        on_free_port(start)
        self.mend()

    def mend(self) -> None:
        """Make them a leader whose commits wait for nobody, and a standby that follows it."""
        for name in list(self._paused):
            self.resume(name)
        if self.leader not in self._running:
            self._start(self.leader)
        self.synchronous("")
        if self.standby not in self._running or not self._follows():
            if self.standby in self._running:
                self.kill(self.standby)
            on_free_port(self._copy)
        self.ask(self.standby, "SELECT pg_wal_replay_resume()")
        self.caught_up()

    def clear(self) -> None:
        """Drop the databases of earlier tests: copying them takes time."""
        names = "SELECT string_agg(datname, ' ') FROM pg_database WHERE datname LIKE 'test_%'"
        for name in (self.ask(self.leader, names) or "").split():
            self.ask(self.leader, f"DROP DATABASE {name} WITH (FORCE)")

    def stop(self) -> None:
        """Kill whatever still runs."""
        for name in list(self._running):
            self.kill(name)

    def _follows(self) -> bool:
        try:
            recovers = self.ask(self.standby, "SELECT pg_is_in_recovery()")
        except psycopg.Error:
            return False
        return bool(recovers) and bool(self.ask(self.leader, "SELECT count(*) FROM pg_stat_replication"))

    def _copy(self, port: int) -> None:
        """Copy the leader's data and start on them as its standby."""
        name, leader = self.standby, self._servers[self.leader]
        # The former port, if it had one: settings that a test holds on to stay right.
        place = self._servers[name] = self._servers.get(name) or self._place(name, port)
        shutil.rmtree(place.data, ignore_errors=True)
        place.folder.mkdir(mode=0o700, exist_ok=True)
        pg.run(
            place,
            account(),
            "pg_basebackup",
            f"--dbname={leader.url}?application_name={name}",
            f"--pgdata={place.data}",
            "--checkpoint=fast",
            "--wal-method=stream",
            "--write-recovery-conf",
            "--no-sync",
            environment={"PGPASSWORD": PASSWORD},
        )
        # What is set of the leader alone was copied too.
        configuration = place.data / "postgresql.auto.conf"
        kept = [line for line in configuration.read_text().splitlines() if "synchronous" not in line]
        configuration.write_text("\n".join(kept) + "\n")
        self._start(name)
        attached = f"SELECT count(*) FROM pg_stat_replication WHERE application_name = '{name}'"
        eventually(lambda: self.ask(self.leader, attached), "the standby attached")

    def _place(self, name: str, port: int) -> pg.Database:
        return pg.Database(self._folder / name, self._folder / f"{name}.log", port, f"postgres-{name}")

    def _start(self, name: str) -> None:
        process, _ = pg.start(self._servers[name], fsync=False, also=SETTINGS)
        self._running[name] = process


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _free_memory(server: pg.Database) -> None:
    """Remove the shared memory of a server that was killed: nobody else will, once its data are gone."""
    with suppress(OSError, IndexError, ValueError):
        number = (server.data / "postmaster.pid").read_text().split("\n")[6].split()[1]
        subprocess.run(["ipcrm", "-m", str(int(number))], capture_output=True)


@pytest.fixture(scope="session")
def postgres_pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """The pair that this worker's tests share; use `pair`."""
    made = Pair(tmp_path_factory.mktemp("pair"))
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture
def pair(postgres_pair: Pair) -> Pair:
    """A primary with a standby that has all that it has; its commits wait for nobody."""
    postgres_pair.mend()
    postgres_pair.clear()
    return postgres_pair


@pytest.fixture
def paired(pair: Pair) -> PostgresSection:
    """A fresh, empty database on both; the URL names both."""
    name = f"test_{next(_counter)}"
    pair.ask(pair.leader, f"CREATE DATABASE {name}")
    pair.caught_up()
    return pair.section(name)


@pytest.fixture
def pair_yard(valkey: RedisSection, paired: PostgresSection) -> Iterator[Yard]:
    """An empty station whose Postgres has a standby, its functions and tables in place."""
    settings = Settings(station=StationSection(id="test", lanes=1), redis=valkey, postgres=paired)
    yard = Yard(settings)
    yard.prepare()
    yield yard
    yard.close()
