"""The station's three Redis servers and their Sentinels, kept by the rules of DESIGN 9b."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial

from control.guard import replication, rules
from control.guard.rules import Address
from control.station import sentinel, valkey
from control.station.ask import At, NoAnswer, Refused, ask
from control.station.folder import SERVERS, Folder, write_whole
from control.station.ports import LOOPBACK
from control.station.process import Launch
from control.station.sentinel import SENTINELS
from control.station.supervisor import Child, Say, Supervisor
from control.station.users import Users
from streams import lua
from streams.server_check import check_server

EVERY = 0.5
"""Seconds between two looks at the servers."""
SOON = 0.05
"""The same while the server-side functions are not loaded: the station's processes wait for them."""


class RedisSet:
    """Decides how each server may be started, who leads at a cold start, and guards the rest.

    `run` is for a thread of its own; `fault` is what ended it, `primary` the name of who leads.
    """

    def __init__(
        self, folder: Folder, users: Users, ports: Mapping[str, int], supervisor: Supervisor, say: Say
    ) -> None:
        self._folder = folder
        self._ports = ports
        self._users = users
        self._admin = users.login("admin")
        self._functions = False
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
            and replication.attached(self._at(self.primary)) == len(SERVERS) - 1
            and all(sentinel.named_by(self._ports[name], self._admin) for name in SENTINELS)
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
            return valkey.launch(server, self._users, replicas=replicas)
        named = self._named()
        if named is None or named == name:
            return None
        self._hidden.add(name)
        return valkey.launch(
            server,
            self._users,
            replicas=replicas,
            replica_of=self._ports[named],
            priority=rules.HIDDEN,
        )

    def _sentinel(self, name: str) -> Launch | None:
        if self._cold:
            return None
        return sentinel.launch(self._place(name), self._users, self._ports[self.primary])

    def _start_cold(self) -> None:
        heads = self._await_heads()
        if heads is None:
            return
        chosen = rules.furthest(heads, self.primary)
        for key, other in rules.parted(heads, chosen).items():
            self._say(
                f"{other} has events of {key} that {chosen} has not; "
                f"{chosen} leads, and what only {other} has is dropped"
            )
        for name in heads:
            if name != chosen:
                replication.follow(self._at(name), self._address(chosen))
        check_server(self._at(chosen))
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
                    heads[name] = replication.lane_heads(self._at(name))
                except (NoAnswer, Refused):
                    continue
            late = time.monotonic() - started > rules.LATE
            if len(heads) == len(SERVERS) or (late and len(heads) * 2 > len(SERVERS)):
                return heads
        return None

    def _watch(self) -> None:
        """Guard the servers until all must be started cold again, or the supervisor stops."""
        self._since.clear()
        while not self._supervisor.stopping.wait(EVERY if self._functions else SOON):
            self._functions = self._load_functions()
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

    def _load_functions(self) -> bool:
        """See to it that the primary has the server-side functions: none of the processes may load them."""
        port = self._ports[self.primary]
        try:
            if ask(port, self._admin, "FCALL_RO", "tocsin_version", 0) == lua.version():
                return True
        except NoAnswer:
            return False
        except Refused:
            pass  # it has none
        try:
            ask(port, self._admin, "FUNCTION", "LOAD", "REPLACE", lua.source(), timeout=2)
        except (NoAnswer, Refused):
            return False  # its replicas are not there yet: it is tried again
        return True

    def _guard(self, name: str, named: str | None) -> None:
        """Keep a server that does not follow the named primary from being promoted (DESIGN 9b)."""
        said = replication.standing(self._at(name))
        if said is None or named is None:
            return
        stray = said.role == "master" and name != named
        try:
            priority = rules.guarded_priority(self._address(name), said, self._address(named))
            if priority is not None:
                replication.set_priority(self._at(name), priority)
            if (said.priority if priority is None else priority) == rules.HIDDEN:
                self._hidden.add(name)
            else:
                self._hidden.discard(name)
            if self._lasts(f"stray {name}", stray) > rules.STRAY:
                replication.follow(self._at(name), self._address(named))
                self._say(f"{name} called itself primary beside {named} and was made its replica")
        except (NoAnswer, Refused):
            return  # it is looked at again

    def _lost(self) -> bool:
        running = {name for name in SERVERS if self._supervisor.process(name) is not None}
        unled = self._lasts("unled", self.primary not in running)
        barren = self._lasts("barren", self.primary not in running and running <= self._hidden)
        return rules.must_start_cold(SERVERS, running, self._hidden, self.primary, barren=barren, unled=unled)

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
        port = sentinel.named_primary((self._ports[name] for name in SENTINELS), self._admin)
        return next((name for name in SERVERS if self._ports[name] == port), None)

    def _at(self, name: str) -> At:
        return At(self._ports[name], self._admin)

    def _address(self, name: str) -> Address:
        return LOOPBACK, self._ports[name]

    def _place(self, name: str) -> valkey.Server:
        return valkey.Server(name, self._folder.server(name), self._folder.log(name), self._ports[name])
