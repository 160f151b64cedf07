"""When a write counts: acknowledged by every configured replica, or by all that can be there.

The rule (docs/survival.md): with fewer replicas attached than configured, fewer acknowledgements
count only after the attached set has stayed the same for HOLD seconds *and* a majority of
Sentinels (in a cluster: of its primaries), asked after that, names this primary with no failover
in progress. Otherwise a cut that
leaves primary, one replica and the submitter together would confirm what the other side never sees.
A replica that hangs stays connected for a minute (repl-timeout); it counts as attached until it has
been silent for longer than MAX_LAG.
"""

from __future__ import annotations

import re
import threading
import time
from functools import partial
from typing import Any

import msgspec
import structlog
from redis.exceptions import ResponseError

from streams import cluster, sentinel
from streams.connection import Link, Unreachable, connect
from streams.messages import Durability
from streams.sentinel import Address
from streams.settings import RedisSection
from streams.steps import step

HOLD = 3.0
"""Seconds the attached set must have stayed the same before fewer acknowledgements count."""
WAIT_MS = 200
"""How long one WAIT may take; what is missing then is asked for again with a new mark."""
DISK_WAIT_MS = 1500
"""The same for one WAITAOF: servers write to disk once a second (`appendfsync everysec`)."""
MAX_LAG = 3
"""Seconds without an acknowledgement (they come every second) after which a replica is not attached."""
WATCH = 600.0
"""Seconds that the attached set is watched after somebody last missed a replica."""
POLL = 0.25
"""Seconds between two looks at the attached set while replicas are missing."""

log = structlog.get_logger(__name__)


class Attached(msgspec.Struct, frozen=True):
    """A primary, its replication id, and the addresses of the replicas attached to it."""

    primary: Address | None
    replication_id: str
    replicas: frozenset[str]

    @property
    def least(self) -> int:
        """How many acknowledgements it takes where this is all that can be there."""
        return max(len(self.replicas), 1)


class NotDurable(Exception):
    """Raised when durability was not reached in time; the write may stand all the same."""


class Prover:
    """Decides for one process whether writes are durable; shared by its threads.

    In a cluster each `primary` has replicas of its own, and a prover who knows about them.
    """

    def __init__(self, redis: RedisSection, primary: Address | None = None) -> None:
        self._redis = redis
        self._primary = primary
        self._provers: dict[Address, Prover] = {}
        self._lock = threading.Lock()
        self._watching = False
        self._watch_until = 0.0
        self._attached: Attached | None = None
        self._since = 0.0
        self._agreed: Attached | None = None

    def _of(self, link: Link) -> Prover:
        """Who knows about the replicas of the primary behind `link`."""
        if not self._redis.cluster or self._primary or not link.address:
            return self
        with self._lock:
            return self._provers.setdefault(link.address, Prover(self._redis, link.address))

    def command(self, level: Durability, link: Link | None = None) -> tuple[Any, ...] | None:
        """The WAIT that goes right behind a write in the same batch; None where nothing is waited for."""
        if level == "memory" or not (self._redis.replicas or level == "disk"):
            return None
        if link and (other := self._of(link)) is not self:
            return other.command(level)
        with self._lock:
            # Asking for more than can answer would make each wait last its full time.
            wanted = self._agreed.least if self._agreed else self._redis.replicas
        return ("WAITAOF", 1, wanted, DISK_WAIT_MS) if level == "disk" else ("WAIT", wanted, WAIT_MS)

    def accepts(self, level: Durability, reply: Any, link: Link) -> bool:
        """Whether the reply on `link` to `command(level)` proves the write; start watching when it does not.

        Raises ResponseError when the server has no such command (WAITAOF before Redis 7.2).
        """
        if isinstance(reply, ResponseError):
            raise reply
        on_disk, acknowledged = reply if level == "disk" else (1, reply)
        if not on_disk:
            return False
        if acknowledged >= self._redis.replicas:
            return True
        if (other := self._of(link)) is not self:
            return other.accepts(level, reply, link)
        self._watch()
        with self._lock:
            agreed = self._agreed
            # What was agreed of one primary says nothing of another that a link still holds on to.
            return agreed is not None and agreed.primary == link.address and acknowledged >= agreed.least

    def prove(self, link: Link, mark: tuple[Any, ...], level: Durability, *, timeout: float) -> None:
        """Write `mark` and wait, together, until the write before it is durable.

        `mark` answers something true where it wrote. Raises NotDurable, also where it did not:
        without a write on this connection a WAIT proves nothing.
        """
        deadline = time.monotonic() + timeout
        while (wait := self.command(level, link)) is not None:
            marked, reply = link.batch((mark, wait), timeout=patience(wait))
            if isinstance(marked, ResponseError):
                raise marked
            if not marked:
                raise NotDurable("the lease by which the wait would be marked is no longer held")
            if self.accepts(level, reply, link):
                step("durable")
                return
            if time.monotonic() >= deadline:
                raise NotDurable(
                    f"not acknowledged at durability {level!r} within {timeout:g} s: "
                    f"replicas are missing or a failover is in progress"
                )
            time.sleep(0.02)

    def _watch(self) -> None:
        with self._lock:
            self._watch_until = time.monotonic() + WATCH
            if self._watching:
                return
            self._watching = True
        threading.Thread(target=self._look_on, name="replica-watch", daemon=True).start()

    def _look_on(self) -> None:
        link = connect(self._redis, "replica-watch")
        if self._primary:
            link = Link(self._redis, "replica-watch", partial(Address, *self._primary))
        try:
            complete = 0
            while complete < 8 and time.monotonic() < self._watch_until:
                complete = complete + 1 if self._look(link) else 0
                time.sleep(POLL)
        except RuntimeError:
            # While the process ends no thread can be started any more, and nobody needs to know.
            if threading.main_thread().is_alive():
                raise
        finally:
            link.close()
            with self._lock:
                self._watching = False
                self._attached = self._agreed = None

    def _look(self, link: Link) -> bool:
        """Note which replicas are attached; return whether all are."""
        try:
            seen = attached(link)
        except (Unreachable, ResponseError):
            seen = None
        now = time.monotonic()
        with self._lock:
            if seen != self._attached:
                self._attached, self._since, self._agreed = seen, now, None
            held = seen is not None and now - self._since >= HOLD
            agreed = self._agreed
        if seen is None:
            link.close()
            return False
        if held and agreed != seen and self._majority(link):
            with self._lock:
                if self._attached == seen:
                    self._agreed = seen
                    log.warning("replicas missing", attached=len(seen.replicas), of=self._redis.replicas)
        return len(seen.replicas) >= self._redis.replicas

    def _majority(self, link: Link) -> bool:
        if self._redis.cluster:
            return link.address is not None and cluster.confirmed(self._redis, link.address)
        if not self._redis.sentinels:
            return True
        return link.address is not None and sentinel.confirmed(self._redis, link.address)


def highest(levels: list[Durability]) -> Durability:
    """The level that holds for all of them."""
    order: tuple[Durability, ...] = ("memory", "replica", "archive", "disk")
    return max(levels, key=order.index)


def patience(wait: tuple[Any, ...] | None) -> float:
    """How long a `Prover.command` may block, in seconds."""
    return float(wait[-1]) / 1000 if wait else 0.0


def attached(link: Link) -> Attached:
    """The primary behind `link` and the replicas that are online at it now."""
    info: bytes = link.call("INFO", "replication")
    lines = dict(line.split(":", 1) for line in info.decode().splitlines() if ":" in line)
    replicas = frozenset(
        value.split(",offset", 1)[0]
        for key, value in lines.items()
        if re.fullmatch(r"slave\d+", key) and "state=online" in value and _lag(value) <= MAX_LAG
    )
    return Attached(link.address, lines["master_replid"], replicas)


def _lag(replica: str) -> int:
    """Seconds since the replica was last heard; Valkey 9 says more behind the lag."""
    found = re.search(r"\blag=(\d+)", replica)
    return int(found[1]) if found else MAX_LAG + 1


def replication_id(link: Link) -> str:
    """The replication id of the primary behind `link`."""
    return attached(link).replication_id
