"""Reading: snapshots from Redis first, Postgres where Redis is away or has no snapshot.

Every read says where its data come from, how old they are, and whether to distrust them. Where
neither can be read it raises Away: "I don't know" is never answered with an empty list.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from threading import Event
from typing import Any, TypeVar

import msgspec
import structlog
from redis.exceptions import ResponseError
from sqlalchemy import Connection, case, desc, select
from sqlalchemy.exc import SQLAlchemyError

from projections.after import After, waiting
from projections.database import is_away
from projections.folds.commands import FOREIGN
from projections.heartbeats import doubted, judge, kept_heartbeats, read_breakers, read_heartbeats
from projections.lanes import claimed_lanes, nodes_of
from projections.links import Links
from projections.rows import columns, structs
from projections.sources import all_sources
from projections.standby import ReadEngines
from projections.tables import commands, positions
from projections.views import (
    BreakerStandings,
    BreakersView,
    CommandView,
    Envelope,
    Health,
    Readiness,
    SourceView,
    Standing,
    envelope,
)
from streams.breaker import BreakerOpen, Breakers
from streams.connection import Link, Unreachable, connect
from streams.looking import look
from streams.messages import now
from streams.names import StationKeys
from streams.settings import Settings

Found = TypeVar("Found")
NEITHER = "the station's data can be read neither from Redis nor from Postgres now"
REDIS_AWAY = (Unreachable, ResponseError)
"""A Redis that answers with an error is of no more use to a reader than one that does not answer."""


class Away(Exception):
    """Raised when what is asked for can be read neither from Redis nor from Postgres now.

    `retry_in` says after how many seconds it is tried again, where a breaker is open.
    """

    def __init__(self, detail: str, retry_in: float | None = None) -> None:
        super().__init__(detail)
        self.retry_in = retry_in


class Unknown(Exception):
    """Raised when there is no source, or no result of a command, with that id."""

    def __init__(self, noun: str, id: str) -> None:
        super().__init__(f"no {noun} {id!r} is known")
        self.noun = noun
        self.id = id


class Reads:
    """The read side of a station. Its methods block; any number of threads may call them."""

    def __init__(self, settings: Settings, *, name: str = "reads", breakers: Breakers | None = None) -> None:
        self.breakers = breakers or Breakers(settings.breaker)
        self._settings = settings
        self.keys = StationKeys(settings.station.id)
        self._engines = ReadEngines(settings.postgres, name=name)
        self.links = Links(lambda: connect(settings.redis, name), self.breakers.redis)
        self._stopping = Event()
        self._log = structlog.get_logger("projections.reads")

    def stop(self) -> None:
        """Let nobody wait any longer for an event to be folded."""
        self._stopping.set()

    def close(self) -> None:
        """Close all connections."""
        self.stop()
        self.links.close()
        self._engines.close()

    def sources(self, after: After | None = None) -> Envelope[list[SourceView]]:
        """All sources, by id, as they are once `after` is folded. Raises Away, NotFolded."""
        if after is not None:
            return self._sources_after(after)[0]
        try:
            with self.links.borrow() as link:
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

    def _sources_after(self, after: After) -> tuple[Envelope[list[SourceView]], bool]:
        """The rows, each with its snapshot's level where that is no older; and whether Redis is away."""
        redis_away, views = False, dict[str, SourceView | None]()
        kept = self._sources_kept(after=after)
        try:
            with self.links.borrow() as link:
                found = self._snapshots(link)
            views = found[1] if found else {}
        except REDIS_AWAY:
            redis_away = True
        data = [newer(view, views.get(view.id)) for view in kept.data]
        return msgspec.structs.replace(kept, data=data, stale=kept.stale or redis_away), redis_away

    def look(self, id: str) -> None:
        """Say that the source's spectrum is looked at; while Redis is away there is none to be seen."""
        try:
            with self.links.borrow() as link:
                look(link, self.keys, id)
        except REDIS_AWAY:
            self._log.debug("no spectrum is asked for while Redis is away", source=id)

    def source(self, id: str, after: After | None = None) -> Envelope[SourceView]:
        """One source, as it is once `after` is folded. Raises Unknown, Away, NotFolded."""
        if after is not None:
            read, redis_away = self._sources_after(after)
            return _one(read.data, id, redis_away=redis_away)
        redis_away, view = False, None
        try:
            with self.links.borrow() as link:
                view = _decoded(link.call("HGET", self.keys.source_snapshot(id), "data"))
        except REDIS_AWAY:
            redis_away = True
        if view is not None:
            return envelope(view, "snapshot", as_of=view.as_of, at=now())
        kept = self._sources_kept(redis_away=redis_away)
        return _one(kept.data, id, redis_away=redis_away)

    def commands(
        self, *, limit: int = 50, source: str | None = None, after: After | None = None
    ) -> Envelope[list[CommandView]]:
        """The latest results, newest first, of one source or of all. Raises Away, NotFolded."""
        wanted = select(*columns(commands, CommandView)).limit(limit)
        wanted = wanted.order_by(desc(commands.c.finished_at), desc(commands.c.seq))
        if source is not None:
            wanted = wanted.where(commands.c.source == source)

        def ask(connection: Connection) -> tuple[list[CommandView], datetime | None]:
            return structs(commands, CommandView, list(connection.execute(wanted))), folded_at(connection)

        rows, as_of = self.database(ask, after)
        return envelope(rows, "database", as_of=as_of, at=now(), redis_away=self.redis_away())

    def command(self, id: str, after: After | None = None) -> Envelope[CommandView]:
        """What became of a command. Raises Unknown while no result of it is known, Away, NotFolded."""
        wanted = select(*columns(commands, CommandView)).where(commands.c.id == id).limit(1)
        # The command's own result comes before rejections of other bytes under its id.
        wanted = wanted.order_by(case((commands.c.reason.in_(FOREIGN), 1), else_=0), commands.c.finished_at)

        def ask(connection: Connection) -> tuple[list[CommandView], datetime | None]:
            return structs(commands, CommandView, list(connection.execute(wanted))), folded_at(connection)

        views, as_of = self.database(ask, after)
        if not views:
            raise Unknown("command result", id)
        return envelope(views[0], "database", as_of=as_of, at=now(), redis_away=self.redis_away())

    def health(self) -> Health:
        """Whether the audio service is alive. Raises Away."""
        beats: dict[str, datetime] = {}
        expected: set[str] = set()
        redis_away = False
        try:
            with self.links.borrow() as link:
                expected.update(nodes_of(claimed_lanes(link, self.keys)))
                beats = read_heartbeats(link, self.keys, sorted({*expected, self._settings.ingest.node}))
        except REDIS_AWAY:
            redis_away = True
        if redis_away or not beats or expected - beats.keys():
            try:
                kept, lanes = self.database(
                    lambda connection: (
                        kept_heartbeats(connection),
                        [row.lane for row in all_sources(connection)],
                    )
                )
                beats = {**kept, **beats}
                if redis_away:
                    expected.update(nodes_of(lanes))
            except Away:
                if redis_away:
                    raise
        if not expected:
            newest = max(beats, key=lambda node: beats[node], default=None)
            expected = {newest} if newest else set()
        return judge(
            {node: beats.get(node) for node in expected}, now(), told_by="postgres" if redis_away else "redis"
        )

    def service(self) -> Health:
        """As `health`, which is an error where it cannot be judged. Never raises."""
        try:
            return self.health()
        except Away as error:
            message = str(error)
        except Exception as error:  # whatever it is, who asks for health is told that it is not well
            self._log.exception("health cannot be judged")
            message = f"cannot be judged: {type(error).__name__}"
        return Health(status="error", healthy=False, message=message, age_seconds=None, last_heartbeat=None)

    def breaker_standings(self) -> BreakersView:
        """How the breakers of this process stand, and those of each ingest node by its heartbeat."""
        nodes: dict[str, BreakerStandings | None] | None = None
        try:
            with self.links.borrow() as link:
                expected = {*nodes_of(claimed_lanes(link, self.keys)), self._settings.ingest.node}
                nodes = read_breakers(link, self.keys, sorted(expected))
        except REDIS_AWAY:
            pass
        return BreakersView(web=self.breakers.standings(), nodes=nodes)

    def look_at_postgres(self) -> None:
        """Ask Postgres whether it is there. Raises what `is_away` knows when it is not."""
        self._engines.read(lambda connection: connection.execute(select(1)).scalar_one())

    def readiness(self) -> Readiness:
        """Whether reads can be answered, and where projections stand still. Never raises Away."""
        redis, postgres, troubled = "away" if self.redis_away() else "up", "up", []
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

    def redis_away(self) -> bool:
        try:
            with self.links.borrow() as link:
                link.call("PING")
        except REDIS_AWAY:
            return True
        return False

    def standings(self) -> list[Standing]:
        """Where every projection stands in every lane. Raises Away."""
        wanted = select(*columns(positions, Standing)).order_by(positions.c.lane, positions.c.projection)
        return self.database(
            lambda connection: structs(positions, Standing, list(connection.execute(wanted)))
        )

    def _snapshots(self, link: Link) -> tuple[datetime | None, dict[str, SourceView | None]] | None:
        """When the snapshots were true, and each; None where nobody has written any that can be read."""
        at, ids = link.call("HMGET", self.keys.source_index, "at", "data")
        if at is None or ids is None:
            return None
        try:
            known = msgspec.json.decode(ids, type=list[str])
            as_of = msgspec.convert(at.decode("utf-8", "replace"), datetime)
        except msgspec.MsgspecError:
            return None
        wanted = [("HGET", self.keys.source_snapshot(source), "data") for source in known]
        replies = link.batch(wanted) if wanted else []
        return as_of, {source: _decoded(reply) for source, reply in zip(known, replies, strict=True)}

    def _sources_kept(
        self, *, redis_away: bool = False, after: After | None = None
    ) -> Envelope[list[SourceView]]:
        rows, standings, beats = self.database(
            lambda connection: (
                all_sources(connection),
                connection.execute(_STANDING).all(),
                kept_heartbeats(connection),
            ),
            after,
        )
        lanes = {row.lane: row for row in standings}
        at, views = now(), []
        for row in rows:
            lane = lanes.get(row.lane)
            checked_at, trouble = (lane.checked_at, lane.trouble) if lane else (None, None)
            views.append(msgspec.structs.replace(row, as_of=checked_at, trouble=trouble))
        times = [view.as_of for view in views] or [
            max((lane.checked_at for lane in lanes.values() if lane.checked_at), default=None)
        ]
        as_of = None if None in times else min(time for time in times if time is not None)
        views = [doubted(view, beats.get(view.node), at) for view in views]
        return envelope(views, "database", as_of=as_of, at=at, redis_away=redis_away)

    def database(self, ask: Callable[[Connection], Found], after: After | None = None) -> Found:
        """What `ask` finds in Postgres once `after` is folded; the breaker counts what no host could answer.

        Raises Away, NotFolded.
        """
        if after is not None:
            return waiting(self.database, ask, after, self._stopping)
        try:
            with self.breakers.postgres.guard(is_away):
                return self._engines.read(ask)
        except BreakerOpen as error:
            raise Away(f"{NEITHER}: {error.detail}", error.retry_in) from error
        except SQLAlchemyError as error:
            if is_away(error) or _without_tables(error):
                raise Away(NEITHER) from error
            raise


_STANDING = select(positions.c.lane, positions.c.checked_at, positions.c.trouble).where(
    positions.c.projection == "sources"
)


def _one(kept: list[SourceView], id: str, *, redis_away: bool) -> Envelope[SourceView]:
    """The one with this id. Raises Unknown."""
    for view in kept:
        if view.id == id:
            return envelope(view, "database", as_of=view.as_of, at=now(), redis_away=redis_away)
    raise Unknown("source", id)


def newer(row: SourceView, snapshot: SourceView | None) -> SourceView:
    """The snapshot, where it knows no less than the row does."""
    if snapshot is None or snapshot.lane != row.lane or snapshot.seq < row.seq:
        return row
    return snapshot


def folded_at(connection: Connection, projection: str = "commands") -> datetime | None:
    """When all lanes were last known to be folded; None where that was never so."""
    times = connection.scalars(
        select(positions.c.checked_at).where(positions.c.projection == projection)
    ).all()
    return None if None in times else min((time for time in times if time is not None), default=None)


def _decoded(raw: Any) -> SourceView | None:
    """A snapshot, or None where there is none that this version can read."""
    try:
        return msgspec.json.decode(raw, type=SourceView) if isinstance(raw, bytes) else None
    except msgspec.DecodeError:
        return None


def _oldest(as_of: datetime | None, views: list[SourceView]) -> datetime | None:
    # What is in doubt says so itself, and makes nothing of the others older.
    times = [as_of, *(view.as_of for view in views if view.state == "running" and not view.trouble)]
    return None if None in times else min(time for time in times if time is not None)


def _without_tables(error: SQLAlchemyError) -> bool:
    """Whether the tables are not there yet: the projections have not started for the first time."""
    return getattr(getattr(error, "orig", None), "sqlstate", None) == "42P01"
