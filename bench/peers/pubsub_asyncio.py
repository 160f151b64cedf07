"""Command and reply over Pub/Sub with redis.asyncio: what Tocsin replaces.

JSON to one channel; the worker, subscribed to it, carries out one command after the other and
publishes the reply to the client's channel. Nothing is signed, kept, ordered or repeated.
"""

from __future__ import annotations

import asyncio
import json
import sys
from uuid import uuid4

from redis.asyncio import BlockingConnectionPool, Redis

from bench.peers.protocol import redis_url, serve_async

COMMANDS = "bench:pubsub-asyncio:commands"
CONNECTIONS = 16
"""Connections to publish by; fewer and more were slower."""


async def worker() -> None:
    async with Redis.from_url(redis_url()) as redis, redis.pubsub(ignore_subscribe_messages=True) as pubsub:
        await pubsub.subscribe(COMMANDS)
        async for message in pubsub.listen():
            command = json.loads(message["data"])
            reply = {"id": command["id"], "outcome": "completed"}
            await redis.publish(command["reply_to"], json.dumps(reply))


async def client() -> None:
    replies = f"bench:pubsub-asyncio:replies:{uuid4().hex}"
    waiting: dict[str, asyncio.Future[None]] = {}
    pool = BlockingConnectionPool.from_url(redis_url(), max_connections=CONNECTIONS, timeout=None)
    async with Redis.from_pool(pool) as redis, redis.pubsub(ignore_subscribe_messages=True) as pubsub:
        await pubsub.subscribe(replies)

        async def listen() -> None:
            async for message in pubsub.listen():
                reply = json.loads(message["data"])
                waiting.pop(reply["id"]).set_result(None)

        async def one() -> None:
            id = str(uuid4())
            answered = waiting[id] = asyncio.get_running_loop().create_future()
            command = {"id": id, "type": "source.update", "source": "bench", "reply_to": replies}
            while not await redis.publish(COMMANDS, json.dumps(command)):
                await asyncio.sleep(0.1)  # nobody is subscribed yet
            await answered

        listening = asyncio.create_task(listen())
        await serve_async(one, "redis", "hiredis")
        listening.cancel()


if __name__ == "__main__":
    asyncio.run({"worker": worker, "client": client}[sys.argv[1]]())
