"""dramatiq with its Redis broker and Redis results, waited for by its blocking read."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import deque

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from bench.peers.protocol import PATIENCE, redis_url, serve

THREADS = 8
"""Worker threads: dramatiq's own choice per process."""

broker = RedisBroker(url=redis_url(), namespace="bench:dramatiq")
results = RedisBackend(url=redis_url(), namespace="bench:dramatiq:results")
broker.add_middleware(Results(backend=results, store_results=True, result_ttl=60_000))
dramatiq.set_broker(broker)


@dramatiq.actor(actor_name="update", queue_name="bench")
def update(source: str) -> str:
    return "completed"


def worker() -> None:
    logging.basicConfig(level=logging.ERROR)
    running = dramatiq.Worker(broker, worker_threads=THREADS)
    running.start()
    threading.Event().wait()


def client() -> None:
    timeout = int(PATIENCE * 1000)

    def take(message: dramatiq.Message[str]) -> None:
        if message.get_result(block=True, timeout=timeout) != "completed":
            raise AssertionError(message)

    def one() -> None:
        take(update.send("bench"))

    def many(seconds: float, in_flight: int) -> int:
        """Send ahead and take the results in order."""
        until = time.perf_counter() + seconds
        waiting = deque(update.send("bench") for _ in range(in_flight))
        count = 0
        while waiting:
            take(waiting.popleft())
            count += 1
            if time.perf_counter() < until:
                waiting.append(update.send("bench"))
        return count

    serve(one, many, "dramatiq", "redis")


if __name__ == "__main__":
    {"worker": worker, "client": client}[sys.argv[1]]()
