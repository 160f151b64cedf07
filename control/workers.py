"""Several web processes on one port: this one starts them, starts again what ends, and ends them all.

Each listens for itself and the kernel deals out the connections (SO_REUSEPORT), so nothing is shared that
could break in all of them at once. A worker ends by itself when this process is gone.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

import structlog

LOOK_EVERY = 0.1
"""Seconds between two looks whether all are there."""
EARLY = 5.0
"""Seconds: a worker that ends sooner did not get as far as serving."""
TRIES = 3
"""Early ends in a row, of every worker, after which something is wrong that another start does not mend."""
LONGEST_PAUSE = 5.0
"""Seconds before a worker that keeps ending early is started again."""
END_WITHIN = 8.0
"""Seconds that workers have to end; whoever started us gives us ten."""

log = structlog.get_logger("control.workers")


class WorkersFailed(Exception):
    """Raised when every worker ends again and again as soon as it is started."""


class Worker:
    """One place among the workers, whoever fills it now. `early` counts ends in a row that came too soon."""

    def __init__(self, number: int, command: Sequence[str], env: dict[str, str]) -> None:
        self.number = number
        self.early = 0
        self._again_at: float | None = None
        self._command, self._env = command, env
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        self._since = time.monotonic()
        # What is written there is nothing: that it closes tells the worker that we are gone.
        return subprocess.Popen(
            [*self._command, "--worker", str(self.number)], stdin=subprocess.PIPE, env=self._env
        )

    def look(self) -> None:
        """Start another where this one has ended: at once, or after a pause where it ended too soon."""
        code, lived = self.process.poll(), time.monotonic() - self._since
        if code is None:
            if lived >= EARLY:
                self.early = 0
            return
        if self._again_at is None:
            self.early = self.early + 1 if lived < EARLY else 0
            pause = min(LONGEST_PAUSE, 0.1 * 2**self.early) if self.early else 0.0
            self._again_at = time.monotonic() + pause
            log.error("web worker ended", worker=self.number, code=code, seconds=round(lived, 1))
        if time.monotonic() >= self._again_at:
            self._close()
            self._again_at = None
            self.process = self._start()

    def end(self, deadline: float) -> None:
        """Wait for the end until `deadline`, then make it."""
        try:
            self.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._close()

    def _close(self) -> None:
        if self.process.stdin is not None:
            self.process.stdin.close()


def keep_workers(command: Sequence[str], count: int, *, port: int) -> None:
    """Keep `count` processes of `command` serving on `port` until SIGTERM or SIGINT; then end them.

    Raises WorkersFailed. Call it from the main thread.
    """
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    env = {**os.environ, "TOCSIN_WEB_PORT": str(port), "TOCSIN_WEB_WORKERS": "1"}
    workers = [Worker(number, command, env) for number in range(1, count + 1)]
    log.info("web workers started", workers=count, pids=[worker.process.pid for worker in workers])
    try:
        _keep(workers, stopping)
    finally:
        for worker in workers:
            if worker.process.poll() is None:
                worker.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + END_WITHIN
        for worker in workers:
            worker.end(deadline)
        log.info("web workers stopped")


def _keep(workers: list[Worker], stopping: threading.Event) -> None:
    while not stopping.wait(LOOK_EVERY):
        for worker in workers:
            worker.look()
        if all(worker.early >= TRIES for worker in workers):
            raise WorkersFailed("every web worker ends as soon as it is started: see above")


def end_with_parent() -> None:
    """In a worker: end in order, as at SIGTERM, when the process that keeps the workers is gone."""

    def watch() -> None:
        sys.stdin.buffer.read()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent", daemon=True).start()
