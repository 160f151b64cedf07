"""FastStream: request and reply through a Redis stream with a consumer group, replies over Pub/Sub."""

from __future__ import annotations

import asyncio
import logging
import sys

from faststream import FastStream
from faststream.redis import RedisBroker, StreamSub

from bench.peers.protocol import PATIENCE, redis_url, serve_async

STREAM = "bench:faststream:commands"

broker = RedisBroker(redis_url(), logger=None)


async def worker() -> None:
    @broker.subscriber(
        stream=StreamSub(STREAM, group="bench", consumer="worker", polling_interval=100), max_workers=256
    )
    async def update(command: dict[str, str]) -> str:
        return "completed"

    await FastStream(broker, logger=None).run(log_level=logging.WARNING)


async def client() -> None:
    async with broker:
        await broker.start()

        async def one() -> None:
            command = {"type": "source.update", "source": "bench"}
            reply = await broker.request(command, stream=STREAM, maxlen=100_000, timeout=PATIENCE)
            if await reply.decode() != "completed":
                raise AssertionError(reply)

        await asyncio.sleep(1.0)  # a request before the worker's group exists is never delivered
        await serve_async(one, "faststream", "redis")


if __name__ == "__main__":
    asyncio.run({"worker": worker, "client": client}[sys.argv[1]]())
