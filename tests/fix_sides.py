"""A primary, its two replicas and three Sentinels on two sides of a border that can be cut in silence.

On the *island* are the primary, one replica, and whoever reaches the servers by `Sides.island`; the
other replica and all Sentinels are outside. A cut breaks no connection: what is sent across it waits,
as packets do that nothing carries, and arrives when it is mended.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from control.station import sentinel, valkey
from control.station.ports import LOOPBACK, free_port
from control.station.process import Launch
from streams.dial import dial
from streams.settings import RedisSection
from tests.fix_servers import Trio

ISLAND = ("redis-1", "redis-2")
ISLANDERS = "127.0.1.1"
"""Where connections come from that the servers on the island make."""


class Border:
    """Ways to servers; what crosses the border on them waits while it is cut."""

    def __init__(self) -> None:
        self._is_open = threading.Event()
        self._is_open.set()
        self._closed = False
        self.delay = 0.0
        """Seconds that what crosses is under way."""
        self._sockets: list[socket.socket] = []

    def way(self, port: int, crosses: Callable[[str], bool]) -> int:
        """A port that leads to `port`; `crosses` tells whether a connection from that host crosses."""
        listener = socket.create_server((LOOPBACK, free_port()))
        self._sockets.append(listener)
        self._in_thread(self._accept, listener, port, crosses)
        return int(listener.getsockname()[1])

    def cut(self) -> None:
        """Let nothing across."""
        self._is_open.clear()

    def mend(self) -> None:
        """Let everything across, also what waits."""
        self._is_open.set()

    def close(self) -> None:
        """Break all connections and take no more."""
        self._closed = True
        self._is_open.set()
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _in_thread(self, body: Callable[..., None], *args: Any) -> None:
        threading.Thread(target=body, args=args, name="border", daemon=True).start()

    def _accept(self, listener: socket.socket, port: int, crosses: Callable[[str], bool]) -> None:
        while not self._closed:
            try:
                client, (host, _) = listener.accept()
            except OSError:
                return
            self._sockets.append(client)
            self._in_thread(self._connect, client, port, crosses(host))

    def _connect(self, client: socket.socket, port: int, crosses: bool) -> None:
        if crosses:
            self._is_open.wait()
        try:
            server = socket.create_connection((LOOPBACK, port))
        except OSError:
            client.close()
            return
        self._sockets.append(server)
        self._in_thread(self._carry, client, server, crosses)
        self._in_thread(self._carry, server, client, crosses)

    def _carry(self, source: socket.socket, target: socket.socket, crosses: bool) -> None:
        with contextlib.suppress(OSError):
            while chunk := source.recv(1 << 20):
                if crosses:
                    self._is_open.wait()
                    time.sleep(self.delay)
                target.sendall(chunk)
        if crosses:
            self._is_open.wait()
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


class Sides(Trio):
    """The trio across the border; `redis` is how those outside find the primary."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.border = Border()
        self._ways: dict[str, int] = {}
        self._island_ways: dict[int, int] = {}

    @property
    def island(self) -> RedisSection:
        """How those on the island find the primary: by ways of their own."""
        ways = [self._island_ways[self.port(name)] for name in self.SENTINELS]
        return msgspec.structs.replace(self.redis, sentinels=tuple(f"{LOOPBACK}:{way}" for way in ways))

    def dial(self, redis: RedisSection, host: str, port: int, login: tuple[str, str], **others: Any) -> Any:
        """`streams.dial.dial`, for those on the island by their own way to the server."""
        if redis.sentinels == self.island.sentinels:
            port = self._island_ways.get(port, port)
        return dial(redis, host, port, login, **others)

    def start(self) -> None:
        """Start all six and wait until they are whole."""
        for name in self.NAMES:
            self._on_free_port(name, self._on_its_side)
        first = self._ways[self.NAMES[0]]
        for name in self.SENTINELS:
            self._on_free_port(name, lambda server: sentinel.launch(server, self.password, first))
            self._island_ways[self.port(name)] = self.border.way(self.port(name), lambda host: True)
            # Only patience: how often they look at the servers, and how soon they set one right.
            self.ask(name, "SENTINEL", "DEBUG", "INFO-PERIOD", 1000)
            self.ask(name, "SENTINEL", "DEBUG", "PUBLISH-PERIOD", 500)
        self.wait_until_whole()

    def stop(self) -> None:
        """Kill whatever still runs and close the border."""
        self.border.close()
        super().stop()

    def _on_its_side(self, server: valkey.Server) -> Launch:
        name = server.name
        inside = name in ISLAND
        way = self.border.way(server.port, lambda host: (host == ISLANDERS) != inside)
        own = self.border.way(server.port, lambda host: not inside)
        self._ways[name], self._island_ways[way] = way, own
        replica_of = None if name == self.NAMES[0] else self._ways[self.NAMES[0]]
        launch = valkey.launch(server, self.password, replicas=2, replica_of=replica_of)
        announced = ("--replica-announce-ip", LOOPBACK, "--replica-announce-port", str(way))
        source = ("--bind-source-addr", ISLANDERS if inside else LOOPBACK)
        return replace(launch, argv=(*launch.argv, *announced, *source))

    def _named(self) -> str | None:
        port = sentinel.named_primary((self.port(name) for name in self.SENTINELS), self.password)
        return next((name for name in self.NAMES if self._ways.get(name) == port), None)


@contextmanager
def running_sides(folder: Path) -> Iterator[Sides]:
    """A whole trio across the border, its data in `folder`."""
    sides = Sides(folder)
    try:
        sides.start()
        yield sides
    finally:
        sides.stop()
