"""A hall with an archive: its lane's events go to Postgres, and its log can be rolled back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import Connection, text

from projections.archive_reader import ArchiveReader
from streams.settings import PostgresSection, RedisSection, StationSection
from tests.fix_projections import Yard
from tests.fix_servers import eventually
from tests.fix_streams import LANE, Hall

NOWHERE = PostgresSection(url="postgresql://tocsin@127.0.0.1:1/tocsin")


class ArchivedHall(Hall):
    """One station with Redis and Postgres; `yard` is its read side, `archive` what owners ask."""

    def __init__(self, redis: RedisSection, postgres: PostgresSection, folder: Path) -> None:
        super().__init__(redis, folder)
        station = StationSection(id=self.settings.station.id, lanes=1)
        self.settings = msgspec.structs.replace(self.settings, station=station, postgres=postgres)
        self.archive = ArchiveReader(postgres)
        self.yard = Yard(self.settings)
        self.yard.prepare()

    def stored(self) -> list[tuple[bytes, str]]:
        """Bytes and hash of each event in the log."""
        return [(logged.raw, logged.hash) for logged in self.events()]

    def archived(self) -> int:
        """How far the lane was told that it is archived."""
        return int(self.link.call("HGET", self.keys.archived, "seq") or 0)

    def head(self) -> int:
        """The seq of the last event in the log."""
        return int(self.link.call("HGET", self.keys.head, "seq") or 0)

    def wait_until_archived(self) -> None:
        """Wait until the archive holds all that the log does, and the log says so."""
        eventually(lambda: self.head() == self.archived() > 0, "the whole log archived")

    def close(self) -> None:
        super().close()
        self.yard.close()


def rows_of(yard: Yard, lane: str = LANE) -> list[tuple[bytes, str]]:
    """Bytes and hash of each archived event of the lane, in order."""
    with yard.engine.connect() as connection:
        return [(bytes(row.raw), row.hash) for row in _rows(connection, lane)]


def _rows(connection: Connection, lane: str) -> list[Any]:
    query = text("SELECT raw, hash FROM archive WHERE lane = :lane ORDER BY seq")
    return list(connection.execute(query, {"lane": lane}))


def archive_trouble(yard: Yard, lane: str) -> str | None:
    """Why the archive of the lane stands still."""
    query = text("SELECT trouble FROM positions WHERE lane = :lane AND projection = 'archive'")
    with yard.engine.connect() as connection:
        found: str | None = connection.execute(query, {"lane": lane}).scalar()
        return found


@pytest.fixture
def archived_hall(
    valkey: RedisSection, migrated_postgres: PostgresSection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ArchivedHall]:
    """A station with an archive on this worker's servers."""
    monkeypatch.setattr("streams.worker.IDLE", 0.2)
    monkeypatch.setattr("streams.submit.ASK_AGAIN", 0.2)
    made = ArchivedHall(valkey, migrated_postgres, tmp_path)
    yield made
    made.close()
