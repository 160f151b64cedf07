"""Real servers for tests: Valkey, PostgreSQL, and three Valkeys with three Sentinels.

Each is started from its wheel on a free port, in a folder of its own, and killed at the end.
"""

from __future__ import annotations

import itertools
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec
import psycopg
import pytest

from control.guard import replication, rules
from control.guard.rules import Standing
from control.station import postgres as pg
from control.station import sentinel, valkey
from control.station.ask import At, NoAnswer, Refused, ask
from control.station.ports import LOOPBACK, free_port
from control.station.process import Launch, PortTaken, Process, end, signal_group
from projections.database import open_engine
from projections.schema import migrate
from streams.settings import PostgresSection, RedisSection

SERVER = subprocess.run([valkey.binary(), "--version"], capture_output=True, text=True, check=True).stdout
IS_REDIS_7_0 = SERVER.startswith("Redis server v=7.0.")
# Redis 7.0's Sentinel forgets the quotes when it writes its own configuration.
PASSWORD = "a-test-password" if IS_REDIS_7_0 else 'a test\'s password: "quoted" and spaced'
needs_waitaof = pytest.mark.skipif(IS_REDIS_7_0, reason="real part missing: WAITAOF")
ATTEMPTS = 5
_counter = itertools.count(1)
Started = TypeVar("Started")


def eventually(condition: Callable[[], object], what: str | Callable[[], str], timeout: float = 45.0) -> None:
    """Return once `condition()` is true; fail the test, naming `what`, after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {timeout:.0f} s: {what if isinstance(what, str) else what()}")
        time.sleep(0.05)


def listens(port: int) -> bool:
    """Whether anybody takes connections on this port of this machine."""
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def on_free_port(start: Callable[[int], Started]) -> Started:
    """`start(port)` on a free port, and again on another where that was taken meanwhile."""
    for attempt in range(ATTEMPTS):
        try:
            return start(free_port())
        except PortTaken:
            if attempt == ATTEMPTS - 1:
                raise
    raise AssertionError


@contextmanager
def running_valkey(folder: Path, password: str = PASSWORD) -> Iterator[RedisSection]:
    """One Valkey server without replicas, its data in `folder`."""

    def start(port: int) -> tuple[valkey.Server, Launch, Process]:
        server = valkey.Server("valkey", folder, folder / "valkey.log", port)
        launch = valkey.launch(server, password)
        return server, launch, valkey.start(launch, port, password)

    server, launch, process = on_free_port(start)
    try:
        yield RedisSection(url=f"redis://{LOOPBACK}:{server.port}/0", password=password)
    finally:
        end(process, launch, hurry=True)


@contextmanager
def running_pair(folder: Path, password: str = PASSWORD) -> Iterator[RedisSection]:
    """A Valkey server with one replica in sync, and no Sentinel; their data in `folder`."""
    with running_valkey(folder / "primary", password) as redis:
        primary = int(redis.url.split(":")[2].split("/")[0])

        def start(port: int) -> tuple[Launch, Process]:
            server = valkey.Server("replica", folder / "replica", folder / "replica.log", port)
            launch = valkey.launch(server, password, replica_of=primary)
            return launch, valkey.start(launch, port, password)

        launch, process = on_free_port(start)
        try:
            eventually(lambda: replication.attached(At(primary, password)) == 1, "a replica in sync")
            yield msgspec.structs.replace(redis, replicas=1)
        finally:
            end(process, launch, hurry=True)


@contextmanager
def running_postgres(
    folder: Path, password: str = PASSWORD, *, fsync: bool = False
) -> Iterator[PostgresSection]:
    """One PostgreSQL server, its data in `folder`; the URL names its database `tocsin`."""

    def start(port: int) -> tuple[pg.Database, Launch, Process]:
        database = pg.Database(folder / "postgres", folder / "postgres.log", port)
        pg.create(database, password, sync=fsync)
        process, launch = pg.start(database, fsync=fsync)
        return database, launch, process

    database, launch, process = on_free_port(start)
    try:
        yield PostgresSection(url=database.url, password=password)
    finally:
        end(process, launch, hurry=True)


class Trio:
    """A primary with two replicas and three Sentinels, which a test may kill, pause and restart.

    The servers are named redis-1 … redis-3 and sentinel-1 … sentinel-3; redis-1 leads at first.
    """

    NAMES = ("redis-1", "redis-2", "redis-3")
    SENTINELS = ("sentinel-1", "sentinel-2", "sentinel-3")

    def __init__(self, folder: Path, password: str = PASSWORD) -> None:
        self.password = password
        self._folder = folder
        self._servers: dict[str, valkey.Server] = {}
        self._running: dict[str, tuple[Process, Launch]] = {}

    @property
    def redis(self) -> RedisSection:
        """The settings by which a process finds the primary."""
        return RedisSection(
            sentinels=tuple(f"{LOOPBACK}:{self.port(name)}" for name in self.SENTINELS),
            service=sentinel.SERVICE,
            replicas=len(self.NAMES) - 1,
            password=self.password,
        )

    def port(self, name: str) -> int:
        return self._servers[name].port

    def at(self, name: str) -> At:
        """The named server, to be asked."""
        return At(self.port(name), self.password)

    def pid(self, name: str) -> int:
        return self._running[name][0].pid

    def ask(self, name: str, *command: str | int) -> object:
        """Run one command on the named server; text comes back as str."""
        return ask(self.port(name), self.password, *command, timeout=2)

    def primary(self) -> str:
        """The name of the server that a majority of the Sentinels names; fails where there is none."""
        named = self._named()
        assert named is not None, "no majority of the Sentinels names a primary"
        return named

    def replicas(self) -> list[str]:
        """The names of the other servers."""
        return [name for name in self.NAMES if name != self.primary()]

    def kill(self, name: str) -> None:
        """SIGKILL the named server and wait until it is gone."""
        process, launch = self._running.pop(name)
        signal_group(process, signal.SIGCONT)
        end(process, Launch(launch.name, launch.argv, launch.log, stop_signal=signal.SIGKILL))

    def pause(self, name: str) -> None:
        """SIGSTOP the named server: it keeps its connections and answers nothing."""
        self._running[name][0].send_signal(signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """SIGCONT the named server."""
        self._running[name][0].send_signal(signal.SIGCONT)

    def restart(self, name: str) -> None:
        """Start the named, killed server: a Sentinel as it was, another as a replica in sync.

        A killed primary waits until a majority of the Sentinels names another one.
        """
        server = self._servers[name]
        if name in self.SENTINELS:
            self._start(server, sentinel.launch(server, self.password, 0))
            return
        eventually(lambda: self._named() not in (None, name), f"another primary than {name}")
        primary = self.port(self.primary())
        self._start(server, valkey.launch(server, self.password, replicas=2, replica_of=primary, priority=0))
        eventually(lambda: self._linked(name), f"{name} in sync with its primary")
        replication.set_priority(self.at(name), rules.PROMOTABLE)

    def wait_for_other_primary(self, than: str, timeout: float = 45.0) -> str:
        """Wait until a majority names another primary than `than`, and that one leads; return its name."""

        def moved() -> bool:
            named = self._named()
            return named not in (None, than) and self._role(named) == "master"

        eventually(moved, f"another primary than {than}", timeout)
        return self.primary()

    def wait_until_whole(self, timeout: float = 30.0) -> None:
        """Wait until both replicas are in sync and each Sentinel sees all others and no fault."""

        def whole() -> bool:
            named = self._named()
            return (
                named is not None
                and replication.attached(self.at(named)) == len(self.NAMES) - 1
                and all(
                    sentinel.sees_all(self.port(one), self.password, replicas=2, sentinels=2)
                    for one in self.SENTINELS
                )
            )

        eventually(whole, "a whole set of servers and Sentinels", timeout)

    def start(self) -> None:
        """Start all six and wait until they are whole."""
        for name in self.NAMES:
            self._on_free_port(name, self._as_first_told)
        for name in self.SENTINELS:
            self._on_free_port(
                name,
                lambda server: sentinel.launch(server, self.password, self.port(self.NAMES[0])),
            )
        self.wait_until_whole()

    def stop(self) -> None:
        """Kill whatever still runs."""
        for name in list(self._running):
            self.kill(name)

    def _on_free_port(self, name: str, launch: Callable[[valkey.Server], Launch]) -> None:
        def start(port: int) -> None:
            folder = self._folder / name
            server = self._servers[name] = valkey.Server(name, folder, self._folder / f"{name}.log", port)
            sentinel.forget(server)
            self._start(server, launch(server))

        on_free_port(start)

    def _as_first_told(self, server: valkey.Server) -> Launch:
        leader = self.NAMES[0]
        replica_of = None if server.name == leader else self.port(leader)
        return valkey.launch(server, self.password, replicas=2, replica_of=replica_of)

    def _start(self, server: valkey.Server, launch: Launch) -> None:
        self._running[server.name] = valkey.start(launch, server.port, self.password), launch

    def _named(self) -> str | None:
        port = sentinel.named_primary((self.port(name) for name in self.SENTINELS), self.password)
        return next((name for name in self.NAMES if self.port(name) == port), None)

    def standing(self, name: str) -> Standing | None:
        """What the named server says of itself; None where it does not answer."""
        return replication.standing(self.at(name))

    def _role(self, name: str | None) -> str | None:
        said = self.standing(name) if name else None
        return said.role if said else None

    def _linked(self, name: str) -> bool:
        said = self.standing(name)
        return said is not None and said.linked


@contextmanager
def running_trio(folder: Path) -> Iterator[Trio]:
    """A whole set of three servers and three Sentinels, their data in `folder`."""
    trio = Trio(folder)
    try:
        trio.start()
        yield trio
    finally:
        trio.stop()


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisSection]:
    """The Valkey server that this worker's tests share; use `valkey` unless its data do not matter."""
    with running_valkey(tmp_path_factory.mktemp("valkey")) as redis:
        yield redis


@pytest.fixture(scope="session")
def valkey_pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisSection]:
    """A Valkey server with a replica, for tests whose proofs must wait for one; its data do not matter."""
    with running_pair(tmp_path_factory.mktemp("pair")) as redis:
        yield redis


@pytest.fixture(name="valkey")
def empty_valkey(valkey_server: RedisSection) -> RedisSection:
    """An empty Valkey server without replicas (shared by the worker's tests one after the other)."""
    try:
        ask(int(valkey_server.url.split(":")[2].split("/")[0]), valkey_server.password, "FLUSHALL")
    except (NoAnswer, Refused) as error:
        pytest.fail(f"an earlier test harmed the shared Valkey server: {error}")
    return valkey_server


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresSection]:
    """The PostgreSQL server that this worker's tests share; use `postgres` for a database of one's own."""
    with running_postgres(tmp_path_factory.mktemp("postgres")) as section:
        yield section


@contextmanager
def new_database(server: PostgresSection, template: str = "template1") -> Iterator[PostgresSection]:
    """A database of its own, a copy of `template`; dropped with whatever is still connected to it."""
    name = f"test_{next(_counter)}"
    with psycopg.connect(server.url, password=server.password, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        yield PostgresSection(url=server.url.rpartition("/")[0] + f"/{name}", password=server.password)
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(name="postgres")
def empty_database(postgres_server: PostgresSection) -> Iterator[PostgresSection]:
    """A fresh, empty database, for one test."""
    with new_database(postgres_server) as section:
        yield section


@pytest.fixture(scope="session")
def migrated_template(postgres_server: PostgresSection) -> Iterator[str]:
    """The name of a database with this version's tables, copied far quicker than migrated."""
    with new_database(postgres_server) as section:
        engine = open_engine(section, name="template")
        migrate(engine)
        engine.dispose()
        yield section.url.rpartition("/")[2]


@pytest.fixture
def migrated_postgres(postgres_server: PostgresSection, migrated_template: str) -> Iterator[PostgresSection]:
    """A fresh database with this version's tables, for one test."""
    with new_database(postgres_server, migrated_template) as section:
        yield section


@pytest.fixture
def sentinel_trio(tmp_path: Path) -> Iterator[Trio]:
    """Three servers and three Sentinels for one test, which may harm them as it likes."""
    with running_trio(tmp_path) as trio:
        yield trio


@pytest.fixture(scope="module")
def shared_trio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trio]:
    """Three servers and three Sentinels for a module's tests, which leave them as they were."""
    with running_trio(tmp_path_factory.mktemp("trio")) as trio:
        yield trio
