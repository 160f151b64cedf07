"""Which server is the primary: asked of every Sentinel, believed from a majority.

Sentinel clients guide: https://valkey.io/topics/sentinel-clients/. Beyond it, all Sentinels are
asked and the highest config-epoch among a majority of answers wins, because the Sentinel that
leads a failover can be seconds behind the others, and an isolated one is stale for as long as it is cut off.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
from redis.backoff import NoBackoff
from redis.connection import Connection
from redis.exceptions import RedisError
from redis.retry import Retry

from streams.settings import RedisSection

ASK_TIMEOUT = 0.5
"""Seconds a Sentinel may take to answer."""


class Address(NamedTuple):
    """Host and port of a server."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class NoPrimary(Exception):
    """Raised when no majority of the Sentinels answers, or none of them knows the service."""


class Opinion(msgspec.Struct, frozen=True):
    """What one Sentinel says of the primary."""

    address: Address
    epoch: int
    flags: frozenset[str]

    @property
    def failing(self) -> bool:
        """Whether this Sentinel believes the primary to be down or a failover to be in progress."""
        return bool(self.flags & {"s_down", "o_down", "failover_in_progress"})


def primary_address(redis: RedisSection) -> Address:
    """The primary that a majority of Sentinels makes believable; raises NoPrimary."""
    return chosen(ask(redis), redis)


def chosen(opinions: Sequence[Opinion], redis: RedisSection) -> Address:
    """The address with the highest config-epoch among a majority of opinions; raises NoPrimary."""
    if len(opinions) < majority(redis):
        raise NoPrimary(
            f"{len(opinions)} of {len(redis.sentinels)} Sentinels answered for {redis.service!r}; "
            f"{majority(redis)} are needed ({', '.join(redis.sentinels)})"
        )
    return max(opinions, key=lambda opinion: opinion.epoch).address


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


def ask(redis: RedisSection) -> list[Opinion]:
    """The opinions of all Sentinels that answer within ASK_TIMEOUT, asked at the same time."""
    answers: list[Opinion] = []

    def one(sentinel: str) -> None:
        if opinion := _opinion(sentinel, redis):
            answers.append(opinion)

    # No pool: its threads could not be had any more while a process ends, and would be waited for.
    threads = [threading.Thread(target=one, args=(sentinel,), daemon=True) for sentinel in redis.sentinels]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def _opinion(sentinel: str, redis: RedisSection) -> Opinion | None:
    host, _, port = sentinel.rpartition(":")
    connection = Connection(
        host=host,
        port=int(port),
        password=redis.password or None,
        driver_info=None,
        protocol=2,
        socket_connect_timeout=ASK_TIMEOUT,
        socket_timeout=ASK_TIMEOUT,
        retry=Retry(NoBackoff(), 0),
    )
    try:
        connection.connect()
        connection.send_command("SENTINEL", "MASTER", redis.service)
        return _parse(connection.read_response())
    except (RedisError, OSError, KeyError, ValueError):
        return None
    finally:
        connection.disconnect()


def _parse(flat: list[Any]) -> Opinion:
    fields = {key.decode(): value.decode() for key, value in zip(flat[::2], flat[1::2], strict=True)}
    return Opinion(
        address=Address(fields["ip"], int(fields["port"])),
        epoch=int(fields["config-epoch"]),
        flags=frozenset(fields["flags"].split(",")),
    )
