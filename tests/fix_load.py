"""Operators who keep submitting while servers fail, a reader who follows, and what each of them was told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from streams.connection import Unreachable
from streams.durability import Prover
from streams.messages import Answer
from streams.settings import RedisSection
from streams.submit import Submitter
from streams.tail import Tail
from tests.fix_servers import eventually
from tests.fix_streams import Hall, insist


class Load:
    """Some who submit one command after the other, at the station's durability, and a reader.

    They reach the servers by `redis` (the hall's own by default).
    """

    def __init__(
        self, hall: Hall, prover: Prover, *, operators: int = 4, redis: RedisSection | None = None
    ) -> None:
        self._hall = hall
        self._prover = prover
        self._redis = redis
        self._stop = threading.Event()
        self.answers: list[Answer] = []
        self.read: list[tuple[int, str]] = []
        self.errors: list[BaseException] = []
        bodies = [*(partial(self._operate, who) for who in range(operators)), self._follow]
        self._threads = [
            threading.Thread(target=self._guarded, args=(body,), name=f"load-{number}")
            for number, body in enumerate(bodies)
        ]

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """They work meanwhile; in the end each has its last answer."""
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join(60)
        assert self.errors == []

    def flows(self, count: int = 40, timeout: float = 40) -> float:
        """Wait for `count` more answers; the seconds that took."""
        began, before = time.monotonic(), len(self.answers)
        eventually(lambda: len(self.answers) >= before + count or self.errors, "answers", timeout)
        assert self.errors == []
        return time.monotonic() - began

    def _guarded(self, body: Callable[[], None]) -> None:
        try:
            body()
        except BaseException as error:
            self.errors.append(error)

    def _operate(self, who: int) -> None:
        link = self._hall.new_link("submit", self._redis)
        submitter = Submitter(self._hall.settings, link, self._prover)
        count = 0
        while not self._stop.is_set():
            command = self._hall.command("source.update", source=f"s{who}-{count % 3}")
            self.answers.append(insist(submitter, command))
            count += 1

    def _follow(self) -> None:
        tail = Tail(self._hall.new_link("tail", self._redis), self._hall.keys)
        while not self._stop.is_set():
            try:
                self.read += [(one.event.seq, one.hash) for one in tail.read(block=0.2)]
            except Unreachable:
                time.sleep(0.05)


def check_told(hall: Hall, load: Load) -> None:
    """What anyone was told stands in the log, once, where it was told to stand, and in order per source."""
    hall.link.close()
    log = hall.events()
    assert hall.verdict().fault is None
    stands = {one.event.seq: one.hash for one in log}
    assert all(stands[seq] == hash for seq, hash in load.read)
    assert [seq for seq, _ in load.read] == list(range(1, len(load.read) + 1))
    results = hall.results()
    for answer in load.answers:
        assert answer.outcome == "completed"
        assert results[answer.id] == ["completed"]
        assert log[answer.seq - 1].event.command == answer.id
    assert len(results) == len(load.answers)
    for source in {one.event.source for one in log if one.event.command}:
        numbers = [one.event.data["sequence"] for one in log if one.event.source == source]
        assert numbers == list(range(1, len(numbers) + 1))
    assert hall.waiting() == 0
