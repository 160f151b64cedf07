"""Reading: snapshots from Redis first, Postgres where Redis is away or has no snapshot.

Every read says where its data come from, how old they are, and whether to distrust them. Where
neither can be read it raises Away: "I don't know" is never answered with an empty list.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import msgspec
from redis.exceptions import ResponseError
from sqlalchemy import Connection, case, desc, select
from sqlalchemy.exc import SQLAlchemyError

from projections.database import is_away, open_engine
from projections.folds.commands import FOREIGN
from projections.heartbeats import judge, kept_heartbeats, read_heartbeats
from projections.lanes import claimed_lanes, nodes_of
from projections.links import Links
from projections.rows import columns, structs
from projections.sources import all_sources
from projections.tables import commands, positions
from projections.views import CommandView, Envelope, Health, Readiness, SourceView, Standing, envelope
from streams.connection import Link, Unreachable, connect
from streams.messages import now
from streams.names import StationKeys
from streams.settings import Settings

REDIS_AWAY = (Unreachable, ResponseError)
"""A Redis that answers with an error is of no more use to a reader than one that does not answer."""


class Away(Exception):
    """Raised when what is asked for can be read neither from Redis nor from Postgres now."""


class Unknown(Exception):
    """Raised when there is no source, or no result of a command, with that id."""

    def __init__(self, noun: str, id: str) -> None:
        super().__init__(f"no {noun} {id!r} is known")
        self.noun = noun
        self.id = id


class Reads:
    """The read side of a station. Its methods block; any number of threads may call them."""

    def __init__(self, settings: Settings, *, name: str = "reads") -> None:
        self._settings = settings
        self._keys = StationKeys(settings.station.id)
        self._engine = open_engine(settings.postgres, name=name)
        self._links = Links(lambda: connect(settings.redis, name))

    def close(self) -> None:
        """Close all connections."""
        self._links.close()
        self._engine.dispose()

    def sources(self) -> Envelope[list[SourceView]]:
        """All sources, by id. Raises Away."""
        try:
            with self._links.borrow() as link:
                found = self._snapshots(link)
        except REDIS_AWAY:
            return self._sources_kept(redis_away=True)
        if found is None:
            return self._sources_kept()
        as_of, views = found
        missing = [source for source, view in views.items() if view is None]
        if not missing:
            data = [view for view in views.values() if view is not None]
            return envelope(data, "snapshot", as_of=_oldest(as_of, data), at=now())
        kept = self._sources_kept()
        # The rows decide which sources there are; what a snapshot adds to a row is its level.
        data = [views.get(view.id) or view for view in kept.data]
        return msgspec.structs.replace(kept, data=data)

    def source(self, id: str) -> Envelope[SourceView]:
        """One source. Raises Unknown, Away."""
        redis_away, view = False, None
        try:
            with self._links.borrow() as link:
                view = _decoded(link.call("HGET", self._keys.source_snapshot(id), "data"))
        except REDIS_AWAY:
            redis_away = True
        if view is not None:
            return envelope(view, "snapshot", as_of=view.as_of, at=now())
        kept = self._sources_kept(redis_away=redis_away)
        for view in kept.data:
            if view.id == id:
                return envelope(view, "database", as_of=view.as_of, at=now(), redis_away=redis_away)
        raise Unknown("source", id)

    def commands(self, *, limit: int = 50, source: str | None = None) -> Envelope[list[CommandView]]:
        """The latest results, newest first, of one source or of all. Raises Away."""
        wanted = select(*columns(commands, CommandView)).limit(limit)
        wanted = wanted.order_by(desc(commands.c.finished_at), desc(commands.c.seq))
        if source is not None:
            wanted = wanted.where(commands.c.source == source)
        with self._database() as connection:
            rows = structs(commands, CommandView, list(connection.execute(wanted)))
            as_of = _folded_at(connection)
        return envelope(rows, "database", as_of=as_of, at=now(), redis_away=self._redis_away())

    def command(self, id: str) -> Envelope[CommandView]:
        """What became of a command. Raises Unknown while no result of it is known, Away."""
        wanted = select(*columns(commands, CommandView)).where(commands.c.id == id).limit(1)
        # The command's own result comes before rejections of other bytes under its id.
        foreign = case((commands.c.reason.in_(FOREIGN), 1), else_=0)
        with self._database() as connection:
            rows = list(connection.execute(wanted.order_by(foreign, commands.c.finished_at)))
            as_of = _folded_at(connection)
        if not rows:
            raise Unknown("command result", id)
        view = structs(commands, CommandView, rows)[0]
        return envelope(view, "database", as_of=as_of, at=now(), redis_away=self._redis_away())

    def health(self) -> Health:
        """Whether the audio service is alive. Raises Away."""
        beats: dict[str, datetime] = {}
        expected: set[str] = set()
        redis_away = False
        try:
            with self._links.borrow() as link:
                expected.update(nodes_of(claimed_lanes(link, self._keys)))
                beats = read_heartbeats(link, self._keys, sorted({*expected, self._settings.ingest.node}))
        except REDIS_AWAY:
            redis_away = True
        if redis_away or not beats or expected - beats.keys():
            try:
                with self._database() as connection:
                    beats = {**kept_heartbeats(connection), **beats}
                    if redis_away:
                        expected.update(nodes_of([row.lane for row in all_sources(connection)]))
            except Away:
                if redis_away:
                    raise
        if not expected:
            newest = max(beats, key=lambda node: beats[node], default=None)
            expected = {newest} if newest else set()
        return judge(
            {node: beats.get(node) for node in expected}, now(), told_by="postgres" if redis_away else "redis"
        )

    def readiness(self) -> Readiness:
        """Whether reads can be answered, and where projections stand still. Never raises Away."""
        redis, postgres, troubled = "away" if self._redis_away() else "up", "up", []
        try:
            troubled = [standing for standing in self.standings() if standing.trouble]
        except Away:
            postgres = "away"
        return Readiness(ready=self._answerable(), redis=redis, postgres=postgres, troubled=troubled)

    def _answerable(self) -> bool:
        """Whether the sources can be told: a server that is up may have nothing to tell them from yet."""
        try:
            self.sources()
        except Away:
            return False
        return True

    def _redis_away(self) -> bool:
        try:
            with self._links.borrow() as link:
                link.call("PING")
        except REDIS_AWAY:
            return True
        return False

    def standings(self) -> list[Standing]:
        """Where every projection stands in every lane. Raises Away."""
        wanted = select(*columns(positions, Standing)).order_by(positions.c.lane, positions.c.projection)
        with self._database() as connection:
            return structs(positions, Standing, list(connection.execute(wanted)))

    def _snapshots(self, link: Link) -> tuple[datetime | None, dict[str, SourceView | None]] | None:
        """When the snapshots were true, and each; None where nobody has written any."""
        at, ids = link.call("HMGET", self._keys.source_index, "at", "data")
        if at is None or ids is None:
            return None
        known = msgspec.json.decode(ids, type=list[str])
        wanted = [("HGET", self._keys.source_snapshot(source), "data") for source in known]
        replies = link.batch(wanted) if wanted else []
        as_of = msgspec.convert(at.decode(), datetime)
        return as_of, {source: _decoded(reply) for source, reply in zip(known, replies, strict=True)}

    def _sources_kept(self, *, redis_away: bool = False) -> Envelope[list[SourceView]]:
        with self._database() as connection:
            rows = all_sources(connection)
            lanes = {row.lane: row for row in connection.execute(_STANDING)}
        views = []
        for row in rows:
            lane = lanes.get(row.lane)
            checked_at, trouble = (lane.checked_at, lane.trouble) if lane else (None, None)
            views.append(msgspec.structs.replace(row, as_of=checked_at, trouble=trouble))
        times = [view.as_of for view in views] or [
            max((lane.checked_at for lane in lanes.values() if lane.checked_at), default=None)
        ]
        as_of = None if None in times else min(time for time in times if time is not None)
        return envelope(views, "database", as_of=as_of, at=now(), redis_away=redis_away)

    @contextmanager
    def _database(self) -> Iterator[Connection]:
        try:
            with self._engine.connect() as connection:
                yield connection
        except SQLAlchemyError as error:
            if is_away(error) or _without_tables(error):
                raise Away(
                    "the station's data can be read neither from Redis nor from Postgres now"
                ) from error
            raise


_STANDING = select(positions.c.lane, positions.c.checked_at, positions.c.trouble).where(
    positions.c.projection == "sources"
)


def _folded_at(connection: Connection) -> datetime | None:
    """When all lanes were last known to be folded; None where that was never so."""
    times = connection.scalars(
        select(positions.c.checked_at).where(positions.c.projection == "commands")
    ).all()
    return None if None in times else min((time for time in times if time is not None), default=None)


def _decoded(raw: Any) -> SourceView | None:
    """A snapshot, or None where there is none that this version can read."""
    try:
        return msgspec.json.decode(raw, type=SourceView) if isinstance(raw, bytes) else None
    except msgspec.DecodeError:
        return None


def _oldest(as_of: datetime | None, views: list[SourceView]) -> datetime | None:
    times = [as_of, *(view.as_of for view in views if view.state == "running")]
    return None if None in times else min(time for time in times if time is not None)


def _without_tables(error: SQLAlchemyError) -> bool:
    """Whether the tables are not there yet: the projections have not started for the first time."""
    return getattr(getattr(error, "orig", None), "sqlstate", None) == "42P01"
