"""The guard beside one Redis of a deployment: starts it as it may be started, and watches over it.

A server is never started as a primary. It is started as a replica that must not be promoted, of nobody
(`NOWHERE`) yet, and follows at once the primary that a majority of the Sentinels names; or, where that is
itself and nobody is left to take its place, waits until it is known whose lane heads are furthest. If they
are its own it leads; else it ends again, and the Sentinels find the furthest to promote.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import structlog
from redis.connection import Connection

from control.guard import replication, rules
from control.guard.hosts import Hosts, is_number
from control.guard.remote import Remote
from control.guard.rules import HIDDEN, NOWHERE, PROMOTABLE, Address, Heads, Standing
from control.station.ask import NoAnswer, Refused
from streams import sentinel
from streams.sentinel import Opinion
from streams.settings import RedisSection

EVERY = 0.5
"""Seconds between two looks."""
SOON = 0.1
"""The same while the server does not run, or it is not decided who leads."""
GRACE = 30.0
"""Seconds that the server may take to end in order."""
SILENT = 10.0
"""Seconds without an answer after which it is said why."""
PAUSE = 1.0
"""Seconds after the server ended by itself before it is started again."""

log = structlog.get_logger(__name__)


class Guard:
    """Guards the server at `server`, one of a set with `peers`, and starts it by `command` if there is one.

    `run` returns when `stopping` is set, having ended what it started.
    """

    def __init__(
        self,
        redis: RedisSection,
        server: Address,
        peers: Sequence[Address],
        command: Sequence[str],
        stopping: threading.Event,
    ) -> None:
        self._redis = redis
        self._name = "{}:{}".format(*server)
        self._server = Remote(server, redis, kept=True)
        self._others = {peer: Remote(peer, redis) for peer in peers}
        self._sentinels: dict[str, Connection] = {}
        """Connections to them, kept from look to look."""
        self._given = server
        self._hosts = Hosts()
        self._command = tuple(command)
        self._stopping = stopping
        self._child: subprocess.Popen[bytes] | None = None
        self._ended_at = float("-inf")
        self._since: dict[str, float] = {}
        self._insists = False
        """Whether it may lead though others could be promoted: the Sentinels did not do so for long."""
        self._said = ""

    @property
    def _me(self) -> Address:
        return self._hosts.numbered(self._given)

    @property
    def _peers(self) -> dict[Address, Remote]:
        return {self._hosts.numbered(peer): remote for peer, remote in self._others.items()}

    def run(self) -> None:
        """Start the server, watch over it, start it again when it ends; end it at last."""
        try:
            while True:
                pause = self._look()
                if self._stopping.wait(pause):
                    return
        finally:
            self._end()

    def _look(self) -> float:
        """Look once and do what must be done; how long to wait until the next look."""
        self._reap()
        self._hosts.look_again()
        opinions = sentinel.ask(self._redis, kept=self._sentinels)
        named = majority(opinions, self._redis)
        said = replication.standing(self._server)
        if said is None:
            self._lasts("cold", False)
            if self._child is not None:
                self._explain()
            elif self._command:
                self._start(named, opinions)
            return SOON
        self._lasts("silent", False)
        said = replace(said, follows=self._hosts.numbered(said.follows) if said.follows else None)
        try:
            if named is None:
                self._say("no majority of the Sentinels names a primary; nothing is changed meanwhile")
            elif said.follows == NOWHERE:
                self._decide(named)
                return SOON
            else:
                self._guard(said, named, opinions)
        except (NoAnswer, Refused) as error:
            self._say(f"asked or told in vain, and looked at again: {error}")
        return EVERY

    def _start(self, named: Address | None, opinions: Sequence[Opinion]) -> None:
        """Start the server where it may be started."""
        stranded = self._lasts("stranded", self._knows_nobody(opinions)) >= rules.STRANDED
        if time.monotonic() < self._ended_at + PAUSE:
            return
        if named is None:
            self._say("not started: no majority of the Sentinels names a primary")
        elif named != self._given and not is_number(self._me):
            self._say("not started: its own name cannot be looked up, so it may be the one they name")
        elif self._hosts.numbered(named) != self._me:
            self._since.clear()
            self._launch("as a replica of the primary that the Sentinels name")
        elif self._must_start_cold() or stranded:
            self._insists = stranded or self._lasts("unled", True) >= rules.NO_FAILOVER
            self._since.clear()
            self._launch("to learn who leads: there is no primary, and nobody to be promoted")
        else:
            self._say("not started: the Sentinels still name it as the primary, and can promote another")

    def _knows_nobody(self, opinions: Sequence[Opinion]) -> bool:
        """Whether a majority of the Sentinels knows no replica, and so could promote none."""
        ignorant = [one for one in opinions if one.replicas is not None and not one.replicas]
        return len(ignorant) >= sentinel.majority(self._redis) and len(ignorant) == len(opinions)

    def _must_start_cold(self) -> bool:
        said = {peer: replication.standing(remote) for peer, remote in self._peers.items()}
        running = {peer for peer, one in said.items() if one}
        hidden = {peer for peer, one in said.items() if one and one.priority == HIDDEN}
        return rules.must_start_cold(
            self._peers, running, hidden, self._me,
            barren=self._lasts("barren", running <= hidden), unled=self._lasts("unled", True),
        )  # fmt: skip

    def _decide(self, named: Address) -> None:
        """Lead, if nobody is further; else make way for whoever is."""
        if self._hosts.numbered(named) != self._me:
            replication.follow(self._server, named)
            return
        others = [replication.standing(peer) for peer in self._peers.values()]
        if not self._insists and any(one and one.priority != HIDDEN for one in others):
            log.info("makes way: the Sentinels can promote another", server=self._name)
            self._end()
            return
        heads = self._settled_heads({self._me: self._server, **self._peers}, self._lasts("cold", True))
        if heads is None:
            self._say("waits for the other servers, to learn who leads")
            return
        chosen = rules.furthest(heads, self._me)
        for key, other in rules.parted(heads, chosen).items():
            log.warning("lane forked", key=key, further_at=other, leads=chosen)
        if chosen == self._me:
            log.info("leads", server=self._name, compared_with=len(heads) - 1)
            replication.set_priority(self._server, PROMOTABLE)
            replication.lead(self._server)
        else:
            log.info("makes way for a server that is further", server=self._name, further=chosen)
            replication.set_priority(self._peers[chosen], PROMOTABLE)
            self._end()

    def _guard(self, said: Standing, named: Address, opinions: Sequence[Opinion]) -> None:
        """Keep a server that does not follow the named primary from being promoted."""
        at = self._hosts.numbered(named)
        if at != self._me and not said.linked and self._is(Remote(named, self._redis)):
            raise Refused("the Sentinels name this very server by {}:{}: set --server so".format(*named))
        priority = rules.guarded_priority(self._me, said, at)
        if priority is not None:
            replication.set_priority(self._server, priority)
            log.info("guarded", server=self._name, role=said.role, primary=named, promotable=priority > 0)
        if self._lasts("stray", said.role == "master" and at != self._me) > rules.STRAY:
            replication.follow(self._server, named)
        if said.priority == HIDDEN and priority is None and said.role == "slave":
            self._offer(said, named, opinions)

    def _offer(self, said: Standing, named: Address, opinions: Sequence[Opinion]) -> None:
        """Let a hidden replica be promoted where the primary is gone, nobody else can be, and it is furthest.

        That is so where all were off and the primary's host does not come back.
        """
        gone = sum(opinion.failing for opinion in opinions) >= sentinel.majority(self._redis)
        at, peers = self._hosts.numbered(named), self._peers
        others = {peer: remote for peer, remote in peers.items() if peer != at}
        seen = [replication.standing(remote) for remote in others.values()] if gone else []
        alone = gone and not said.linked and not any(one and one.priority != HIDDEN for one in seen)
        waited = self._lasts("alone", alone)
        # Asked under our own name for it, which fits its certificate, or as the Sentinels call it.
        if waited <= rules.LATE or replication.standing(peers.get(at) or Remote(named, self._redis)):
            return
        heads = self._settled_heads({self._me: self._server, **others}, waited)
        if heads is not None and rules.furthest(heads, min(heads)) == self._me:
            log.warning("may be promoted: the primary is gone and nobody else can be", server=self._name)
            replication.set_priority(self._server, PROMOTABLE)

    def _settled_heads(self, servers: Mapping[Address, Remote], waited: float) -> dict[Address, Heads] | None:
        """The lane heads of the servers that tell them, once these suffice to decide for the whole set."""
        heads: dict[Address, Heads] = {}
        loading: list[Address] = []
        for address, remote in servers.items():
            try:
                heads[address] = replication.lane_heads(remote)
            except Refused:
                loading.append(address)
            except NoAnswer:
                continue
        total = 1 + len(self._others)
        if not rules.settled_heads(heads, loading, total, late=waited > rules.LATE):
            return None
        return heads

    def _is(self, other: Remote) -> bool:
        """Whether `other` is this very server, by whatever address."""
        try:
            ours, theirs = (replication.facts(one, "server")["run_id"] for one in (self._server, other))
        except (NoAnswer, Refused):
            return False
        return ours == theirs

    def _launch(self, why: str) -> None:
        """Start the server as a replica of nobody yet: one that is told whom to follow later does so at once.

        One that is told so in its configuration looks up a second after it has loaded.
        """
        arguments = ("--replicaof", *map(str, NOWHERE), "--replica-priority", str(HIDDEN))
        # The server needs none of our settings, of which some are secrets.
        env = {name: value for name, value in os.environ.items() if not name.startswith("TOCSIN_")}
        self._child = subprocess.Popen((*self._command, *arguments), env=env)
        log.info("server started", server=self._name, pid=self._child.pid, why=why)

    def _explain(self) -> None:
        """Say why a server that was started does not answer, where that lasts."""
        if self._lasts("silent", True) < SILENT:
            return
        try:
            replication.facts(self._server, "replication")
        except (NoAnswer, Refused) as error:
            self._say(f"started, but it does not answer: {error}")

    def _reap(self) -> None:
        if self._child is not None and (code := self._child.poll()) is not None:
            log.warning("server ended", server=self._name, code=code)
            self._child, self._ended_at = None, time.monotonic()

    def _end(self) -> None:
        """End what was started, in order if it does so in time."""
        if self._child is None:
            return
        self._child.terminate()
        try:
            self._child.wait(GRACE)
        except subprocess.TimeoutExpired:
            self._child.kill()
        self._reap()

    def _lasts(self, what: str, true: bool) -> float:
        """For how many seconds `what` has been true without a break."""
        if not true:
            self._since.pop(what, None)
            return 0.0
        return time.monotonic() - self._since.setdefault(what, time.monotonic())

    def _say(self, what: str) -> None:
        """Say what keeps the guard from going on; once, until it is something else."""
        if what != self._said:
            self._said = what
            log.warning(what, server=self._name)


def majority(opinions: Sequence[Opinion], redis: RedisSection) -> Address | None:
    """The primary that more than half of all Sentinels name, if there is one."""
    named = [opinion.address for opinion in opinions]
    return next((one for one in named if named.count(one) >= sentinel.majority(redis)), None)
