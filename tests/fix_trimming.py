"""A hall whose log is trimmed at once, and who archives and folds it when the test says so."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from projections.archive import Archiver
from projections.database import open_engine
from projections.runner import Runner
from streams.connection import connect
from streams.handler import Summary
from streams.history import replayed
from streams.messages import Logged
from streams.settings import ArchiveSection, PostgresSection, RedisSection
from tests.fix_archive import ArchivedHall
from tests.fix_streams import Scripted


def _counted(known: bytes, events: Iterator[Logged]) -> bytes:
    counts: dict[str, int] = json.loads(known or b"{}")
    for logged in events:
        counts[logged.event.type] = counts.get(logged.event.type, 0) + 1
    return json.dumps(counts).encode()


class Counting(Scripted):
    """A handler that knows of the past how often each type of event came; `read` is what it had to read."""

    summary = Summary("counts/1", _counted)  # type: ignore[assignment]  # the others keep nothing
    read = 0
    counts: dict[str, int]

    def restore(self, events: Iterator[Logged], known: bytes = b"") -> None:
        found = list(events)
        self.read = len(found)
        self.counts = json.loads(_counted(known, iter(found)))
        self.restored.append(found)


class TrimmedHall(ArchivedHall):
    """One station whose events go from Redis as soon as they are archived and folded."""

    def __init__(self, redis: RedisSection, postgres: PostgresSection, folder: Path) -> None:
        super().__init__(redis, postgres, folder)
        self.settings = msgspec.structs.replace(self.settings, archive=ArchiveSection(keep=0.0))

    def first(self) -> int:
        """The seq of the oldest event in Redis; 0 where there is none."""
        entries = self.link.call("XRANGE", self.keys.events, "-", "+", "COUNT", 1)
        return int(entries[0][0].split(b"-")[0]) if entries else 0

    def looks(self) -> int:
        """How many commands the owner has sent to look for what it may let go of."""
        clients = self.link.call("CLIENT", "LIST").decode().splitlines()
        sent = [found for one in clients if "-trim " in one and (found := re.search(r"tot-cmds=(\d+)", one))]
        if not sent:
            # Redis 7.0 does not tell; there nobody else asks for several fields at once by himself.
            stats = self.link.call("INFO", "commandstats").decode()
            sent = [found for found in [re.search(r"cmdstat_hmget:calls=(\d+)", stats)] if found]
        return sum(int(found[1]) for found in sent)

    def whole(self) -> list[Logged]:
        """The lane's history, from archive and log."""
        return list(replayed(self.link, self.keys, self.archive))

    @contextmanager
    def archiving(self) -> Iterator[None]:
        """The lane's archiver meanwhile, and no projection."""
        with self._following(Archiver):
            yield

    @contextmanager
    def folding(self) -> Iterator[None]:
        """The lane's projections meanwhile, and no archiver."""
        with self._following(Runner):
            yield

    @contextmanager
    def _following(self, kind: type[Runner]) -> Iterator[None]:
        stopping, engine = threading.Event(), open_engine(self.settings.postgres, name="follow")
        link = connect(self.settings.redis, "follow")
        follower = kind(engine, link, self.lane, self.keys, stopping)
        thread = threading.Thread(target=follower.run)
        thread.start()
        try:
            yield
        finally:
            stopping.set()
            thread.join(10)
            assert not thread.is_alive()
            engine.dispose()


@pytest.fixture
def trimmed_hall(
    valkey: RedisSection, postgres: PostgresSection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[TrimmedHall]:
    """A station on this worker's servers; owners look every few milliseconds for what they may let go of."""
    monkeypatch.setattr("streams.worker.IDLE", 0.2)
    monkeypatch.setattr("streams.submit.ASK_AGAIN", 0.2)
    monkeypatch.setattr("streams.trimming.LOOK_EVERY", 0.02)
    monkeypatch.setattr("projections.archive.TELL_EVERY", 0.02)
    made = TrimmedHall(valkey, postgres, tmp_path)
    yield made
    made.close()
