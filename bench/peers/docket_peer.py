"""docket (pydocket) with results, which it announces over Pub/Sub."""

from __future__ import annotations

import asyncio
import logging
import sys
from datetime import timedelta

from docket import Docket, Worker

from bench.peers.protocol import PATIENCE, redis_url, serve_async


async def update(source: str) -> str:
    return "completed"


def docket() -> Docket:
    made = Docket(name="bench-docket", url=redis_url(), execution_ttl=timedelta(seconds=60))
    made.register(update)
    return made


async def worker() -> None:
    logging.basicConfig(level=logging.ERROR)
    async with docket() as held, Worker(held, concurrency=256) as running:
        await running.run_forever()


async def client() -> None:
    async with docket() as held:

        async def one() -> None:
            execution = await held.add(update)("bench")
            if await execution.get_result(timeout=timedelta(seconds=PATIENCE)) != "completed":
                raise AssertionError(execution)

        await serve_async(one, "pydocket", "redis")


if __name__ == "__main__":
    asyncio.run({"worker": worker, "client": client}[sys.argv[1]]())
