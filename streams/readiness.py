"""What a process does before it works in a station: find each primary, check it, load the functions."""

from __future__ import annotations

import threading

import structlog
from redis.exceptions import ResponseError

from streams.backoff import Backoff
from streams.connection import Unreachable, connect
from streams.library import load_library
from streams.server_check import check_server
from streams.settings import RedisSection

log = structlog.get_logger(__name__)


def make_ready(redis: RedisSection, name: str, stopping: threading.Event) -> None:
    """Check each primary and load the server-side functions, waiting for it until `stopping` is set.

    Raises WrongServer where the server would break a promise.
    """
    link, backoff = connect(redis, name), Backoff(stopping)
    while not stopping.is_set():
        try:
            for one in link.primaries():
                check_server(one)
            load_library(link)
            break
        except (Unreachable, ResponseError) as error:
            if backoff.failures == 0:
                log.warning("waiting for Redis", detail=str(error))
            backoff.wait()
    link.close()
