"""What a process does before it works in a station: find the primary, check it, load the functions."""

from __future__ import annotations

import threading

import structlog
from redis.exceptions import ResponseError

from streams.connection import Unreachable, connect
from streams.library import load_library
from streams.server_check import check_server
from streams.settings import RedisSection

RETRY = 0.5
"""Seconds between attempts to reach a primary."""

log = structlog.get_logger(__name__)


def make_ready(redis: RedisSection, name: str, stopping: threading.Event) -> None:
    """Check the primary and load the server-side functions, waiting for one until `stopping` is set.

    Raises WrongServer where the server would break a promise.
    """
    link, told = connect(redis, name), False
    while not stopping.is_set():
        try:
            check_server(link)
            load_library(link)
            break
        except (Unreachable, ResponseError) as error:
            if not told:
                log.warning("waiting for Redis", detail=str(error))
            told = True
            stopping.wait(RETRY)
    link.close()
