"""A lane's worker alone in its process, with a handler that does nothing: `python -m bench.bare`.

What the hall costs, without audio, projections and web beside it.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import structlog

from streams.admission import Task
from streams.connection import connect
from streams.drafts import Post
from streams.durability import Prover
from streams.handler import Result
from streams.library import load_library
from streams.messages import Logged
from streams.settings import load
from streams.signing import load_keyring
from streams.worker import LaneWorker

DONE = Result(outcome="completed", state="stopped")


class NoOp:
    """Completes every command and keeps nothing."""

    summary = None

    def restore(self, events: Iterator[Logged], known: bytes = b"") -> None:
        """Nothing is folded, so nothing is read either: taking a lane over costs no time here."""

    def attempt(self, task: Task) -> Result | None:
        return DONE

    def begin(self, post: Post) -> None:
        pass

    def execute(self, task: Task) -> Result:
        return DONE

    def end(self) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--settings", type=Path, required=True)
    parser.add_argument("--lane", action="append", required=True)
    options = parser.parse_args()
    # Standard output is for the one line that says that the lanes are owned.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    settings = load(options.settings)
    link = connect(settings.redis, "bench-library")
    load_library(link)
    link.close()
    keyring = load_keyring(Path(settings.keys.directory))
    prover = Prover(settings.redis)
    stop = threading.Event()
    for sign in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sign, lambda *_: stop.set())
    workers = [
        LaneWorker(settings, lane, "bench", NoOp(), keyring=lambda: keyring, prover=prover)
        for lane in options.lane
    ]
    threads = [threading.Thread(target=worker.run, args=(stop,), daemon=True) for worker in workers]
    for thread in threads:
        thread.start()
    while not all(worker.owned.wait(0.1) for worker in workers):
        if not all(thread.is_alive() for thread in threads):
            raise SystemExit("a lane's thread has ended")
    print("owned", flush=True)
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
