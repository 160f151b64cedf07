"""One who submits signed commands, in a container: `python -m tests.chaos.operator NAME SEED PACE`.

Each of its hands gives commands one after the other, and asks again with the same bytes until it knows what
became of each. What it was told goes to /srv/station/told.jsonl. SIGTERM ends it once every hand knows.
"""

from __future__ import annotations

import random
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from streams.connection import Unreachable, connect
from streams.durability import Prover
from streams.messages import new_command
from streams.names import floating_lanes, node_lane
from streams.settings import Settings, load
from streams.signing import load_key
from streams.submit import InDoubt, NoAnswer, Refused, Signed, Submitter, signed
from tests.chaos.history import Told, write_lines

FOLDER = Path("/srv/station")
HANDS = 3
NODES = ("ingest-1", "ingest-2")
BUTTONS = 4
"""File sources on each node, to be started and stopped; the node's `radio` is left to play."""
PACE = 0.05
"""Seconds between two commands of a hand, unless another is asked for."""
ENOUGH = 90.0
"""Seconds that a hand asks on after it was told to end; a command is valid for 60."""


class Operator:
    """All hands of one operator."""

    def __init__(self, name: str, seed: int, pace: float) -> None:
        self._name = name
        self._pace = pace
        self._settings: Settings = load(FOLDER / "station.toml").as_role("submitter")
        self._key = load_key(Path(self._settings.keys.directory), self._settings.keys.sign_with)
        self._prover = Prover(self._settings.redis)
        self._stop = threading.Event()
        self._guard = threading.Lock()
        self._draws = [random.Random(f"{name}-{seed}-{hand}") for hand in range(HANDS)]

    def run(self) -> None:
        """Work until told to end."""
        threads = [threading.Thread(target=self._work, args=(hand,)) for hand in range(HANDS)]
        signal.signal(signal.SIGTERM, lambda *_: self._stop.set())
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _work(self, hand: int) -> None:
        draw = self._draws[hand]
        submitter = Submitter(
            self._settings, connect(self._settings.redis, f"{self._name}-{hand}"), self._prover
        )
        while not self._stop.wait(self._pace):
            self._insist(submitter, self._wish(draw), hand)

    def _wish(self, draw: random.Random) -> Signed:
        """What to ask for next: of a button on a node, or of a source in a lane that moves between nodes."""
        if draw.random() < 0.5:
            node = draw.choice(NODES)
            source, lane = f"button-{draw.randrange(BUTTONS)}-{node}", node_lane(node)
            type = draw.choice(("source.start", "source.stop", "source.restart", "source.update"))
        else:
            lane = draw.choice(floating_lanes(self._settings.station.lanes))
            source, type = f"{self._name}-{lane}-{draw.randrange(3)}", "source.stop"
        params: dict[str, Any] = {"name": f"{draw.random():.6f}"} if type == "source.update" else {}
        command = new_command(
            station=self._settings.station.id,
            lane=lane,
            source=source,
            type=type,
            params=params,
            key=self._key.id,
            durability="archive" if draw.random() < 0.03 else "replica",
        )
        return signed(command, self._key)

    def _insist(self, submitter: Submitter, one: Signed, hand: int) -> None:
        command, began, until = one.command, time.monotonic(), None
        self._note({"what": "asked", "who": self._name, "id": command.id, "at": began})
        while True:
            try:
                answer = submitter.submit(one, timeout=3)
                break
            except Refused as refused:
                at = time.monotonic()
                self._note({"what": "refused", "id": command.id, "why": refused.reason, "at": at})
                self._stop.wait(0.5)
                return
            except (InDoubt, NoAnswer, Unreachable) as error:
                if self._stop.is_set():
                    until = until or time.monotonic() + ENOUGH
                    if time.monotonic() > until:
                        self._note({"what": "unknown", "id": command.id, "why": str(error)[:200]})
                        return
                time.sleep(0.1)
        told = Told(
            who=f"{self._name}/{hand}",
            id=command.id,
            source=command.source,
            lane=answer.lane,
            type=command.type,
            outcome=answer.outcome,
            seq=answer.seq,
            sequence=answer.sequence,
            began=began,
            at=time.monotonic(),
            by=answer.by,
        )
        with self._guard:
            write_lines(FOLDER / "told.jsonl", [told])

    def _note(self, record: dict[str, Any]) -> None:
        with self._guard:
            write_lines(FOLDER / "notes.jsonl", [record])


if __name__ == "__main__":
    Operator(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])).run()
