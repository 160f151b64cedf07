"""Connections to the Redis primary: pinned, blocking, with no retries hidden inside.

A `Link` is one connection, because WAIT proves only what was written on its own connection.
What fails is told at once as `Unreachable`, which says what it means (`streams.faults`); who may
repeat what is the caller's to decide. A link is dropped, also under a call that blocks on it, as
soon as the Sentinels name another primary than the one it is connected to.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Sequence
from typing import Any

from redis.connection import Connection, parse_url
from redis.exceptions import AuthenticationError, BusyLoadingError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from streams.dial import dial
from streams.faults import FAULTS, Fault, fault_of
from streams.forbidden import Forbidden, is_forbidden
from streams.primary_watch import PrimaryWatch, watch_of
from streams.sentinel import Address, NoPrimary
from streams.settings import RedisSection

CONNECT_TIMEOUT = 2.0
"""Seconds to wait for a connection."""
REPLY_TIMEOUT = 3.0
"""Seconds to wait for the reply of a command, beyond the time it blocks by itself."""


class Unreachable(Exception):
    """Raised when the primary cannot be found or reached, does not answer, or refuses writes now.

    `sent` tells whether the command may have been executed all the same, `fault` what is the matter.
    """

    def __init__(self, detail: str, *, sent: bool, fault: Fault | None = None) -> None:
        super().__init__(detail)
        self.dependency = "redis"
        self.detail = detail
        self.sent = sent
        self.fault = fault


Locate = Callable[[], Address]


def connect(redis: RedisSection, name: str, *, slot_of: str | None = None) -> Link:
    """A link to the primary that `redis` describes; it connects at its first call.

    In a Redis Cluster, the primary is the one that serves the key `slot_of`; without it, all are
    reached, each command at the one that serves its key.
    """
    if redis.cluster:
        # Imported at need: these are built on this module, and few stations have a cluster.
        from streams.routed import Pinned, Routed

        return Routed(redis, name) if slot_of is None else Pinned(redis, name, slot_of)
    if redis.sentinels:
        watch = watch_of(redis)
        return Link(redis, name, watch.locate, watch)
    return Link(redis, name, lambda: address_of(redis.url))


def address_of(url: str) -> Address:
    """Host and port of a redis:// URL; raises Unreachable when there is none."""
    if not url:
        raise Unreachable("no Redis is configured: set redis.url, .sentinels or .cluster", sent=False)
    parts = parse_url(url)
    return Address(parts.get("host", "127.0.0.1"), int(parts.get("port", 6379)))


class Link:
    """One connection to the primary. Not thread-safe: each thread has its own."""

    spans_slots = False
    """Whether the keys of two commands may lie with different servers."""

    def __init__(
        self, redis: RedisSection, name: str, locate: Locate, watch: PrimaryWatch | None = None
    ) -> None:
        self._redis = redis
        self._name = name
        self._locate = locate
        self._watch = watch
        self._connection: Connection | None = None
        self._dialling: Connection | None = None
        self._left = False
        self.generation = 0
        """Counts the connections made; a change tells that an earlier proof is void."""
        self.address: Address | None = None

    def another(self, name: str) -> Link:
        """A link of its own to the same primary, for another thread."""
        return Link(self._redis, name, self._locate, self._watch)

    def to(self, key: str | bytes) -> Link:
        """The link to the primary that serves `key` now: this one, unless it is one to a whole cluster."""
        return self

    def serves(self, key: str) -> bool:
        """Whether a command on `key` can go over this link."""
        return True

    def at(self, key: str) -> Link:
        """A link to whichever primary serves `key`, over the connections of this one."""
        return self

    def primaries(self) -> list[Link]:
        """A link to each primary: this one alone, unless it is one to a whole cluster."""
        return [self]

    def call(self, *args: Any, timeout: float | None = None) -> Any:
        """Run one command and return its reply (bytes stay bytes).

        `timeout` is how long the command may block on the server, in seconds.
        Raises Unreachable, or ResponseError for an error that is the command's own.
        """
        reply = self.batch((args,), timeout=timeout)[0]
        if isinstance(reply, ResponseError):
            raise reply
        return reply

    def batch(
        self,
        commands: Sequence[Sequence[Any]],
        *,
        timeout: float | None = None,
        enough: Callable[[Any], bool] | None = None,
    ) -> list[Any]:
        """Run commands in one round trip; a command's own error stands in the list of replies.

        After a reply that is `enough` the others are not waited for: the connection is dropped.
        """
        connection = self._connected()
        patience = REPLY_TIMEOUT + (timeout or 0.0)
        try:
            connection.send_packed_command(connection.pack_commands(commands), check_health=False)
            replies: list[Any] = []
            for command in commands:
                reply = self._reply(connection, patience, sent=bool(replies))
                if is_forbidden(reply):
                    reply = Forbidden(command, self._redis.username, self.address, reply)
                replies.append(reply)
                if enough is not None and enough(replies[-1]):
                    self.close()
                    break
            return replies
        except (RedisConnectionError, RedisTimeoutError, OSError) as error:
            self.close()
            raise self._unreachable(FAULTS["SWITCHED"] if self._left else fault_of(error), error) from error
        except BaseException:
            # An interrupted exchange leaves replies unread: the connection is of no more use.
            self.close()
            raise

    def _reply(self, connection: Connection, patience: float, *, sent: bool) -> Any:
        """One reply; `sent` tells whether a command before it in the batch was executed."""
        try:
            return connection.read_response(timeout=patience)
        except (ResponseError, BusyLoadingError, AuthenticationError) as error:
            fault = fault_of(error)
            if fault is None or not fault.of_server:
                return error
            raise self._unreachable(fault, error, sent=sent) from error

    def _unreachable(self, fault: Fault | None, error: object, *, sent: bool = True) -> Unreachable:
        means = f"{fault.means} ({error})" if fault else str(error)
        return Unreachable(f"{self.address}: {means}", sent=sent, fault=fault)

    def _connected(self) -> Connection:
        if self._connection is not None:
            return self._connection
        known = self._watch.follow(self) if self._watch else 0
        try:
            self.address = self._locate()
        except NoPrimary as error:
            raise Unreachable(str(error), sent=False, fault=FAULTS[error.fault]) from error
        connection = self._dialling = open_connection(self.address, self._redis, name=self._name)
        self._left = False
        try:
            connection.connect()
            connection.send_command("ROLE")
            role = connection.read_response()[0]
        except (RedisError, OSError) as error:
            connection.disconnect()
            fault = FAULTS["SWITCHED"] if self._left else fault_of(error, connecting=True)
            raise self._unreachable(fault, error, sent=False) from error
        finally:
            self._dialling = None
        if role != b"master":
            connection.disconnect()
            raise self._unreachable(FAULTS["REPLICA"], f"its role: {role.decode()}", sent=False)
        self._connection = connection
        # What was learned in this very moment found no connection here to drop.
        if self._watch and self._watch.moved(known, self.address):
            self.close()
            raise self._unreachable(FAULTS["SWITCHED"], "just now", sent=False)
        self.generation += 1
        return connection

    def leave(self, primary: Address) -> None:
        """Drop the connection, also one that is being made or blocks, unless it is to `primary`.

        Any thread may call it.
        """
        connection = self._connection or self._dialling
        if connection is None or self.address == primary:
            return
        self._left = True
        open_socket: socket.socket | None = vars(connection)["_sock"]
        if open_socket is not None:
            with contextlib.suppress(OSError):
                # Not the method of a TLS socket, which would pull the session away under its reader.
                socket.socket.shutdown(open_socket, socket.SHUT_RDWR)

    def close(self) -> None:
        """Drop the connection; the next call makes a new one, asking the Sentinels afresh."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.disconnect()


def open_connection(address: Address, redis: RedisSection, *, name: str = "") -> Connection:
    """A connection (not yet made) to `address` with the credentials of `redis`, without retries."""
    return dial(
        redis,
        address.host,
        address.port,
        (redis.username, redis.password),
        name=name,
        connect_timeout=CONNECT_TIMEOUT,
        reply_timeout=REPLY_TIMEOUT,
    )
