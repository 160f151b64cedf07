"""The web server: granian around an ASGI app, in this process, until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import structlog
from granian.constants import Interfaces
from granian.server.embed import Server

THREADS = 48
"""Requests handled at once; asyncio's own choice on two processors would be six."""

OPEN = 2048
"""Connections open at once: each page keeps one. The server's own choice is 128, and the next one hangs."""

PATIENCE = 5.0
"""Seconds that clients get, at a stop, to be answered."""

log = structlog.get_logger("control.serve")


def free_port(host: str, port: int = 0) -> int:
    """`port` if nobody listens there, any free one for 0; raises OSError when it is taken.

    The server itself would not notice: it shares its port with others that are willing to.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family) as found:
        free: int = found.getsockname()[1]
    return free


def serve(app: Any, *, host: str, port: int, before_stop: Callable[[], None]) -> None:
    """Serve `app` on a port that `free_port` gave. `before_stop` ends what keeps clients waiting.

    Call it from the main thread.
    """
    asyncio.run(_serve(app, host, port, before_stop))


async def _serve(app: Any, host: str, port: int, before_stop: Callable[[], None]) -> None:
    server = Server(
        app,
        address=host,
        port=port,
        interface=Interfaces.ASGI,
        websockets=False,
        log_enabled=False,
        backlog=OPEN,
        backpressure=OPEN,
    )
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(THREADS, thread_name_prefix="request"))

    serving = loop.create_task(server.serve())

    def stop() -> None:
        before_stop()
        # In the next turn of the loop, when the feeds have been told and have ended.
        loop.call_later(0.05, server.stop)
        # It waits for all that is still being answered, also where a client is gone and nobody has noticed.
        loop.call_later(PATIENCE, serving.cancel)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    log.info("web process serves", url=f"http://{host}:{port}")
    try:
        await serving
    except asyncio.CancelledError:
        log.warning("web process stops with answers not given", seconds=PATIENCE)
    log.info("web process stopped")
