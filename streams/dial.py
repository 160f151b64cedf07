"""How a connection to a Redis server or Sentinel is made: with or without TLS, with no retries inside."""

from __future__ import annotations

import socket
from typing import Any

from redis.backoff import NoBackoff
from redis.connection import Connection, SSLConnection
from redis.retry import Retry

from streams import tls
from streams.settings import RedisSection


class Secured(SSLConnection):
    """Over TLS, verified as `streams.tls` says and not as redis-py does.

    That makes a context for each connection, and lets the machine's own authorities vouch for a server too.
    """

    def __init__(self, *, settings: RedisSection, **others: Any) -> None:
        super().__init__(**others)
        self._settings = settings

    def _wrap_socket_with_ssl(self, sock: socket.socket) -> socket.socket:
        return tls.context(self._settings).wrap_socket(sock, server_hostname=self.host)


def dial(
    redis: RedisSection,
    host: str,
    port: int,
    login: tuple[str, str],
    *,
    name: str = "",
    connect_timeout: float,
    reply_timeout: float,
) -> Connection:
    """A connection, not yet made, with user and password of `login` (each may be empty)."""
    user, password = login
    secured = tls.encrypted(redis)
    kind = Secured if secured else Connection
    return kind(
        host=host,
        port=port,
        username=user or None,
        password=password or None,
        client_name=f"tocsin-{name}" if name else None,
        driver_info=None,
        protocol=2,
        socket_connect_timeout=connect_timeout,
        socket_timeout=reply_timeout,
        socket_keepalive=True,
        retry=Retry(NoBackoff(), 0),
        **({"settings": redis} if secured else {}),
    )
