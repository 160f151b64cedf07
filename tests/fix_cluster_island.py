"""A Redis Cluster one primary of which can be cut off in silence, together with whoever is on its side.

What is sent across the border waits while it is cut, as packets do that nothing carries.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from control.station.ports import LOOPBACK
from streams.dial import dial
from streams.settings import RedisSection
from tests.fix_cluster import Cluster
from tests.fix_sides import ISLANDERS, Border

ISLAND = "node-1"
OUTSIDERS = "127.0.2.1"
"""Where connections come from that the other nodes make."""


class Split(Cluster):
    """A cluster with a border around `node-1`; `redis` is how those outside find the nodes."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.border = Border()
        self._way = 0
        self._crossing: dict[int, int] = {}

    @property
    def redis(self) -> RedisSection:
        """By the nodes outside."""
        seeds = tuple(f"{LOOPBACK}:{self.port(name)}" for name in self.NAMES[1:3])
        return msgspec.structs.replace(super().redis, cluster=seeds)

    @property
    def island(self) -> RedisSection:
        """By the node on the island."""
        return msgspec.structs.replace(super().redis, cluster=(f"{LOOPBACK}:{self._way}",))

    def dial(self, redis: RedisSection, host: str, port: int, login: tuple[str, str], **others: Any) -> Any:
        """`streams.dial.dial`, for those on the island across the border to all other nodes."""
        if redis.cluster == self.island.cluster:
            port = self._crossing.get(port, port)
        return dial(redis, host, port, login, **others)

    def named(self, port: int) -> str:
        """The name of the node with this port, also with the one that it tells of."""
        return ISLAND if port == self._way else super().named(port)

    def stop(self) -> None:
        """Kill whatever still runs and close the border."""
        self.border.close()
        super().stop()

    def _more(self, name: str) -> list[str]:
        inside, port = name == ISLAND, self.port(name)
        bus = self.border.way(self._buses[name], lambda host: inside or host == ISLANDERS)
        self._buses[name] = bus
        lines = [f"cluster-announce-ip {LOOPBACK}", f"cluster-announce-bus-port {bus}"]
        if inside:
            self._way = self.border.way(port, lambda host: host == OUTSIDERS)
            return [*lines, f"cluster-announce-port {self._way}", f"bind-source-addr {ISLANDERS}"]
        self._crossing[port] = self.border.way(port, lambda host: True)
        return [*lines, f"bind-source-addr {OUTSIDERS}"]


@contextmanager
def running_split(folder: Path) -> Iterator[Split]:
    """A whole cluster with a border, its data in `folder`."""
    split = Split(folder)
    try:
        split.start()
        yield split
    finally:
        split.stop()
