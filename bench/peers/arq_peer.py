"""arq with results; its polling set finer than the half second it chooses itself."""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Any

from arq import create_pool, func
from arq.connections import RedisSettings
from arq.worker import Worker

from bench.peers.protocol import PATIENCE, redis_url, serve_async

POLL = 0.005
"""Seconds between two looks, at the queue and for the result."""

settings = RedisSettings.from_dsn(redis_url())
settings.max_connections = 300
QUEUE = "bench:arq"


async def update(ctx: dict[Any, Any], source: str) -> str:
    return "completed"


def worker() -> None:
    logging.basicConfig(level=logging.ERROR)
    Worker(
        functions=[func(update, name="update", keep_result=60)],
        queue_name=QUEUE,
        redis_settings=settings,
        poll_delay=POLL,
        max_jobs=256,
        log_results=False,
    ).run()


async def client() -> None:
    pool = await create_pool(settings, default_queue_name=QUEUE)

    async def one() -> None:
        job = await pool.enqueue_job("update", "bench")
        if job is None or await job.result(timeout=PATIENCE, poll_delay=POLL) != "completed":
            raise AssertionError(job)

    await serve_async(one, "arq", "redis")
    await pool.aclose()


if __name__ == "__main__":
    worker() if sys.argv[1] == "worker" else asyncio.run(client())
