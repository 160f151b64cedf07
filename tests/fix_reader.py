"""A reader that follows a lane through whatever happens, and what must hold afterwards."""

from __future__ import annotations

import threading
import time

from redis.exceptions import ResponseError

from streams.connection import Unreachable
from streams.tail import Tail
from tests.fix_servers import eventually
from tests.fix_streams import Hall


class Reader:
    """Follows the log in a thread, as every reader of a station does: again from where it stands."""

    def __init__(self, hall: Hall, *, block: float = 0.5, name: str = "tail") -> None:
        self._tail = Tail(hall.new_link(name), hall.keys)
        self._block = block
        self.stop = threading.Event()
        self.read: list[tuple[int, str]] = []
        """What was read: seq and hash."""
        self.read_at = 0.0
        """When the latest of it came."""
        self._thread = threading.Thread(target=self._run, name="reader")

    def _run(self) -> None:
        while not self.stop.is_set():
            try:
                came = self._tail.read(block=self._block)
            except (Unreachable, ResponseError):
                self.stop.wait(0.05)
                continue
            if came:
                self.read_at = time.monotonic()
                self.read += [(one.event.seq, one.hash) for one in came]

    def __enter__(self) -> Reader:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self._thread.join(self._block + 20)


def check_whole(hall: Hall, commands: list[str], reader: Reader) -> None:
    """Each command has one result, `completed`, and the reader has the whole log, in order, once."""
    results = hall.results()
    assert {id: results.get(id) for id in commands} == {id: ["completed"] for id in commands}
    assert hall.verdict().fault is None
    log = [(one.event.seq, one.hash) for one in hall.events()]
    eventually(lambda: len(reader.read) >= len(log), "the reader at the end of the log")
    assert reader.read[: len(log)] == log
