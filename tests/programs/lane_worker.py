"""A process that owns lane p0 and tells on its output what it executes; its settings come as a line of JSON.

The command whose id is the argument takes for ever, so that the process can be killed in the middle of it.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec

from streams.admission import Task
from streams.drafts import Post
from streams.durability import Prover
from streams.handler import Result
from streams.messages import Logged
from streams.settings import Settings
from streams.signing import load_keyring
from streams.worker import LaneWorker


class Teller:
    """A handler that prints the id of what it executes."""

    summary = None

    def __init__(self, slow: str) -> None:
        self._slow = slow

    def restore(self, events: Iterator[Logged], known: bytes = b"") -> None:
        for _ in events:
            pass

    def attempt(self, task: Task) -> Result | None:
        return None

    def begin(self, post: Post) -> None:
        print("begin", flush=True)

    def execute(self, task: Task) -> Result:
        print(f"execute {task.command.id}", flush=True)
        if task.command.id == self._slow:
            threading.Event().wait()
        return Result(outcome="completed", state="running")

    def end(self) -> None:
        print("end", flush=True)


if __name__ == "__main__":
    settings = msgspec.json.decode(sys.stdin.readline(), type=Settings)
    LaneWorker(
        settings,
        "p0",
        "node",
        Teller(sys.argv[1]),
        keyring=lambda: load_keyring(Path(settings.keys.directory)),
        prover=Prover(settings.redis),
    ).run(threading.Event())
