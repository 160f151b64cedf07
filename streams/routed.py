"""A link to all primaries of a Redis Cluster: each command goes to the one that serves its key.

It is for readers and for what belongs to no lane. Who writes to a lane uses `to(key)`, or a link of
its own by `connect(…, slot_of=key)`: WAIT proves only what was written on its own connection.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from redis.connection import Connection

from streams import cluster
from streams.connection import Link, Unreachable
from streams.faults import FAULTS
from streams.sentinel import Address, NoPrimary
from streams.settings import RedisSection

KEYLESS = frozenset(
    {"ACL", "CLIENT", "CLUSTER", "CONFIG", "DBSIZE", "FUNCTION", "INFO", "PING", "ROLE", "SCAN", "TIME"}
    | {"WAIT", "WAITAOF"}
)
"""Commands without a key: they go where the command before them in the batch goes."""


def key_of(command: Sequence[Any]) -> str | bytes | None:
    """The first key of a command, None where it has none."""
    name = str(command[0])
    if name in KEYLESS:
        return None
    if name in ("FCALL", "FCALL_RO"):
        return command[3] if int(command[2]) else None
    if name in ("XREAD", "XREADGROUP"):
        at = list(command).index("STREAMS") + 1
    else:
        at = 2 if name == "XINFO" else 1
    key: str | bytes = command[at]
    return key


class Pinned(Link):
    """A link to the primary that serves one key, and all keys of the same hash tag."""

    def __init__(self, redis: RedisSection, name: str, key: str) -> None:
        self._slot = cluster.slot_of(key)
        super().__init__(redis, name, lambda: cluster.primary_of(redis, self._slot))
        self._key = key

    def another(self, name: str) -> Link:
        """A link of its own to the same primary, for another thread."""
        return Pinned(self._redis, name, self._key)

    def serves(self, key: str) -> bool:
        """Whether `key` is in the same slot: others are, or will be one day, with another primary."""
        return cluster.slot_of(key) == self._slot


class Routed(Link):
    """Links to the primaries of a cluster, used as if they were one. Not thread-safe either."""

    spans_slots = True

    def __init__(self, redis: RedisSection, name: str) -> None:
        super().__init__(redis, name, self._serving)
        self._found: cluster.Layout | None = None
        self._shards: dict[Address, _Shard] = {}

    def another(self, name: str) -> Link:
        """A link of its own to the same cluster, for another thread."""
        return Routed(self._redis, name)

    def to(self, key: str | bytes) -> Link:
        """The link to the primary that serves `key` now; ask again for each use. Raises Unreachable."""
        try:
            return self._shard(self._layout().owner(cluster.slot_of(key)))
        except cluster.Electing as error:
            self.forget()
            raise _unreachable(error) from error

    def at(self, key: str) -> Link:
        """A link to whichever primary serves `key`, over the connections of this one."""
        return _Slot(self, key, self._redis, self._name)

    def primaries(self) -> list[Link]:
        """A link to each primary. Raises Unreachable."""
        return [self._shard(address) for address in self._layout().primaries]

    def batch(
        self,
        commands: Sequence[Sequence[Any]],
        *,
        timeout: float | None = None,
        enough: Callable[[Any], bool] | None = None,
    ) -> list[Any]:
        """Run commands, those for one primary in one round trip; the order holds for each primary.

        `enough` counts only where all are for one primary.
        """
        groups: dict[Link, list[int]] = {}
        link: Link | None = None
        for index, command in enumerate(commands):
            key = key_of(command)
            if key is not None:
                link = self.to(key)
            elif link is None:
                link = self._shard(self._serving())
            groups.setdefault(link, []).append(index)
        if len(groups) == 1:
            return next(iter(groups)).batch(commands, timeout=timeout, enough=enough)
        replies: list[Any] = [None] * len(commands)
        begun = False
        for link, indexes in groups.items():
            try:
                some = link.batch([commands[index] for index in indexes], timeout=timeout)
            except Unreachable as error:
                if begun and not error.sent:
                    raise Unreachable(error.detail, sent=True, fault=error.fault) from error
                raise
            begun = True
            for index, reply in zip(indexes, some, strict=True):
                replies[index] = reply
        return replies

    def forget(self) -> None:
        """Ask the nodes again, at the next use, which of them serves what."""
        self._found = None

    def close(self) -> None:
        """Drop all connections; the next call makes new ones, asking the nodes afresh."""
        for shard in self._shards.values():
            shard.close()
        self._shards.clear()
        self.forget()

    def _layout(self) -> cluster.Layout:
        if self._found is not None:
            return self._found
        try:
            found = cluster.layout(self._redis)
        except NoPrimary as error:
            raise _unreachable(error) from error
        for address in self._shards.keys() - set(found.primaries):
            self._shards.pop(address).close()
        self._found = found
        return found

    def _serving(self) -> Address:
        """A primary that is not known to have failed. Raises Unreachable."""
        found = self._layout()
        return next((one for one in found.primaries if one not in found.failed), found.primaries[0])

    def _shard(self, address: Address) -> _Shard:
        if address not in self._shards:
            self._shards[address] = _Shard(self, address, self._redis, self._name)
        return self._shards[address]


def _unreachable(error: NoPrimary) -> Unreachable:
    return Unreachable(str(error), sent=False, fault=FAULTS[error.fault])


class _Shard(Link):
    """The link to one primary. Whatever goes wrong with it, the nodes are asked again."""

    def __init__(self, router: Routed, address: Address, redis: RedisSection, name: str) -> None:
        super().__init__(redis, name, lambda: address)
        self._router = router

    def _connected(self) -> Connection:
        try:
            return super()._connected()
        except Unreachable:
            self._router.forget()
            raise

    def close(self) -> None:
        self._router.forget()
        super().close()


class _Slot(Pinned):
    """Goes, at each use, to the primary that serves its key then, over a connection of the router."""

    def __init__(self, router: Routed, key: str, redis: RedisSection, name: str) -> None:
        super().__init__(redis, name, key)
        self._router = router
        self._shard: Link | None = None
        self._seen: tuple[Address | None, int] = (None, 0)

    def batch(
        self,
        commands: Sequence[Sequence[Any]],
        *,
        timeout: float | None = None,
        enough: Callable[[Any], bool] | None = None,
    ) -> list[Any]:
        """Run commands in one round trip, as `Link.batch` does."""
        shard = self._shard = self._router.to(self._key)
        try:
            return shard.batch(commands, timeout=timeout, enough=enough)
        finally:
            self.address = shard.address
            before, self._seen = self._seen, (shard.address, shard.generation)
            self.generation += before != self._seen

    def close(self) -> None:
        """Drop the connection; the next call makes a new one, asking the nodes afresh."""
        if self._shard is not None:
            self._shard.close()
