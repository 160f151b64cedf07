"""Servers with a user per role: Valkey from its wheel, and the Redis 7.0 of Debian where it is installed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from control.station import sentinel, valkey
from control.station.ask import Refused, ask
from control.station.ports import LOOPBACK
from control.station.process import Launch, Process, end
from control.station.users import Users
from streams.access import ROLES, Role
from streams.lua import source
from streams.settings import RedisSection
from tests.fix_servers import on_free_port

STATION = "guarded"
SERVERS = ("valkey", "redis")


def redis_server() -> str:
    """The path of Debian's redis-server; the test is skipped where there is none."""
    path = shutil.which("redis-server")
    if path is None:
        pytest.skip("real part missing: redis-server")
    return path


def users(station: str = STATION) -> Users:
    """A password for each role, with what a password may hold."""
    return Users(station, {role: f'the {role}\'s "own" pass#word' for role in ROLES})


class Guarded:
    """A server with the users of the station `guarded`, and its functions loaded by its admin."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.users = users()
        self.prefix = f"tocsin:{STATION}:"

    def redis(self, role: Role) -> RedisSection:
        """The settings of a process that has this role."""
        user, password = self.users.login(role)
        return RedisSection(url=f"redis://{LOOPBACK}:{self.port}/0", username=user, password=password)

    def ask(self, role: Role, *command: str | int) -> Any:
        """Run one command as the role; raises Refused."""
        return ask(self.port, self.users.login(role), *command, timeout=2)

    def begin(self) -> None:
        """Empty it, but for the functions; forget what was refused before."""
        self.ask("admin", "FLUSHALL")
        self.ask("admin", "ACL", "LOG", "RESET")
        self.ask("admin", "FUNCTION", "LOAD", "REPLACE", source())

    def refused(self) -> list[str]:
        """Who was refused what since the beginning, by the server's own log."""
        entries = [dict(zip(one[::2], one[1::2], strict=True)) for one in self.ask("admin", "ACL", "LOG")]
        return [f"{one['username']}: {one['reason']} {one['object']} ({one['context']})" for one in entries]


@contextmanager
def running_guarded(folder: Path, kind: str) -> Iterator[Guarded]:
    """A `valkey` or `redis` with its users, its data in `folder`."""
    program = str(valkey.binary()) if kind == "valkey" else redis_server()

    def start(port: int) -> tuple[int, Launch, Process]:
        server = valkey.Server(kind, folder, folder / f"{kind}.log", port)
        written = valkey.launch(server, users())
        with (folder / "valkey.conf").open("a") as config:
            # Else DEBUG and MODULE would be refused to everybody, and nothing shown of a user's rights.
            config.write("enable-debug-command local\nenable-module-command local\n")
        launch = Launch(kind, (program, *written.argv[1:]), written.log)
        return port, launch, valkey.start(launch, port, users().login("admin"))

    port, launch, process = on_free_port(start)
    try:
        yield Guarded(port)
    finally:
        end(process, launch, hurry=True)


@pytest.fixture(scope="module", params=SERVERS)
def guarded_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Guarded]:
    """One of each kind for a module's tests."""
    with running_guarded(tmp_path_factory.mktemp("guarded"), request.param) as server:
        yield server


@pytest.fixture
def guarded(guarded_server: Guarded) -> Guarded:
    """It is empty, and has refused nobody yet."""
    guarded_server.begin()
    return guarded_server


class UsersSentinel:
    """A server with the station's users, and a Sentinel that watches it, with the same."""

    def __init__(self, server: Guarded, port: int) -> None:
        self.server = server
        self.port = port

    def ask(self, role: Role, command: str) -> object:
        """What the Sentinel answers the role; raises Refused."""
        return ask(self.port, self.server.users.login(role), *command.split(), timeout=2)


@pytest.fixture(scope="module")
def users_sentinel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UsersSentinel]:
    """For a module's tests, which change nothing."""
    folder = tmp_path_factory.mktemp("users_sentinel")
    with running_guarded(folder / "valkey", "valkey") as server:

        def start(port: int) -> tuple[int, Launch, Process]:
            place = valkey.Server("sentinel", folder / "sentinel", folder / "sentinel.log", port)
            sentinel.forget(place)
            launch = sentinel.launch(place, users(), server.port)
            return port, launch, valkey.start(launch, port, users().login("admin"))

        port, launch, process = on_free_port(start)
        try:
            yield UsersSentinel(server, port)
        finally:
            end(process, launch, hurry=True)


__all__ = [
    "Guarded",
    "Refused",
    "UsersSentinel",
    "guarded",
    "guarded_server",
    "redis_server",
    "running_guarded",
    "users",
    "users_sentinel",
]
