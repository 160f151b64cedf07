"""A process that owns lane p0, folds or archives it, and ends at a step; its settings come as a line of JSON.

`python -m tests.programs.stepwise worker|projections|archive`. The variable TOCSIN_TEST_DIE_AT names the
step and at which passing of it the process gets its SIGKILL ("appended:2"); TOCSIN_TEST_STOP_AT the same
of a SIGSTOP.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from projections.archive_reader import ArchiveReader
from streams import healing, lease, rejections, steps, worker
from streams.admission import Task
from streams.connection import connect
from streams.drafts import Draft, Post
from streams.durability import Prover
from streams.handler import Result
from streams.messages import Logged
from streams.names import StationKeys
from streams.settings import Settings
from streams.signing import load_keyring

LANE = "p0"
LENGTH = float(os.environ.get("TOCSIN_TEST_LEASE", "1"))
"""Seconds of the lease: short, so that the next process need not wait long."""


class Counting:
    """A handler whose every command logs one fact, with its sequence, beside its result."""

    summary = None

    def restore(self, events: Iterator[Logged], known: bytes = b"") -> None:
        for _ in events:
            pass

    def begin(self, post: Post) -> None:
        print("begin", flush=True)

    def attempt(self, task: Task) -> Result | None:
        return self.execute(task) if task.command.source == "quick" else None

    def execute(self, task: Task) -> Result:
        if task.command.params:
            # What it says is that it is to be overtaken.
            task.cancelled.wait()
            return Result(outcome="failed", reason="cancelled")
        fact = Draft(
            type="source.updated",
            source=task.command.source,
            command=task.command.id,
            data={"name": str(task.sequence)},
        )
        return Result(outcome="completed", state="running", drafts=(fact,))

    def end(self) -> None:
        print("end", flush=True)


def signalled(number: int, at: str) -> Callable[[str], None]:
    """A watch that sends this process the signal when the step is passed for the n-th time ("name:n")."""
    name, _, n = at.rpartition(":")
    passed = itertools.count(1)

    def watch(step: str) -> None:
        if step == name and next(passed) == int(n):
            os.kill(os.getpid(), number)

    return watch


def own(settings: Settings) -> None:
    """Own the lane until a SIGTERM comes."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    rejections.BURST, rejections.SPAN = 2, 0.1
    lease.LENGTH, worker.RENEW, worker.IDLE = LENGTH, LENGTH / 4, LENGTH / 10
    healing.BATCH = 5
    worker.LaneWorker(
        settings,
        LANE,
        os.environ.get("TOCSIN_TEST_NODE", "first"),
        Counting(),
        keyring=lambda: load_keyring(Path(settings.keys.directory)),
        prover=Prover(settings.redis),
        archive=ArchiveReader(settings.postgres) if settings.postgres.url else None,
    ).run(stop)


def fold(settings: Settings) -> None:
    """Fold the lane for ever."""
    from projections import runner
    from projections.database import open_engine

    runner.BATCH = 5
    engine = open_engine(settings.postgres, name="test", connections=2)
    keys = StationKeys(settings.station.id).lane(LANE)
    runner.Runner(engine, connect(settings.redis, "fold"), LANE, keys, threading.Event()).run()


def archive(settings: Settings) -> None:
    """Archive the lane for ever."""
    from projections import runner
    from projections.archive import Archiver
    from projections.database import open_engine

    runner.BATCH = 5
    engine = open_engine(settings.postgres, name="test", connections=2)
    keys = StationKeys(settings.station.id).lane(LANE)
    Archiver(engine, connect(settings.redis, "archive"), LANE, keys, threading.Event()).run()


ROLES = {"worker": own, "projections": fold, "archive": archive}

if __name__ == "__main__":
    if at := os.environ.get("TOCSIN_TEST_DIE_AT"):
        steps.watch = signalled(signal.SIGKILL, at)
    if at := os.environ.get("TOCSIN_TEST_STOP_AT"):
        steps.watch = signalled(signal.SIGSTOP, at)
    ROLES[sys.argv[1]](msgspec.json.decode(sys.stdin.readline(), type=Settings))
