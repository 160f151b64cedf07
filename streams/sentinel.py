"""Which server is the primary: asked of every Sentinel, believed from a majority.

Sentinel clients guide: https://valkey.io/topics/sentinel-clients/. Beyond it, all Sentinels are asked.
What a majority names and sees no fault in is the primary, whatever the others say: they may be cut
off, stale, or lie. Without such a majority there is a failover, and the highest config-epoch wins among
the servers that a majority knows as part of the set: the Sentinel that leads a failover can be
seconds behind the others, so a majority for the new primary would come seconds later.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

import msgspec
from redis.connection import Connection
from redis.exceptions import ConnectionError as Broken
from redis.exceptions import NoPermissionError, RedisError

from streams.dial import dial
from streams.settings import RedisSection

ASK_TIMEOUT = 0.5
"""Seconds a Sentinel may take to answer."""
STRAGGLING = 0.1
"""Seconds that it may answer later than a majority did, where somebody waits to go on."""


class Address(NamedTuple):
    """Host and port of a server."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class NoPrimary(Exception):
    """Raised when no majority of the Sentinels answers, or what they say does not fit together."""

    fault = "NOPRIMARY"
    """What it is called in `streams.faults`."""


class Replica(msgspec.Struct, frozen=True):
    """A replica that answers a Sentinel, as it was when that last asked: it does so every ten seconds.

    `leads` where it said that it is a primary, `hidden` where it must not be promoted.
    """

    address: Address
    leads: bool
    hidden: bool


class Opinion(msgspec.Struct, frozen=True):
    """What one Sentinel says of the primary; `replicas` is None where it does not tell.

    `seen` are those of them that answer it, `down_after` the seconds without an answer after which it
    deems a server down (0 where it does not tell).
    """

    address: Address
    epoch: int
    flags: frozenset[str]
    replicas: frozenset[Address] | None = None
    seen: frozenset[Replica] = frozenset()
    down_after: float = 0.0

    @property
    def failing(self) -> bool:
        """Whether this Sentinel believes the primary to be down or a failover to be in progress."""
        return bool(self.flags & {"s_down", "o_down", "failover_in_progress"})

    @property
    def unready(self) -> frozenset[Address]:
        """The replicas that this Sentinel would not promote, or would demote again if another did."""
        return frozenset(one.address for one in self.seen if one.leads or one.hidden)

    def knows(self, address: Address) -> bool:
        """Whether `address` belongs to the set that this Sentinel watches."""
        return address == self.address or self.replicas is None or address in self.replicas


def primary_address(redis: RedisSection) -> Address:
    """The primary that a majority of Sentinels makes believable; raises NoPrimary."""
    return chosen(ask(redis, enough=lambda opinions: _settled(opinions, redis) is not None), redis)


def chosen(opinions: Sequence[Opinion], redis: RedisSection) -> Address:
    """The primary, by what the Sentinels say: see the top of this module. Raises NoPrimary."""
    needed = majority(redis)
    if len(opinions) < needed:
        raise NoPrimary(
            f"{len(opinions)} of {len(redis.sentinels)} Sentinels answered for {redis.service!r}; "
            f"{needed} are needed ({', '.join(redis.sentinels)})"
        )
    settled = _settled(opinions, redis)
    if settled is not None:
        return settled
    # The leader of a failover has the new epoch too, and the old address until it is done with all.
    for opinion in sorted(opinions, key=lambda opinion: (-opinion.epoch, opinion.failing)):
        if sum(one.knows(opinion.address) for one in opinions) >= needed:
            return opinion.address
    named = ", ".join(sorted({str(opinion.address) for opinion in opinions}))
    raise NoPrimary(f"the Sentinels contradict one another on {redis.service!r}: they name {named}")


def _settled(opinions: Sequence[Opinion], redis: RedisSection) -> Address | None:
    """The primary that a majority names and sees no fault in."""
    named = {opinion.address for opinion in opinions}
    return next((address for address in named if agreed(opinions, redis, address)), None)


def confirmed(redis: RedisSection, address: Address) -> bool:
    """Whether a majority of Sentinels names `address` as primary and sees no failover of it."""
    return agreed(ask(redis), redis, address)


def agreed(opinions: Sequence[Opinion], redis: RedisSection, address: Address) -> bool:
    """Whether a majority of all Sentinels, also of those that are silent, is content with `address`."""
    content = [opinion for opinion in opinions if opinion.address == address and not opinion.failing]
    return len(content) >= majority(redis)


def majority(redis: RedisSection) -> int:
    """How many Sentinels make a majority of those configured."""
    return len(redis.sentinels) // 2 + 1


def ask(
    redis: RedisSection,
    enough: Callable[[list[Opinion]], bool] | None = None,
    kept: dict[str, Connection] | None = None,
) -> list[Opinion]:
    """The opinions of all Sentinels that answer within ASK_TIMEOUT, asked at the same time.

    Those that come after what is `enough` are not waited for, and once a majority has answered the
    others have only STRAGGLING more: one of them was on the host that has just died. Whoever asks again and
    again has the connections `kept`, by Sentinel: over TLS, making one costs far more than the question.
    """
    answers: SimpleQueue[Opinion | None] = SimpleQueue()

    def one(sentinel: str) -> None:
        answers.put(_opinion(sentinel, redis, kept))

    # No pool: its threads could not be had any more while a process ends, and would be waited for.
    for sentinel in redis.sentinels:
        threading.Thread(target=one, args=(sentinel,), name=f"ask-{sentinel}", daemon=True).start()
    opinions: list[Opinion] = []
    until = math.inf
    for _ in redis.sentinels:
        try:
            opinion = answers.get(timeout=min(max(until - time.monotonic(), 0.0), 60.0))
        except Empty:
            break
        if opinion is None:
            continue
        opinions.append(opinion)
        if enough is not None and enough(opinions):
            break
        if enough is not None and len(opinions) == majority(redis):
            until = time.monotonic() + STRAGGLING
    return opinions


def ask_each(redis: RedisSection) -> dict[str, Opinion | None]:
    """What each Sentinel says, by its `host:port`; None where it does not answer within ASK_TIMEOUT."""
    found: dict[str, Opinion | None] = dict.fromkeys(redis.sentinels)

    def one(sentinel: str) -> None:
        found[sentinel] = _opinion(sentinel, redis)

    threads = [threading.Thread(target=one, args=(sentinel,), daemon=True) for sentinel in redis.sentinels]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(3 * ASK_TIMEOUT)
    return dict(found)


def _opinion(sentinel: str, redis: RedisSection, kept: dict[str, Connection] | None = None) -> Opinion | None:
    held = kept.pop(sentinel, None) if kept is not None else None
    connection = held or open_sentinel(sentinel, redis)
    try:
        try:
            opinion = _asked(connection, redis)
        except Broken:
            if held is None:
                raise
            # It was restarted since: only a new connection says whether it answers.
            connection = open_sentinel(sentinel, redis)
            opinion = _asked(connection, redis)
    except (RedisError, OSError, KeyError, ValueError):
        connection.disconnect()
        return None
    if kept is None:
        connection.disconnect()
    else:
        kept[sentinel] = connection
    return opinion


def _asked(connection: Connection, redis: RedisSection) -> Opinion:
    """What the Sentinel at the other end says. Raises RedisError, OSError, KeyError, ValueError."""
    connection.connect()
    asking = (("SENTINEL", "MASTER", redis.service), ("SENTINEL", "REPLICAS", redis.service))
    connection.send_packed_command(connection.pack_commands(asking))
    said = connection.read_response()
    try:
        replicas = connection.read_response()
    except NoPermissionError:
        replicas = None
    return _parse(said, replicas)


def open_sentinel(sentinel: str, redis: RedisSection) -> Connection:
    """A connection (not yet made) to the Sentinel at `host:port`, without retries."""
    host, _, port = sentinel.rpartition(":")
    return dial(
        redis,
        host,
        int(port),
        redis.sentinel_login,
        connect_timeout=ASK_TIMEOUT,
        reply_timeout=ASK_TIMEOUT,
    )


def _parse(said: list[Any], replicas: list[list[Any]] | None) -> Opinion:
    fields = _fields(said)
    each = [_fields(one) for one in replicas or ()]
    return Opinion(
        address=_address(fields),
        epoch=int(fields["config-epoch"]),
        flags=frozenset(fields["flags"].split(",")),
        replicas=None if replicas is None else frozenset(map(_address, each)),
        seen=frozenset(_seen(one) for one in each if "s_down" not in one["flags"].split(",")),
        down_after=int(fields.get("down-after-milliseconds", 0)) / 1000,
    )


def _seen(fields: dict[str, str]) -> Replica:
    return Replica(
        _address(fields),
        leads=fields.get("role-reported") == "master",
        hidden=fields.get("slave-priority") == "0",
    )


def _fields(flat: list[Any]) -> dict[str, str]:
    return {key.decode(): value.decode() for key, value in zip(flat[::2], flat[1::2], strict=True)}


def _address(fields: dict[str, str]) -> Address:
    return Address(fields["ip"], int(fields["port"]))
