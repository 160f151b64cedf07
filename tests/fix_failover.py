"""A failover to a server that is behind: primary and replica part, and all connections follow the new one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from control.guard import replication
from control.station import valkey
from control.station.ask import At, ask
from control.station.ports import LOOPBACK
from control.station.process import Launch, Process, end
from streams.settings import RedisSection
from tests.fix_servers import PASSWORD, eventually, on_free_port
from tests.fix_streams import Hall, Wire


class Turning(Wire):
    """A wire that can be laid to another server."""

    def turn_to(self, port: int) -> None:
        """Break all connections; new ones go to `port`."""
        self.cut()
        self._server = (LOOPBACK, port)
        self.mend()


class Pair:
    """A primary and its replica, and a wire by which everybody reaches the one that leads."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: dict[str, tuple[Process, Launch]] = {}
        self._ports: dict[str, int] = {}
        on_free_port(lambda port: self._start("first", port))
        on_free_port(lambda port: self._start("second", port, self._ports["first"]))
        self._in_sync("first")
        self.wire = Turning(
            RedisSection(url=f"redis://{LOOPBACK}:{self._ports['first']}/0", password=PASSWORD, replicas=1)
        )

    def _start(self, name: str, port: int, replica_of: int | None = None) -> None:
        server = valkey.Server(name, self._folder / name, self._folder / f"{name}.log", port)
        launch = valkey.launch(server, PASSWORD, replica_of=replica_of)
        self._running[name] = valkey.start(launch, port, PASSWORD), launch
        self._ports[name] = port

    def _in_sync(self, leader: str) -> None:
        eventually(
            lambda: replication.attached(At(self._ports[leader], PASSWORD)) == 1,
            "a replica in sync with its primary",
        )

    def part(self, hall: Hall) -> None:
        """From here on the replica gets no more writes; it will lead with what the lane's log holds now."""
        head = hall.link.call("HGET", hall.keys.head, "hash").decode()
        eventually(
            lambda: self._ask("second", "HGET", hall.keys.head, "hash") == head, "a replica up to date"
        )
        self._ask("second", "REPLICAOF", "NO", "ONE")

    def fail_over(self, hall: Hall) -> None:
        """The primary dies with what only it had and comes back as the replica of the other one."""
        self.wire.cut()
        process, launch = self._running.pop("first")
        end(process, launch, hurry=True)
        self._start("first", self._ports["first"], self._ports["second"])
        self._in_sync("second")
        self.wire.turn_to(self._ports["second"])
        hall.link.close()

    def _ask(self, name: str, *command: str) -> object:
        return ask(self._ports[name], PASSWORD, *command, timeout=2)

    def close(self) -> None:
        """Kill both."""
        self.wire.close()
        for process, launch in self._running.values():
            end(process, launch, hurry=True)


@pytest.fixture
def valkeys(tmp_path: Path) -> Iterator[Pair]:
    """Two servers of one test's own."""
    with closing(Pair(tmp_path / "pair")) as made:
        yield made
