"""taskiq with its Redis stream broker and Redis results."""

from __future__ import annotations

import asyncio
import logging
import sys

from taskiq.api import run_receiver_task
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

from bench.peers.protocol import PATIENCE, redis_url, serve_async

CHECK = 0.001
"""Seconds between two looks at the result; taskiq's own choice is 0.2."""

broker = RedisStreamBroker(
    redis_url(), queue_name="bench:taskiq", consumer_id="0", max_connection_pool_size=300, maxlen=100_000
).with_result_backend(RedisAsyncResultBackend(redis_url(), result_ex_time=60, max_connection_pool_size=300))


@broker.task(task_name="update")
async def update(source: str) -> str:
    return "completed"


async def worker() -> None:
    logging.basicConfig(level=logging.ERROR)
    await run_receiver_task(broker, run_startup=True, max_async_tasks=256)


async def client() -> None:
    await broker.startup()

    async def one() -> None:
        task = await update.kiq("bench")
        result = await task.wait_result(check_interval=CHECK, timeout=PATIENCE)
        if result.return_value != "completed":
            raise AssertionError(result)

    await serve_async(one, "taskiq", "taskiq-redis", "redis")
    await broker.shutdown()


if __name__ == "__main__":
    asyncio.run({"worker": worker, "client": client}[sys.argv[1]]())
