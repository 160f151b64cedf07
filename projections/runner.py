"""A lane's runner: reads the lane's log, folds it, and commits rows and position together.

Any number of runners may work on one lane. The position is moved by compare-and-set inside the
transaction that writes the rows; the runner that comes second rolls back and reads again. From then on it
gives way: it looks on, and folds only what the other has left lying for a while.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from threading import Event

import psycopg
import structlog
from msgspec import DecodeError
from redis.exceptions import ResponseError
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from projections.database import is_away
from projections.failures import Aside, Failure
from projections.folding import Batch, fold_carefully, fold_into, is_refusal
from projections.lasting import NotLasting
from projections.poison import OnError, held_in
from projections.projection import ALL, SOURCES, Positioned, Projection
from projections.rebuilds import failure, want
from projections.store import (
    NewerVersion,
    OlderVersion,
    PositionLost,
    Standing,
    advance_all,
    check_version,
    last_checked,
    note_trouble,
    put_position,
    standings,
)
from streams import traces
from streams.backoff import REDIS, Backoff, Waits
from streams.connection import Link, Unreachable
from streams.history import Archive, ArchiveAway, EventsMissing
from streams.messages import Logged, now
from streams.names import LaneKeys
from streams.steps import step
from streams.tail import Position, PositionAhead, Tail

BATCH = 2000
"""Events in one transaction, at most."""
FAR = 10_000
"""Events by which a projection may be behind the others: what is further is rebuilt beside them."""
ASIDE_AGAIN = 5.0
"""Seconds after which it is looked whether a projection that was set aside can take part again."""
LINGER = 0.02
"""Seconds that news wait for more to share their transaction, which costs more than all else."""
MANY = 5
"""Events in one transaction from which on the next ones wait BUSY times as long: nobody looks at each."""
BUSY = 5
GIVE_WAY = 0.5
"""Seconds that a runner leaves its lane to another that was faster the last time; then it goes on itself."""
BLOCK = 0.5
"""Seconds that a read waits for news; also the longest that a stop waits for it."""
REPEAT_TROUBLE = 60.0
"""Seconds after which a trouble that lasts is logged again."""

Positions = dict[str, Position]


class LogBroken(Exception):
    """Raised when what follows the position in the log does not join on to it, or cannot be read."""


STANDSTILLS = (
    PositionAhead,
    EventsMissing,
    LogBroken,
    NotLasting,
    DecodeError,
    ResponseError,
)
"""What says that the lane cannot be folded further as things are."""


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
        archive: Archive | None = None,
        projections: tuple[Projection, ...] = ALL,
        linger: float = LINGER,
        waits: Waits = REDIS,
        on_error: OnError = "park",
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
        self._archive = archive
        self._projections = projections
        self._linger = linger
        self._waits = waits
        self._read_again = Event()
        self._second = False
        self._standing: tuple[Positioned, ...] = projections
        self._on_error = on_error
        self._changed = changed
        self._aside: dict[str, Aside] = {}
        self._tried: set[str] = set()
        self._carefully = False
        self._noted: str | None = ""
        self._logged_at = float("-inf")
        self._log = structlog.get_logger("projections.runner").bind(lane=lane)

    def read_again(self) -> None:
        """Ask for the positions to be read again: Postgres is another one. Any thread may call it."""
        self._read_again.set()

    def run(self) -> None:
        """Fold until told to stop; what fails is tried again, from the position that Postgres has.

        That is safe whatever became of the transaction that failed: if it was committed, the position
        says so; if not, nothing of it is there. A commit whose answer was lost is not repeated.
        """
        backoff = Backoff(self._stopping)
        while not self._stopping.is_set():
            try:
                self.follow(backoff.reset)
            except PositionLost:
                continue
            except Unreachable as error:
                self._tell("redis away", str(error), backoff)
            except ArchiveAway as error:
                self._tell("postgres away", str(error), backoff)
                backoff.wait(self._waits)
                continue
            except STANDSTILLS as error:
                what = f"{type(error).__name__}: {error}"
                self._troubled(what, "database" if isinstance(error, NotLasting) else "log")
            except (SQLAlchemyError, psycopg.Error) as error:
                if is_away(error):
                    self._tell("postgres away", str(error.__cause__ or error).splitlines()[0], backoff)
                    backoff.wait(self._waits)
                    continue
                if is_refusal(error) and not self._carefully:
                    self._carefully = True
                    continue
                self._troubled(f"{type(error).__name__}: {error}", "database")
            except Exception as error:  # a lane's thread never dies: it says what is wrong and tries again
                self._log.exception("fold failed")
                self._troubled(f"{type(error).__name__}: {error}", "fault")
            backoff.wait()
        self._link.close()

    def follow(self, progress: Callable[[], None] = lambda: None) -> None:
        """Fold what comes until told to stop.

        Raises what stopped it: Unreachable, PositionAhead, LogBroken, PositionLost, DBAPIError.
        """
        self._read_again.clear()
        positions = self.positions()
        look_again = time.monotonic() + ASIDE_AGAIN
        if not positions:
            self._stopping.wait(ASIDE_AGAIN)
            return
        start = min(positions.values(), key=_seq)
        tail = Tail(self._link, self._keys, start, self._archive)
        folded = 0
        while not self._stopping.is_set():
            if self._read_again.is_set():
                raise PositionLost("the positions are to be read again")
            if self._aside and time.monotonic() > look_again:
                raise PositionLost("a projection that was set aside may take part again")
            before, asked = tail.after, now()
            events = tail.read(BATCH, BLOCK)
            linger = BUSY * self._linger if folded >= MANY else self._linger
            if events and len(events) < BATCH and not self._stopping.wait(linger):
                events += tail.read(BATCH - len(events), 0)
            folded = len(events)
            check_joined(before, events)
            if events and self._second:
                positions = self._give_way(positions, events[-1].event.seq)
            if events and min(positions.values(), key=_seq).seq < events[-1].event.seq:
                step("events read")
                began = traces.clock()
                try:
                    positions = self.commit(positions, events)
                except PositionLost:
                    self._second = True
                    raise
                step("rows committed")
                traces.folded(self.lane, events, began)
                self._changed()
            if len(events) < BATCH and SOURCES.name not in self._aside:
                # What the log held when asked is folded; what it holds beyond its watermark is not yet so.
                self.checked_at = asked
            self._untroubled()
            progress()

    def positions(self) -> Positions:
        """Where each projection that takes part stands in the lane, by its name.

        The others are set aside: those of another version, those that stopped before an event (until
        that is retried; each is also tried once by a new process), and those far behind, which would
        keep the rest waiting. What can be mended by a rebuild is asked for.
        """
        found: Positions = {}
        aside: dict[str, Aside] = {}
        with self._engine.begin() as connection:
            if self.checked_at is None:
                self.checked_at = last_checked(connection, self.lane)
            stand = standings(connection, self._projections, self.lane)
            for projection in self._projections:
                try:
                    found[projection.name] = self._position(connection, projection, stand[projection.name])
                except Aside as one:
                    aside[projection.name] = one
            furthest = max((position.seq for position in found.values()), default=0)
            for projection in self._projections:
                name = projection.name
                if name in found and furthest - found[name].seq > FAR:
                    del found[name]
                    aside[name] = _to_be_rebuilt(connection, projection)
                if name in aside:
                    note_trouble(connection, projection, self.lane, aside[name].trouble, aside[name].failure)
        for name, why in aside.items():
            if str(why) != str(self._aside.get(name)):
                self._log.warning(
                    "projection set aside", projection=name, failure=why.failure, detail=str(why)
                )
        self._aside = aside
        return found

    def _position(self, connection: Connection, projection: Projection, stands: Standing) -> Position:
        """Where the projection stands. Raises Aside where it cannot go on from there."""
        try:
            check_version(projection, stands.version)
        except OlderVersion as error:
            raise _to_be_rebuilt(connection, projection) from error
        except NewerVersion as error:
            raise Aside("version", f"NewerVersion: {error}") from error
        if stands.failure == "poison" and projection.name in self._tried:
            raise Aside("poison", stands.trouble)
        self._tried.add(projection.name)
        return stands.at

    def _give_way(self, positions: Positions, until: int) -> Positions:
        """Leave the events up to `until` to another runner while it is at work; where all stand then.

        Raises PositionLost where that has to be read as if anew.
        """
        while not self._stopping.wait(GIVE_WAY):
            if self._read_again.is_set():
                raise PositionLost("the positions are to be read again")
            with self._engine.connect() as connection:
                stand = standings(connection, self._standing, self.lane)
            if any(stand[name].failure == "poison" for name in positions):
                raise PositionLost("a projection was stopped by another runner")
            now_at = {name: stand[name].at for name in positions}
            if now_at == positions:
                self._second = False
                break
            positions = now_at
            if min(positions.values(), key=_seq).seq >= until:
                break
        return positions

    def commit(self, positions: Positions, events: list[Logged]) -> Positions:
        """Fold `events` into all projections in one transaction and return the new positions.

        A projection that is further than the others takes only what is new to it; one that stops
        before an event is set aside. Raises PositionLost, LogBroken, DBAPIError; then nothing was changed.
        """
        moved, aside = dict(positions), dict(self._aside)
        # Nearly always all stand at the same.
        after_each = {at: Batch(after_position(at, events)) for at in set(positions.values())}
        fresh = {name: after_each[at] for name, at in positions.items()}
        moving = [one for one in self._projections if one.name in fresh and fresh[one.name].events]
        if not moving:
            return moved
        after = Position(events[-1].event.seq, events[-1].hash)
        fold = fold_carefully if self._carefully else fold_into
        with self._engine.begin() as connection:
            before = {one.name: (one.version, positions[one.name]) for one in moving}
            advance_all(connection, self.lane, before, after)
            held = held_in(connection, self.lane)
            for projection in moving:
                name = projection.name
                step("position moved")
                stopped = fold(
                    connection, projection, self.lane, fresh[name], held.get(name, {}), self._on_error
                )
                moved[name] = after
                if stopped is not None:
                    trouble = f"event {stopped.seq} ({stopped.type}) cannot be folded: {stopped.error}"
                    put_position(connection, projection, self.lane, Position(stopped.seq - 1, stopped.prev))
                    note_trouble(connection, projection, self.lane, trouble, "poison")
                    aside[name] = Aside("poison", trouble)
                    self._log.error("projection stopped", projection=name, trouble=trouble)
                    del moved[name]
        self._aside, self._carefully = aside, False
        return moved

    def _troubled(self, trouble: str, failure: Failure) -> None:
        """Say loudly that the lane stands still, and keep it where its status is asked for."""
        if trouble != self.trouble or time.monotonic() - self._logged_at > REPEAT_TROUBLE:
            self._log.error("projection stands still", trouble=trouble)
            self._logged_at = time.monotonic()
        self.trouble = trouble
        self._note(trouble, failure)

    def _untroubled(self) -> None:
        # What readers are shown first is the sources: where they stand still the lane does.
        shown = self._aside.get(SOURCES.name)
        trouble = None if shown is None else shown.trouble
        if self.trouble is not None and trouble is None:
            self._log.warning("projection goes on", was=self.trouble)
        self.trouble = trouble
        self._note(None, None)

    def _note(self, trouble: str | None, failure: Failure | None) -> None:
        if trouble == self._noted:
            return
        try:
            with self._engine.begin() as connection:
                for standing in self._standing:
                    if standing.name not in self._aside:
                        note_trouble(connection, standing, self.lane, trouble, failure)
        except SQLAlchemyError:
            return  # it is noted the next time, once Postgres answers again
        self._noted = trouble

    def _tell(self, what: str, detail: str, backoff: Backoff) -> None:
        if backoff.failures == 0:
            self._log.warning(what, detail=detail)
        elif backoff.exhausted:
            self._log.error(
                f"{what}: still, it is tried again for ever", tries=backoff.failures + 1, detail=detail
            )


def _to_be_rebuilt(connection: Connection, projection: Projection) -> Aside:
    """Ask for a rebuild; nothing is wrong while it is pending, and somebody is told where it failed."""
    want(connection, projection)
    failed = failure(connection, projection)
    if failed is None:
        return Aside("rebuilding", None)
    return Aside(
        "rebuilding", f"the rebuild failed: {failed}; then: tocsin projection rebuild {projection.name}"
    )


def _seq(position: Position) -> int:
    return position.seq


def after_position(position: Position, events: list[Logged]) -> list[Logged]:
    """Those of `events` that come after `position`; raises LogBroken where its own event is another one."""
    for logged in events:
        if logged.event.seq == position.seq and logged.hash != position.hash:
            raise LogBroken(f"event {position.seq} is not the one that was folded ({position.hash[:12]}…)")
    return [logged for logged in events if logged.event.seq > position.seq]


def check_joined(position: Position, events: list[Logged]) -> None:
    """Raise LogBroken unless `events` follow `position` without a gap, each naming the hash before it."""
    seq, hash = position.seq, position.hash
    for logged in events:
        event = logged.event
        if event.seq != seq + 1:
            raise LogBroken(f"event {seq + 1} is missing: the log goes on with {event.seq}")
        if event.prev != hash:
            raise LogBroken(f"event {event.seq} does not follow the one that was folded before it")
        seq, hash = event.seq, logged.hash
