"""Whose turn it is: commands of one source one after the other, sources beside each other.

A start, stop or restart overtakes older ones of the same source: those waiting are handed back
as superseded, and one being executed is told by its `cancelled` event.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from streams.admission import Task
from streams.vocabulary import OVERTAKING


class _Queue:
    """What waits for one source, and what is being executed for it."""

    __slots__ = ("running", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[Task] = deque()
        self.running: Task | None = None


class Turns:
    """Runs `execute` for each task, in order per source, with a thread for each busy source."""

    def __init__(self, execute: Callable[[Task], None]) -> None:
        self._execute = execute
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._queues: dict[str, _Queue] = {}
        self._overtaken_by: dict[str, str] = {}

    def idle(self, source: str) -> bool:
        """Whether nothing of this source waits or is being executed."""
        with self._lock:
            return source not in self._queues

    def put(self, task: Task) -> list[Task]:
        """Queue `task` behind its source's others; return the waiting ones it overtook."""
        source = task.command.source
        with self._lock:
            queue = self._queues.get(source)
            if queue is None:
                queue = self._queues[source] = _Queue()
                queue.waiting.append(task)
                run = threading.Thread(
                    target=self._run, args=(source, queue), name=f"turn-{source}", daemon=True
                )
                run.start()
                return []
            overtaken = self._overtake(queue, task)
            queue.waiting.append(task)
            return overtaken

    def _overtake(self, queue: _Queue, task: Task) -> list[Task]:
        overtaken = [old for old in queue.waiting if _overtakes(task, old)]
        for old in overtaken:
            queue.waiting.remove(old)
            self._overtaken_by[old.command.id] = task.command.id
        running = queue.running
        if running and _overtakes(task, running):
            self._overtaken_by[running.command.id] = task.command.id
            running.cancelled.set()
        return overtaken

    def overtaken_by(self, id: str) -> str | None:
        """The command that overtook command `id`; asked once, when its result is made."""
        with self._lock:
            return self._overtaken_by.pop(id, None)

    def _run(self, source: str, queue: _Queue) -> None:
        while True:
            with self._lock:
                queue.running = queue.waiting.popleft() if queue.waiting else None
                if queue.running is None:
                    del self._queues[source]
                    self._idle.notify_all()
                    return
                task = queue.running
            self._execute(task)
            with self._lock:
                # It may have been overtaken when its result was made already.
                self._overtaken_by.pop(task.command.id, None)

    def drain(self) -> None:
        """Hand nothing more out of what waits now; what is being executed goes on."""
        with self._lock:
            for queue in self._queues.values():
                queue.waiting.clear()

    def clear(self) -> None:
        """Hand nothing more out and cancel what is being executed: the lane is no longer ours."""
        with self._lock:
            for queue in self._queues.values():
                queue.waiting.clear()
                if queue.running:
                    queue.running.cancelled.set()

    def wait_idle(self, timeout: float) -> bool:
        """Wait until nothing is being executed; return whether that is so."""
        with self._lock:
            return self._idle.wait_for(lambda: not self._queues, timeout)


def _overtakes(task: Task, old: Task) -> bool:
    both = task.command.type in OVERTAKING and old.command.type in OVERTAKING
    return both and old.sequence < task.sequence
