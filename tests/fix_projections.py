"""A station for the read side's tests: real servers, a log to write to, and its projections."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from sqlalchemy import Engine, select

from projections.database import open_engine
from projections.projection import ALL, Projection, fold_all
from projections.rows import columns, structs
from projections.schema import migrate
from projections.service import Service
from streams.connection import Link, Unreachable, connect
from streams.library import load_library
from streams.messages import GENESIS, Event, Level, Logged, canonical, digest, now
from streams.names import LaneKeys, StationKeys
from streams.settings import IngestSection, PostgresSection, RedisSection, Settings, StationSection, load
from tests.fix_web import Web

LANE = "node.local"
EPOCH = datetime(2026, 5, 1, 12, tzinfo=UTC)


class Chain:
    """Makes the events of one lane, each joined to the one before."""

    def __init__(self) -> None:
        self.seq, self.hash = 0, GENESIS
        self.events: list[Logged] = []

    def event(self, type: str, source: str = "", command: str | None = None, /, **data: Any) -> Logged:
        """The lane's next event."""
        at = self.moment()
        event = Event(
            seq=self.seq + 1,
            prev=self.hash,
            token=1,
            at=at,
            logged_at=max(at, self.events[-1].event.logged_at) if self.events else at,
            node="local",
            type=type,
            source=source,
            command=command,
            data=data,
            schema=1,
        )
        raw = canonical(event)
        logged = Logged(event, raw, digest(raw))
        self.seq, self.hash = event.seq, logged.hash
        self.events.append(logged)
        return logged

    def moment(self) -> datetime:
        """When the next event happens: one second after the one before."""
        return EPOCH + timedelta(seconds=self.seq)


class Scribe:
    """Writes events into one lane's log as its owner does, watermark included."""

    def __init__(self, link: Link, keys: LaneKeys, chain: Chain | None = None) -> None:
        self.chain = chain or Chain()
        self.link = link
        self._keys = keys

    def write(self, type: str, source: str = "", command: str | None = None, /, **data: Any) -> Logged:
        """Append one event, durable at once."""
        logged = self.chain.event(type, source, command, **data)
        self.append([logged])
        return logged

    def append(self, events: list[Logged]) -> None:
        """Append `events`, durable at once."""
        replication = self.link.call("INFO", "replication").decode()
        replid = replication.split("master_replid:")[1].split()[0]
        adds = [
            ("XADD", self._keys.events, f"{logged.event.seq}-1", "e", logged.raw, "h", logged.hash)
            for logged in events
        ]
        seq, hash = events[-1].event.seq, events[-1].hash
        head = ("HSET", self._keys.head, "seq", seq, "hash", hash, "token", 1)
        mark = ("wm_seq", seq, "wm_hash", hash, "wm_token", 1, "wm_replid", replid)
        replies = self.link.batch([*adds, (*head, *mark)])
        assert not [reply for reply in replies if isinstance(reply, Exception)], replies

    def replicated(self, replicas: int) -> bool:
        """Whether so many replicas have what was written."""
        return int(self.link.call("WAIT", replicas, 5000, timeout=5.0)) >= replicas

    def measure(self, source: str, rms: float | None, peak: float | None, seconds: float = 1.0) -> None:
        """Put one measurement into the lane's telemetry."""
        level = Level(source=source, at=now(), rms_dbfs=rms, peak_dbfs=peak, seconds=seconds)
        self.link.call("XADD", self._keys.telemetry, "MAXLEN", "~", 6000, "*", "l", canonical([level]))

    def add(self, source: str, *, running: bool = False, name: str = "") -> None:
        """A source that was added, and started if it should be running."""
        settings = {"kind": "file", "path": f"/media/{source}.wav", "loop": True}
        self.write("source.added", source, settings=settings, name=name or source, desired="stopped")
        if running:
            self.write("source.starting", source, desired="running")
            self.write("source.running", source, rate=48000, channels=2)

    def settle(self, command: str, source: str, outcome: str = "completed", **data: Any) -> Logged:
        """The result of a start of `source`."""
        request = {"id": command, "source": source, "type": "source.start", "key": "operator"}
        issued = msgspec.to_builtins(EPOCH)
        return self.write(
            f"command.{outcome}",
            source,
            command,
            type="source.start",
            sequence=1,
            request=canonical({**request, "issued_at": issued}).decode(),
            signature="",
            received_at=issued,
            **data,
        )


class Yard:
    """A station's servers and what the tests do with them."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.keys = StationKeys(settings.station.id)
        self.engine: Engine = open_engine(settings.postgres, name="test", connections=8)
        self.link = connect(settings.redis, "test")

    def prepare(self) -> None:
        """Bring functions and tables to where the projections want them."""
        load_library(self.link)
        migrate(self.engine)

    def scribe(self, lane: str = LANE, chain: Chain | None = None) -> Scribe:
        """Someone to write the lane's log, with a connection of their own; `chain` is what stands there."""
        return Scribe(connect(self.settings.redis, "scribe"), self.keys.lane(lane), chain)

    def beat(self, node: str = "local", time: str | None = None) -> None:
        """A heartbeat of an ingest node."""
        moment = time if time is not None else msgspec.to_builtins(now())
        self.link.batch(
            [("HSET", self.keys.node(node), "time", moment), ("PEXPIRE", self.keys.node(node), 60_000)]
        )

    def rows(self, projection: Projection, lane: str = LANE) -> dict[str, Any]:
        """The projection's rows of a lane, as its row type, by id."""
        query = select(*columns(projection.table, projection.row)).where(projection.table.c.lane == lane)
        with self.engine.connect() as connection:
            found = list(connection.execute(query))
        return {row.id: row for row in structs(projection.table, projection.row, found)}

    def all_rows(self, lane: str = LANE) -> dict[str, dict[str, Any]]:
        """The rows of every projection."""
        return {projection.name: self.rows(projection, lane) for projection in ALL}

    @contextmanager
    def projections(self) -> Iterator[Service]:
        """The projections' service in threads of this process."""
        service = Service(self.settings)
        thread = threading.Thread(target=service.run, name="projections")
        thread.start()
        try:
            yield service
        finally:
            service.stopping.set()
            thread.join(timeout=10)
            assert not thread.is_alive()

    def environment(self) -> dict[str, str]:
        """The settings as variables, for a process of its own."""
        return {
            "TOCSIN_STATION_ID": self.settings.station.id,
            "TOCSIN_STATION_LANES": str(self.settings.station.lanes),
            "TOCSIN_REDIS_URL": self.settings.redis.url,
            "TOCSIN_REDIS_PASSWORD": self.settings.redis.password,
            "TOCSIN_POSTGRES_URL": self.settings.postgres.url,
            "TOCSIN_POSTGRES_PASSWORD": self.settings.postgres.password,
        }

    @contextmanager
    def frozen_redis(self, seconds: float) -> Iterator[None]:
        """A Redis that keeps its connections and answers nobody for so long; ends when it answers again."""
        self.link.call("CLIENT", "PAUSE", int(seconds * 1000), "ALL")
        try:
            yield
        finally:
            while not self._answered():
                pass

    def _answered(self) -> bool:
        try:
            return bool(self.link.call("PING") == b"PONG")
        except Unreachable:
            return False

    def close(self) -> None:
        self.link.close()
        self.engine.dispose()


def folded(events: list[Logged]) -> dict[str, dict[str, Any]]:
    """The rows that a fresh replay of `events` gives, by projection and id."""
    rows: dict[str, dict[str, Any]] = {}
    for projection in ALL:
        after = fold_all(projection, {}, events)
        rows[projection.name] = {key: row for key, row in after.items() if row is not None}
    return rows


@pytest.fixture
def yard(valkey: RedisSection, migrated_postgres: PostgresSection) -> Iterator[Yard]:
    """An empty station on the shared servers, its functions and tables in place."""
    station = StationSection(id="test", lanes=1)
    settings = Settings(
        station=station, redis=valkey, postgres=migrated_postgres, ingest=IngestSection(node="local")
    )
    yard = Yard(settings)
    yard.prepare()
    yield yard
    yard.close()


@pytest.fixture
def web_yard(web: Web) -> Iterator[Yard]:
    """The station of the running web process."""
    yard = Yard(load(web.folder.settings))
    yield yard
    yard.close()
