"""A lane of sources without its worker: a test carries commands out and keeps the log in memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ingest.claims import Claims
from ingest.decide import mend
from ingest.lane import SourcesLane
from ingest.ledger import sources_of
from ingest.state import Source
from streams.admission import Delivery, Task
from streams.drafts import Draft
from streams.handler import Result
from streams.messages import GENESIS, SCHEMA, Event, Logged, new_command, now
from tests.fix_ingest import Heard, equipment
from tests.fix_servers import eventually
from tests.fix_streams import Hall

LANE = "node.here"


class Owned:
    """A lane's handler as its owner uses it, with a log in memory; the claims are in a real Redis."""

    def __init__(self, claims: Claims, heard: Heard) -> None:
        self.heard = heard
        self.log: list[Logged] = []
        self._lock = threading.Lock()
        self.handler = SourcesLane(LANE, heard, claims, equipment())
        self.own()

    def own(self) -> None:
        """Take the lane (again)."""
        self.handler.restore(iter(list(self.log)))
        self.handler.begin(self.post)

    def post(self, draft: Draft) -> None:
        with self._lock:
            event = Event(
                seq=len(self.log) + 1, prev=GENESIS, token=1, at=draft.at or now(), logged_at=now(),
                node="here", type=draft.type, data=draft.data, schema=SCHEMA, source=draft.source,
                command=draft.command,
            )  # fmt: skip
            self.log.append(Logged(event, b"", ""))

    def task(self, type: str, source: str = "s", **params: Any) -> Task:
        """A command that was admitted."""
        command = new_command(station="t", lane=LANE, source=source, type=type, params=params, key="k")
        delivery = Delivery(
            entry="1-1", raw=b"", signature="", id=command.id, client="", sequence=1, deliveries=1, mark="",
            received_at=now(),
        )  # fmt: skip
        return Task(command=command, delivery=delivery, cancelled=threading.Event())

    def run(self, task: Task) -> Result:
        """Carry a command out and log what belongs to its result, as the lane's owner does."""
        result = self.handler.execute(task)
        for draft in result.drafts:
            self.post(draft)
        return result

    def do(self, type: str, source: str = "s", **params: Any) -> Result:
        return self.run(self.task(type, source, **params))

    def add(self, path: Path | str, source: str = "s", **settings: Any) -> Result:
        return self.do("source.add", source, settings=file_settings(path, **settings), name="")

    def types(self, source: str = "s") -> list[str]:
        """The types of what was logged of a source, without their `source.`."""
        with self._lock:
            found = [logged.event.type for logged in self.log if logged.event.source == source]
        return [type.removeprefix("source.") for type in found]

    def sources(self) -> dict[str, Source]:
        """The sources by the log."""
        with self._lock:
            return sources_of(self.log)

    def source(self, source: str = "s") -> Source | None:
        """A source by the log."""
        return self.sources().get(source)

    def agree(self) -> bool:
        """Whether log, memory and what runs say the same, and nothing waits to be mended."""
        with self.handler._lock:
            memory = dict(self.handler._ledger.sources)
            seen = {id: run.seen() for id, run in self.handler._runs.items()}
            log = self.sources()
        ids = log.keys() | seen.keys()
        return memory == log and all(mend(log.get(id), seen.get(id)) == "nothing" for id in ids)

    def state(self, source: str = "s") -> str | None:
        found = self.source(source)
        return found.state if found else None


def file_settings(path: Path | str, **settings: Any) -> dict[str, Any]:
    """The settings of a file source as they stand in a command."""
    return {"kind": "file", "path": str(path), **settings}


def captures() -> list[str]:
    """The captures that run in this process."""
    return sorted(
        thread.name.removeprefix("capture-")
        for thread in threading.enumerate()
        if thread.name.startswith("capture-")
    )


@pytest.fixture
def owned(hall: Hall, heard: Heard, monkeypatch: pytest.MonkeyPatch) -> Iterator[Owned]:
    """A lane that this node owns; at its end nothing may run."""
    monkeypatch.setattr("ingest.lane.RECONCILE", 0.1)
    monkeypatch.setattr("ingest.capture.FIRST_PAUSE", 0.02)
    claims, stop = Claims(hall.new_link("claims"), hall.station), threading.Event()
    freeing = threading.Thread(target=claims.run, args=(stop,))
    freeing.start()
    made = Owned(claims, heard)
    yield made
    made.handler.end()
    stop.set()
    freeing.join(10)
    eventually(lambda: not captures(), "an end of all captures", 5)
