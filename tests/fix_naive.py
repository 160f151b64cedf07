"""A client that trusts WAIT, put beside ours: what it loses shows that a schedule bites."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from control.station.ask import NoAnswer, Refused, ask_all
from tests.fix_servers import Trio

ROUNDS = 4
"""In how many rounds of a schedule it must have lost something."""


class Naive:
    """Writes to whatever server calls itself primary, and takes one replica's acknowledgement for enough."""

    def __init__(self, trio: Trio) -> None:
        self._trio = trio
        self._rounds = 0
        self.lost: list[str] = []
        """What was confirmed to it and is gone."""

    def goes_on(self) -> bool:
        """Whether another round is played: it has lost nothing yet, and not too many were."""
        self._rounds += 1
        return not self.lost and self._rounds <= ROUNDS

    @contextmanager
    def writing(self) -> Iterator[None]:
        """It writes meanwhile; afterwards what was confirmed to it is looked for."""
        stop, confirmed = threading.Event(), list[str]()
        ports = [self._trio.port(name) for name in self._trio.NAMES]
        threads = [threading.Thread(target=self._write, args=(port, stop, confirmed)) for port in ports]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join(10)
        asked = [("EXISTS", key) for key in confirmed]
        found = ask_all(self._trio.port(self._trio.primary()), self._trio.password, *asked, timeout=5)
        self.lost += [key for key, there in zip(confirmed, found, strict=True) if not there]
        print(f"of {len(confirmed)} writes that WAIT confirmed to a naive client {len(self.lost)} are lost")

    def _write(self, port: int, stop: threading.Event, confirmed: list[str]) -> None:
        number = 0
        while not stop.wait(0.001):
            key, number = f"naive:{self._rounds}:{port}:{number}", number + 1
            try:
                _, acknowledged = ask_all(port, self._trio.password, ("SET", key, 1), ("WAIT", 1, 300))
            except (NoAnswer, Refused):
                continue
            if acknowledged:
                confirmed.append(key)
