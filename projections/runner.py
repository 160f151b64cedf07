"""A lane's runner: reads the lane's log, folds it, and commits rows and position together.

Any number of runners may work on one lane. The position is moved by compare-and-set inside the
transaction that writes the rows; the runner that comes second rolls back and reads again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from threading import Event

import structlog
from msgspec import DecodeError
from redis.exceptions import ResponseError
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from projections.backoff import Backoff
from projections.database import is_away
from projections.projection import ALL, Positioned, Projection, concerned, fold_all
from projections.store import (
    NewerVersion,
    PositionLost,
    advance,
    last_checked,
    load_rows,
    note_trouble,
    read_position,
    write_rows,
)
from streams.connection import Link, Unreachable
from streams.messages import Logged, now
from streams.names import LaneKeys
from streams.steps import step
from streams.tail import Position, PositionAhead, Tail

BATCH = 500
"""Events in one transaction, at most."""
LINGER = 0.02
"""Seconds that news wait for more to share their transaction, which costs more than all else."""
BLOCK = 0.5
"""Seconds that a read waits for news; also the longest that a stop waits for it."""
REPEAT_TROUBLE = 60.0
"""Seconds after which a trouble that lasts is logged again."""

Positions = dict[str, Position]


class LogBroken(Exception):
    """Raised when what follows the position in the log does not join on to it, or cannot be read."""


class Runner:
    """Folds one lane into all projections, until told to stop. `run` is the body of a thread."""

    def __init__(
        self,
        engine: Engine,
        link: Link,
        lane: str,
        keys: LaneKeys,
        stopping: Event,
        *,
        projections: tuple[Projection, ...] = ALL,
        linger: float = LINGER,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self.lane = lane
        self.checked_at: datetime | None = None
        """When the log was last seen to hold nothing that is not folded."""
        self.trouble: str | None = None
        """Why the lane cannot be folded further; None while it can."""
        self._engine = engine
        self._link = link
        self._keys = keys
        self._stopping = stopping
        self._projections = projections
        self._linger = linger
        self._standing: tuple[Positioned, ...] = projections
        self._changed = changed
        self._noted: str | None = ""
        self._logged_at = float("-inf")
        self._log = structlog.get_logger("projections.runner").bind(lane=lane)

    def run(self) -> None:
        """Fold until told to stop; what fails is tried again, from the position that Postgres has."""
        backoff = Backoff(self._stopping)
        while not self._stopping.is_set():
            try:
                self.follow(backoff.reset)
            except PositionLost:
                continue
            except Unreachable as error:
                self._tell("redis away", str(error), backoff)
            except (PositionAhead, LogBroken, NewerVersion, DecodeError, ResponseError) as error:
                self._troubled(f"{type(error).__name__}: {error}")
            except SQLAlchemyError as error:
                if is_away(error):
                    self._tell("postgres away", str(error.__cause__ or error).splitlines()[0], backoff)
                else:
                    self._troubled(f"{type(error).__name__}: {error}")
            except Exception as error:  # a lane's thread never dies: it says what is wrong and tries again
                self._log.exception("fold failed")
                self._troubled(f"{type(error).__name__}: {error}")
            backoff.wait()
        self._link.close()

    def follow(self, progress: Callable[[], None] = lambda: None) -> None:
        """Fold what comes until told to stop.

        Raises what stopped it: Unreachable, PositionAhead, LogBroken, PositionLost, DBAPIError.
        """
        positions = self.positions()
        tail = Tail(self._link, self._keys, min(positions.values(), key=lambda position: position.seq))
        while not self._stopping.is_set():
            before, asked = tail.after, now()
            events = tail.read(BATCH, BLOCK)
            if events and len(events) < BATCH and not self._stopping.wait(self._linger):
                events += tail.read(BATCH - len(events), 0)
            check_joined(before, events)
            if events:
                step("events read")
                positions = self.commit(positions, events)
                step("rows committed")
                self._changed()
            if len(events) < BATCH:
                # What the log held when asked is folded; what it holds beyond its watermark is not yet so.
                self.checked_at = asked
            self._untroubled()
            progress()

    def positions(self) -> Positions:
        """Where each projection stands in the lane, by projection name."""
        with self._engine.begin() as connection:
            if self.checked_at is None:
                self.checked_at = last_checked(connection, self.lane)
            return {
                projection.name: read_position(connection, projection, self.lane)
                for projection in self._projections
            }

    def commit(self, positions: Positions, events: list[Logged]) -> Positions:
        """Fold `events` into all projections in one transaction and return the new positions.

        A projection that is further than the others takes only what is new to it.
        Raises PositionLost, LogBroken, DBAPIError; then nothing was changed.
        """
        moved = dict(positions)
        with self._engine.begin() as connection:
            for projection in self._projections:
                before = positions[projection.name]
                fresh = after_position(before, events)
                if not fresh:
                    continue
                after = Position(fresh[-1].event.seq, fresh[-1].hash)
                advance(connection, projection, self.lane, before, after)
                step("position moved")
                ids = concerned(projection, fresh)
                if ids:
                    rows = load_rows(connection, projection, self.lane, ids)
                    folded = fold_all(projection, rows, fresh)
                    step("events folded")
                    write_rows(connection, projection, self.lane, folded)
                    step("rows written")
                moved[projection.name] = after
        return moved

    def _troubled(self, trouble: str) -> None:
        """Say loudly that the lane stands still, and keep it where its status is asked for."""
        if trouble != self.trouble or time.monotonic() - self._logged_at > REPEAT_TROUBLE:
            self._log.error("projection stands still", trouble=trouble)
            self._logged_at = time.monotonic()
        self.trouble = trouble
        self._note(trouble)

    def _untroubled(self) -> None:
        if self.trouble is not None:
            self._log.warning("projection goes on", was=self.trouble)
        self.trouble = None
        self._note(None)

    def _note(self, trouble: str | None) -> None:
        if trouble == self._noted:
            return
        try:
            with self._engine.begin() as connection:
                for standing in self._standing:
                    note_trouble(connection, standing, self.lane, trouble)
        except SQLAlchemyError:
            return  # it is noted the next time, once Postgres answers again
        self._noted = trouble

    def _tell(self, what: str, detail: str, backoff: Backoff) -> None:
        if backoff.failures == 0:
            self._log.warning(what, detail=detail)


def after_position(position: Position, events: list[Logged]) -> list[Logged]:
    """Those of `events` that come after `position`; raises LogBroken where its own event is another one."""
    for logged in events:
        if logged.event.seq == position.seq and logged.hash != position.hash:
            raise LogBroken(f"event {position.seq} is not the one that was folded ({position.hash[:12]}…)")
    return [logged for logged in events if logged.event.seq > position.seq]


def check_joined(position: Position, events: list[Logged]) -> None:
    """Raise LogBroken unless `events` follow `position` without a gap, each naming the hash before it."""
    for logged in events:
        if logged.event.seq != position.seq + 1:
            raise LogBroken(f"event {position.seq + 1} is missing: the log goes on with {logged.event.seq}")
        if logged.event.prev != position.hash:
            raise LogBroken(f"event {logged.event.seq} does not follow the one that was folded before it")
        position = Position(logged.event.seq, logged.hash)
