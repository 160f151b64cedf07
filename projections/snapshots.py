"""Snapshots in Redis: what the pages and the read API are given while Redis is there.

`…:snapshot:source:ID` holds one source, `…:snapshot:sources` the ids of all of them. The latter
tells "there are no sources" from "nobody has written any": without it a reader asks Postgres.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import datetime
from threading import Event
from typing import Any

import msgspec
import structlog
from redis.exceptions import ResponseError
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from projections.heartbeats import doubted, kept_heartbeats, read_heartbeats
from projections.levels import Heard
from projections.sources import all_sources
from projections.views import LevelView, SourceView
from streams.backoff import Backoff
from streams.connection import Link, Unreachable
from streams.messages import canonical, now
from streams.names import StationKeys

PERIOD = 0.2
"""Seconds between two looks at what changed."""
RUNNING_EVERY = 0.8
"""Seconds after which the snapshot of a running source is written again, changed or not."""
OTHERS_EVERY = 10.0
"""Seconds after which any other snapshot is written again."""
TIME_TO_LIVE = 60_000
"""Milliseconds."""
RELOAD_EVERY = 1.0
"""Seconds after which the rows are read again, changed or not."""
FRESHER_BY = 2.0
"""Seconds by which another process must be ahead for this one to leave the writing to it."""


class LaneState(msgspec.Struct, frozen=True):
    """How far a lane's runner is: when it last had everything, and why it cannot go on."""

    checked_at: datetime | None
    trouble: str | None


class Written(msgspec.Struct, frozen=True):
    """What was last written of a source, and when (monotonic seconds)."""

    when: float
    shown: SourceView


def is_due(view: SourceView, written: Written | None, when: float) -> bool:
    """Whether the snapshot of a source must be written now."""
    if written is None or msgspec.structs.replace(written.shown, as_of=view.as_of) != view:
        return True
    every = RUNNING_EVERY if view.state == "running" else OTHERS_EVERY
    return when - written.when >= every


class Snapshots:
    """Writes the snapshots. `run` is the body of a thread."""

    def __init__(
        self,
        engine: Engine,
        link: Link,
        keys: StationKeys,
        *,
        levels: Callable[[], Mapping[Heard, LevelView]],
        lanes: Callable[[], Mapping[str, LaneState]],
        changed: Event,
        stopping: Event,
    ) -> None:
        self._engine = engine
        self._link = link
        self._keys = keys
        self._levels = levels
        self._lanes = lanes
        self._changed = changed
        self._stopping = stopping
        self._rows: dict[str, SourceView] = {}
        self._rows_at: datetime | None = None
        self._beats: dict[str, datetime] = {}
        self._loaded = float("-inf")
        self._written: dict[str, Written] = {}
        self._index: tuple[float, list[str]] = (float("-inf"), [])
        self._log = structlog.get_logger("projections.snapshots")

    def run(self) -> None:
        """Write what is due, five times a second, until told to stop."""
        backoff = Backoff(self._stopping)
        while not self._stopping.is_set():
            try:
                self.step()
                backoff.reset()
                self._stopping.wait(PERIOD)
            except (Unreachable, ResponseError) as error:
                if backoff.failures == 0:
                    self._log.warning("snapshots cannot be written", detail=str(error))
                self._begin_again()
                backoff.wait()
            except Exception:  # the writer never dies: it says what is wrong and tries again
                self._log.exception("snapshots failed")
                self._begin_again()
                backoff.wait()
        self._link.close()

    def _begin_again(self) -> None:
        self._written.clear()
        self._index = (float("-inf"), [])

    def step(self) -> None:
        """Look once and write what is due. Raises Unreachable."""
        self._load()
        if self._rows_at is None:
            return
        lanes, when = self._lanes(), time.monotonic()
        as_of = earliest(self._rows_at, lanes)
        if as_of is None or self._another_is_fresher(as_of):
            return
        views = self._views(lanes)
        gone = self._written.keys() - self._rows.keys()
        commands: list[tuple[Any, ...]] = [("DEL", self._keys.source_snapshot(source)) for source in gone]
        for source, view in views.items():
            if is_due(view, self._written.get(source), when):
                commands += _put(self._keys.source_snapshot(source), view.as_of, view)
                self._written[source] = Written(when, view)
        ids = sorted(self._rows)
        if ids != self._index[1] or when - self._index[0] >= RUNNING_EVERY:
            commands += _put(self._keys.source_index, as_of, ids)
            self._index = (when, ids)
        if commands:
            self._link.batch(commands)
        for source in gone:
            del self._written[source]

    def _load(self) -> None:
        """Read the rows again if they may have changed; keep those we have while Postgres is away.

        The heartbeats come from Redis, which forgets them; then the last that Postgres keeps counts.
        Raises Unreachable.
        """
        changed = self._changed.is_set()
        if not changed and time.monotonic() - self._loaded < RELOAD_EVERY:
            return
        self._changed.clear()
        asked, self._loaded = now(), time.monotonic()
        try:
            with self._engine.connect() as connection:
                self._rows = {row.id: row for row in all_sources(connection)}
                self._beats.update(kept_heartbeats(connection))
        except SQLAlchemyError as error:
            self._log.debug("rows cannot be read", detail=str(error))
            # A server that freezes takes seconds to fail: levels are not to wait for it all the time.
            self._loaded += 2 * (time.monotonic() - self._loaded)
        else:
            self._rows_at = asked
        nodes = sorted({row.node for row in self._rows.values()})
        self._beats.update(read_heartbeats(self._link, self._keys, nodes))

    def _views(self, lanes: Mapping[str, LaneState]) -> dict[str, SourceView]:
        levels, at = self._levels(), now()
        views = {}
        for source, row in self._rows.items():
            lane = lanes.get(row.lane)
            if lane is None or lane.checked_at is None or self._rows_at is None:
                continue  # not caught up yet: what is written of it may be newer than what we have
            view = msgspec.structs.replace(
                row,
                as_of=min(self._rows_at, lane.checked_at),
                trouble=lane.trouble,
                level=levels.get((row.lane, source)) if row.state == "running" else None,
            )
            views[source] = doubted(view, self._beats.get(row.node), at)
        return views

    def _another_is_fresher(self, as_of: datetime) -> bool:
        at = self._link.call("HGET", self._keys.source_index, "at")
        try:
            theirs = msgspec.convert(at.decode(), datetime) if at else None
        except msgspec.ValidationError:
            return False
        return theirs is not None and (theirs - as_of).total_seconds() > FRESHER_BY


def earliest(rows_at: datetime, lanes: Mapping[str, LaneState]) -> datetime | None:
    """The moment for which all lanes are known; None while one has never been caught up with."""
    times = [lane.checked_at for lane in lanes.values()]
    if not times or None in times:
        return None
    return min(rows_at, *(time for time in times if time is not None))


def _put(key: str, at: datetime | None, data: Any) -> list[tuple[Any, ...]]:
    moment = msgspec.to_builtins(at or now())
    return [
        ("HSET", key, "at", moment, "data", canonical(data)),
        ("PEXPIRE", key, TIME_TO_LIVE),
    ]
