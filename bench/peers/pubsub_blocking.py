"""Command and reply over Pub/Sub with blocking redis-py: the same without an event loop."""

from __future__ import annotations

import json
import sys
import threading
import time
from uuid import uuid4

from redis import Redis

from bench.peers.protocol import PATIENCE, redis_url, serve

COMMANDS = "bench:pubsub-blocking:commands"


def worker() -> None:
    redis = Redis.from_url(redis_url())
    pubsub = redis.pubsub(ignore_subscribe_messages=True)
    pubsub.subscribe(COMMANDS)
    for message in pubsub.listen():
        command = json.loads(message["data"])
        redis.publish(command["reply_to"], json.dumps({"id": command["id"], "outcome": "completed"}))


def client() -> None:
    redis = Redis.from_url(redis_url())
    pubsub = redis.pubsub(ignore_subscribe_messages=True)
    replies = f"bench:pubsub-blocking:replies:{uuid4().hex}"
    pubsub.subscribe(replies)
    pubsub.get_message(timeout=PATIENCE)

    def send() -> str:
        id = str(uuid4())
        command = {"id": id, "type": "source.update", "source": "bench", "reply_to": replies}
        while not redis.publish(COMMANDS, json.dumps(command)):
            time.sleep(0.1)  # nobody is subscribed yet
        return id

    def receive() -> str:
        while True:
            message = pubsub.get_message(timeout=PATIENCE)
            if message is not None:
                return str(json.loads(message["data"])["id"])

    def one() -> None:
        id = send()
        while receive() != id:
            pass

    def many(seconds: float, in_flight: int) -> int:
        """One thread sends, this one receives; a semaphore keeps so many in flight."""
        window = threading.Semaphore(in_flight)
        sent = 0
        done = threading.Event()
        until = time.perf_counter() + seconds

        def sending() -> None:
            nonlocal sent
            while time.perf_counter() < until:
                window.acquire()
                sent += 1
                send()
            done.set()

        thread = threading.Thread(target=sending)
        thread.start()
        received = 0
        while not done.is_set() or received < sent:
            if pubsub.get_message(timeout=0.05) is not None:
                received += 1
                window.release()
        thread.join()
        return received

    serve(one, many, "redis", "hiredis")


if __name__ == "__main__":
    {"worker": worker, "client": client}[sys.argv[1]]()
