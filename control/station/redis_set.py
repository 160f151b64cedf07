"""The station's three Redis servers and their Sentinels, kept by the rules of DESIGN 9b."""

from __future__ import annotations

import time
from collections.abc import Container, Mapping
from functools import partial
from typing import Any

from control.station import replication, sentinel, valkey
from control.station.ask import NoAnswer, Refused, ask
from control.station.folder import SENTINELS, SERVERS, Folder, write_whole
from control.station.process import Launch
from control.station.supervisor import Child, Say, Supervisor
from streams.server_check import check_server

EVERY = 0.5
"""Seconds between two looks at the servers."""
LATE = 20.0
"""Seconds after which a cold start goes on without a server that does not answer, if a majority does."""
NOBODY = 1.0
"""Seconds without a primary and without anyone to promote, after which all start as at a cold start."""
NO_FAILOVER = 60.0
"""Seconds that the Sentinels may go on naming a primary that is gone, until the same is done."""
STRAY = 15.0
"""Seconds that a second primary gets to be turned into a replica by the Sentinels."""


def must_start_cold(
    running: Container[str], hidden: Container[str], primary: str, *, barren: float, unled: float
) -> bool:
    """Whether all servers must be started as if the station had been off.

    The `primary` named last does not run: for `unled` seconds; and for `barren` seconds there has
    been nobody whom the Sentinels could promote: those that run are `hidden`, because they were
    started again and are not in sync yet.
    """
    if primary in running:
        return False
    promotable = any(name in running and name not in hidden for name in SERVERS)
    return barren >= NOBODY if not promotable else unled >= NO_FAILOVER


class RedisSet:
    """Decides how each server may be started, who leads at a cold start, and guards the rest.

    `run` is for a thread of its own; `fault` is what ended it, `primary` the name of who leads.
    """

    def __init__(self, folder: Folder, ports: Mapping[str, int], supervisor: Supervisor, say: Say) -> None:
        self._folder = folder
        self._ports = ports
        self._password = folder.secret("redis.password")
        self._supervisor = supervisor
        self._say = say
        self._cold = True
        self._since: dict[str, float] = {}
        self._hidden: set[str] = set()
        self.primary = self._last_primary()
        self.fault: Exception | None = None

    def children(self) -> list[Child]:
        """The six processes to keep."""
        return [
            *(Child(name, partial(self._server, name), self._ports[name]) for name in SERVERS),
            *(Child(name, partial(self._sentinel, name), self._ports[name]) for name in SENTINELS),
        ]

    def order_of_stop(self) -> list[list[str]]:
        """Sentinels first, lest they promote; then the replicas, then the primary."""
        replicas = [name for name in SERVERS if name != self.primary]
        return [list(SENTINELS), replicas, [self.primary]]

    def ready(self) -> bool:
        """Whether a primary leads, both replicas are in sync and every Sentinel answers."""
        return (
            not self._cold
            and replication.attached(self._ports[self.primary], self._password) == len(SERVERS) - 1
            and all(sentinel.named_by(self._ports[name], self._password) for name in SENTINELS)
        )

    def run(self) -> None:
        """Start cold, watch, and start cold again should all be lost; until the supervisor stops."""
        try:
            while not self._supervisor.stopping.is_set():
                self._start_cold()
                self._watch()
        except Exception as error:
            self.fault = error
            raise

    def _server(self, name: str) -> Launch | None:
        server = self._place(name)
        replicas = len(SERVERS) - 1
        if self._cold:
            return valkey.launch(server, self._password, replicas=replicas)
        named = self._named()
        if named is None or named == name:
            return None
        self._hidden.add(name)
        return valkey.launch(
            server,
            self._password,
            replicas=replicas,
            replica_of=self._ports[named],
            priority=replication.HIDDEN,
        )

    def _sentinel(self, name: str) -> Launch | None:
        if self._cold:
            return None
        return sentinel.launch(self._place(name), self._password, self._ports[self.primary])

    def _start_cold(self) -> None:
        heads = self._await_heads()
        if heads is None:
            return
        chosen = replication.furthest(heads, self.primary)
        for key, other in replication.parted(heads, chosen).items():
            self._say(
                f"{other} has events of {key} that {chosen} has not; "
                f"{chosen} leads, and what only {other} has is dropped"
            )
        for name in heads:
            if name != chosen:
                replication.follow(self._ports[name], self._password, self._ports[chosen])
        check_server(_Asked(self._ports[chosen], self._password))
        for name in SENTINELS:
            sentinel.forget(self._place(name))
        self._hidden.clear()
        self._lead(chosen)
        self._cold = False

    def _await_heads(self) -> dict[str, dict[str, int]] | None:
        """The lane heads of each server, once all answer, or enough of them when that takes long."""
        started = time.monotonic()
        while not self._supervisor.stopping.wait(0.02):
            heads: dict[str, dict[str, int]] = {}
            for name in SERVERS:
                try:
                    heads[name] = replication.lane_heads(self._ports[name], self._password)
                except (NoAnswer, Refused):
                    continue
            late = time.monotonic() - started > LATE
            if len(heads) == len(SERVERS) or (late and len(heads) * 2 > len(SERVERS)):
                return heads
        return None

    def _watch(self) -> None:
        """Guard the servers until all must be started cold again, or the supervisor stops."""
        self._since.clear()
        while not self._supervisor.stopping.wait(EVERY):
            named = self._named()
            if named is not None and named != self.primary:
                self._say(f"{named} leads now, {self.primary} did before")
                self._lead(named)
            for name in SERVERS:
                self._guard(name, named)
            if self._lost():
                self._say("no Redis server is left that could lead: all are started afresh from their data")
                self._cold = True
                self._supervisor.end(SENTINELS)
                self._supervisor.end(SERVERS)
                return

    def _guard(self, name: str, named: str | None) -> None:
        """Keep a server that does not follow the named primary from being promoted (DESIGN 9b)."""
        port = self._ports[name]
        said = replication.standing(port, self._password)
        if said is None or named is None:
            return
        stray = said.role == "master" and name != named
        try:
            priority = replication.guarded_priority(port, said, self._ports[named])
            if priority is not None:
                replication.set_priority(port, self._password, priority)
            if (said.priority if priority is None else priority) == replication.HIDDEN:
                self._hidden.add(name)
            else:
                self._hidden.discard(name)
            if self._lasts(f"stray {name}", stray) > STRAY:
                replication.follow(port, self._password, self._ports[named])
                self._say(f"{name} called itself primary beside {named} and was made its replica")
        except (NoAnswer, Refused):
            return  # it is looked at again

    def _lost(self) -> bool:
        running = {name for name in SERVERS if self._supervisor.process(name) is not None}
        unled = self._lasts("unled", self.primary not in running)
        barren = self._lasts("barren", self.primary not in running and running <= self._hidden)
        return must_start_cold(running, self._hidden, self.primary, barren=barren, unled=unled)

    def _lasts(self, what: str, true: bool) -> float:
        """For how many seconds `what` has been true without a break."""
        if not true:
            self._since.pop(what, None)
            return 0.0
        return time.monotonic() - self._since.setdefault(what, time.monotonic())

    def _lead(self, name: str) -> None:
        self.primary = name
        try:
            write_whole(self._folder.primary, name + "\n")
        except OSError as error:
            self._say(f"{self._folder.primary} cannot be written: {error.strerror}")

    def _last_primary(self) -> str:
        try:
            name = self._folder.primary.read_text("utf-8").strip()
        except OSError:
            name = ""
        return name if name in SERVERS else SERVERS[0]

    def _named(self) -> str | None:
        port = sentinel.named_primary((self._ports[name] for name in SENTINELS), self._password)
        return next((name for name in SERVERS if self._ports[name] == port), None)

    def _place(self, name: str) -> valkey.Server:
        return valkey.Server(name, self._folder.server(name), self._folder.log(name), self._ports[name])


class _Asked:
    """What `streams.server_check` asks, answered by one server of the station."""

    def __init__(self, port: int, password: str) -> None:
        self._port = port
        self._password = password

    def call(self, *args: Any) -> Any:
        return ask(self._port, self._password, *args)
