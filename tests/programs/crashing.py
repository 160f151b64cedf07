"""A process that owns a lane and kills itself at every start of the source `poison`, unless it was mended.

Commands for the source `slow` take a while.

`python -m tests.programs.crashing FOLDER LANE`; the variable TOCSIN_TEST_MENDED mends it.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from streams import lease, worker
from streams.admission import Task
from streams.drafts import Post
from streams.durability import Prover
from streams.handler import Result
from streams.messages import Logged
from streams.settings import load
from streams.signing import load_keyring


class Crashing:
    """A handler that does what it is told by saying so, or ends its process."""

    summary = None

    def restore(self, events: Iterator[Logged], known: bytes = b"") -> None:
        for _ in events:
            pass

    def begin(self, post: Post) -> None:
        print("begin", flush=True)

    def attempt(self, task: Task) -> Result | None:
        return None

    def execute(self, task: Task) -> Result:
        command = task.command
        if command.source == "slow":
            time.sleep(0.5)
        starts_poison = (command.source, command.type) == ("poison", "source.start")
        if starts_poison and "TOCSIN_TEST_MENDED" not in os.environ:
            os.kill(os.getpid(), signal.SIGKILL)
        return Result(outcome="completed", state="running")

    def end(self) -> None:
        pass


if __name__ == "__main__":
    lease.LENGTH, worker.RENEW, worker.IDLE = 1.0, 0.25, 0.1
    folder, lane = Path(sys.argv[1]), sys.argv[2]
    settings = load(folder / "station.toml")
    worker.LaneWorker(
        settings,
        lane,
        "local",
        Crashing(),
        keyring=lambda: load_keyring(Path(settings.keys.directory)),
        prover=Prover(settings.redis),
    ).run(threading.Event())
