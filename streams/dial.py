"""How a connection to a Redis server or Sentinel is made: with or without TLS, with no retries inside."""

from __future__ import annotations

from typing import Any

from redis.backoff import NoBackoff
from redis.connection import Connection, SSLConnection
from redis.retry import Retry

from streams import tls
from streams.settings import RedisSection


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
    secured: dict[str, Any] = tls.arguments(redis) if tls.encrypted(redis) else {}
    kind = SSLConnection if secured else Connection
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
        **secured,
    )
