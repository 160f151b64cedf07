"""Connections to the Redis primary: pinned, blocking, with no retries hidden inside.

A `Link` is one connection, because WAIT proves only what was written on its own connection.
What fails is told at once as `Unreachable`; who may repeat what is the caller's to decide.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from redis.backoff import NoBackoff
from redis.connection import Connection, parse_url
from redis.exceptions import (
    BusyLoadingError,
    ClusterDownError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from streams.sentinel import Address, NoPrimary, primary_address
from streams.settings import RedisSection

CONNECT_TIMEOUT = 2.0
"""Seconds to wait for a connection."""
REPLY_TIMEOUT = 3.0
"""Seconds to wait for the reply of a command, beyond the time it blocks by itself."""

UNFIT = (ReadOnlyError, BusyLoadingError, ClusterDownError, TryAgainError, OutOfMemoryError)
UNFIT_CODES = ("UNBLOCKED", "NOREPLICAS", "MISCONF", "BUSY ")
"""Errors that say: this server is not (or no longer) the one to talk to, or takes no writes now.
The command had no effect. redis-py has classes for some and takes their code off the text."""


class Unreachable(Exception):
    """Raised when the primary cannot be found or reached, does not answer, or refuses writes now.

    `sent` tells whether the command may have been executed all the same.
    """

    def __init__(self, detail: str, *, sent: bool) -> None:
        super().__init__(detail)
        self.dependency = "redis"
        self.detail = detail
        self.sent = sent


Locate = Callable[[], Address]


def connect(redis: RedisSection, name: str) -> Link:
    """A link to the primary that `redis` describes; it connects at its first call."""
    if redis.sentinels:
        return Link(redis, name, lambda: primary_address(redis))
    return Link(redis, name, lambda: address_of(redis.url))


def address_of(url: str) -> Address:
    """Host and port of a redis:// URL; raises Unreachable when there is none."""
    if not url:
        raise Unreachable("no Redis is configured: set redis.url or redis.sentinels", sent=False)
    parts = parse_url(url)
    return Address(parts.get("host", "127.0.0.1"), int(parts.get("port", 6379)))


class Link:
    """One connection to the primary. Not thread-safe: each thread has its own."""

    def __init__(self, redis: RedisSection, name: str, locate: Locate) -> None:
        self._redis = redis
        self._name = name
        self._locate = locate
        self._connection: Connection | None = None
        self.generation = 0
        """Counts the connections made; a change tells that an earlier proof is void."""
        self.address: Address | None = None

    def another(self, name: str) -> Link:
        """A link of its own to the same primary, for another thread."""
        return Link(self._redis, name, self._locate)

    def call(self, *args: Any, timeout: float | None = None) -> Any:
        """Run one command and return its reply (bytes stay bytes).

        `timeout` is how long the command may block on the server, in seconds.
        Raises Unreachable, or ResponseError for an error that is the command's own.
        """
        reply = self.batch((args,), timeout=timeout)[0]
        if isinstance(reply, ResponseError):
            raise reply
        return reply

    def batch(self, commands: Sequence[Sequence[Any]], *, timeout: float | None = None) -> list[Any]:
        """Run commands in one round trip; a command's own error stands in the list of replies."""
        connection = self._connected()
        patience = REPLY_TIMEOUT + (timeout or 0.0)
        try:
            connection.send_packed_command(connection.pack_commands(commands), check_health=False)
            replies: list[Any] = []
            for _ in commands:
                replies.append(self._reply(connection, patience, sent=bool(replies)))
            return replies
        except (RedisConnectionError, RedisTimeoutError, OSError) as error:
            self.close()
            raise Unreachable(f"{self.address}: {error}", sent=True) from error
        except BaseException:
            # An interrupted exchange leaves replies unread: the connection is of no more use.
            self.close()
            raise

    def _reply(self, connection: Connection, patience: float, *, sent: bool) -> Any:
        """One reply; `sent` tells whether a command before it in the batch was executed."""
        try:
            return connection.read_response(timeout=patience)
        except (ResponseError, BusyLoadingError) as error:
            if isinstance(error, UNFIT) or str(error).startswith(UNFIT_CODES):
                raise Unreachable(f"{self.address}: {error}", sent=sent) from error
            return error

    def _connected(self) -> Connection:
        if self._connection is not None:
            return self._connection
        try:
            self.address = self._locate()
        except NoPrimary as error:
            raise Unreachable(str(error), sent=False) from error
        connection = open_connection(self.address, self._redis, name=self._name)
        try:
            connection.connect()
            connection.send_command("ROLE")
            role = connection.read_response()[0]
        except (RedisError, OSError) as error:
            connection.disconnect()
            raise Unreachable(f"{self.address}: {error}", sent=False) from error
        if role != b"master":
            connection.disconnect()
            raise Unreachable(f"{self.address} is no primary now (its role: {role.decode()})", sent=False)
        self.generation += 1
        self._connection = connection
        return connection

    def close(self) -> None:
        """Drop the connection; the next call makes a new one, asking the Sentinels afresh."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.disconnect()


def open_connection(address: Address, redis: RedisSection, *, name: str = "") -> Connection:
    """A connection (not yet made) to `address` with the credentials of `redis`, without retries."""
    return Connection(
        host=address.host,
        port=address.port,
        username=redis.username or None,
        password=redis.password or None,
        client_name=f"tocsin-{name}" if name else None,
        driver_info=None,
        protocol=2,
        socket_connect_timeout=CONNECT_TIMEOUT,
        socket_timeout=REPLY_TIMEOUT,
        socket_keepalive=True,
        retry=Retry(NoBackoff(), 0),
    )
