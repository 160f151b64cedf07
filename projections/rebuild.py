"""Rebuilding projections from the archive: into tables beside the live ones, which then change places.

Live folding goes on meanwhile, or stands still where its rows are of an older version; readers see the
old rows until the moment of the swap. What is folded so far is committed batch by batch with its
position, so a rebuild that is interrupted goes on where it was.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event

import psycopg
import structlog
from sqlalchemy import Connection, Engine, func, select, text
from sqlalchemy.exc import SQLAlchemyError

from projections import rebuilds, swap
from projections.database import is_away, unhurried, wire_of
from projections.folding import Batch, fold_into
from projections.poison import OnError, held_in
from projections.projection import ALL, Projection
from projections.runner import LogBroken, check_joined
from projections.store import enter
from projections.tables import ARCHIVE, positions, rebuild_positions
from projections.tables import rebuilds as kept
from streams.backoff import REDIS, Backoff, Waits
from streams.messages import Logged, decode_event
from streams.tail import START, Position

BATCH = 5000
"""Events in one transaction."""
LOOK_EVERY = 1.0
"""Seconds between two looks for what is wanted."""
TELL_EVERY = 5.0
"""Seconds between two lines in the log on how far it is."""
ARCHIVE_WITHIN = 2.0
"""Seconds that the live folds are held up for the archive to be as far as they are."""
LOCK = 0x746F6373_696E0002
"""The advisory lock under which one process at a time rebuilds ("tocsin", 2)."""

_LOCK_READERS = text("SET LOCAL lock_timeout = '2s'")
_NO_DISK = text("SET LOCAL synchronous_commit = off")
_PUT_POSITIONS = text(
    "INSERT INTO rebuild_positions (projection, lane, seq, hash)"
    " SELECT name, :lane, :seq, :hash FROM unnest(CAST(:names AS text[])) AS name"
    " ON CONFLICT (projection, lane) DO UPDATE SET seq = excluded.seq, hash = excluded.hash"
)


class RebuildFailed(Exception):
    """Raised when a rebuild cannot be completed, and would not be by trying again."""


class NotYet(Exception):
    """Raised when the swap must wait: the archive is behind the live folds, or a reader takes long."""


class Rebuilder:
    """Rebuilds what is wanted, one process at a time. `run` is the body of a thread."""

    def __init__(
        self,
        engine: Engine,
        stopping: Event,
        *,
        projections: tuple[Projection, ...] = ALL,
        on_error: OnError = "park",
        waits: Waits = REDIS,
        rebuilt: Callable[[], None] = lambda: None,
    ) -> None:
        self._engine = engine
        self._stopping = stopping
        self._projections = {projection.name: projection for projection in projections}
        self._on_error = on_error
        self._waits = waits
        self._rebuilt = rebuilt
        self._log = structlog.get_logger("projections.rebuild")

    def run(self) -> None:
        """Look for what is wanted and rebuild it, until told to stop; what fails is tried again."""
        backoff = Backoff(self._stopping)
        while not self._stopping.wait(LOOK_EVERY):
            try:
                self.look()
                backoff.reset()
            except NotYet as error:
                self._log.info("the rebuilt tables wait to be swapped in", detail=str(error))
            except (SQLAlchemyError, psycopg.Error) as error:
                if not is_away(error):
                    self._log.exception("rebuild interrupted")
                elif backoff.failures == 0:
                    self._log.warning("postgres away", detail=str(error).splitlines()[0])
                backoff.wait(self._waits)
            except Exception:  # the thread never dies: it says what is wrong and tries again
                self._log.exception("rebuild interrupted")
                backoff.wait()

    def look(self) -> None:
        """Rebuild what is wanted now, if anything is and no other process does. Raises NotYet, DBAPIError."""
        with self._engine.connect() as connection:
            if not self._wanted(connection):
                return
            with _alone(connection) as alone:
                if alone:
                    wanted = self._wanted(connection)
                    if wanted:
                        self._rebuild(connection, wanted)

    def _wanted(self, connection: Connection) -> list[Projection]:
        """What this version can rebuild of what is pending, by name."""
        pending = rebuilds.pending(connection)
        connection.rollback()
        known = [self._projections[name] for name in sorted(pending) if name in self._projections]
        return [projection for projection in known if projection.version == pending[projection.name].version]

    def _rebuild(self, connection: Connection, wanted: list[Projection]) -> None:
        names = [projection.name for projection in wanted]
        try:
            work = Work(connection, wanted, self._on_error)
            self._log.info("rebuild begins", projections=names, events=work.total, done=work.done)
            told, began, done = time.monotonic(), time.monotonic(), work.done
            for _ in work.catch_up():
                rate = (work.done - done) / max(0.001, time.monotonic() - began)
                if time.monotonic() - told > TELL_EVERY:
                    told, left = time.monotonic(), max(0, work.total - work.done) / max(1.0, rate)
                    self._log.info(
                        "rebuilding",
                        projections=names,
                        done=work.done,
                        total=work.total,
                        per_second=round(rate),
                        seconds_left=round(left),
                    )
                if self._stopping.is_set():
                    return
            work.finish()
        except (RebuildFailed, LogBroken) as error:
            self._log.error("rebuild failed", projections=names, detail=str(error))
            with connection.begin():
                for projection in wanted:
                    swap.drop(connection, projection)
                rebuilds.note(connection, names, state="failed", finished_at=func.now(), detail=str(error))
            return
        self._log.info(
            "rebuilt",
            projections=names,
            events=work.done,
            seconds=round(time.monotonic() - began, 1),
        )
        self._rebuilt()


class Work:
    """The rebuild of some projections together, so that each event is read once."""

    def __init__(self, connection: Connection, wanted: list[Projection], on_error: OnError) -> None:
        self._connection = connection
        self._wanted = {projection: swap.beside(projection) for projection in wanted}
        self._names = [projection.name for projection in wanted]
        self._on_error = on_error
        self._began = time.monotonic()
        self._at: dict[tuple[str, str], Position] = {}
        with connection.begin():
            for projection in wanted:
                self._begin(projection)
            self._lanes = _lanes(connection)
            self.total = _archived(connection)
            rebuilds.note(
                connection,
                self._names,
                state="running",
                started_at=func.coalesce(kept.c.started_at, func.now()),
                total=self.total,
                detail=None,
            )
        self._done_before = self.done

    @property
    def done(self) -> int:
        """Events folded so far, by the projection that is least far."""
        return sum(self._least(lane).seq for lane in self._lanes)

    def catch_up(self) -> Iterator[None]:
        """Fold what the archive has, batch by batch. Raises RebuildFailed, LogBroken, DBAPIError."""
        for lane in self._lanes:
            while True:
                with self._connection.begin():
                    self._connection.execute(_NO_DISK)
                    if not self._fold_on(lane):
                        break
                    self._note()
                yield

    def finish(self) -> None:
        """Build the indexes, fold the last events and swap. Raises NotYet, RebuildFailed, DBAPIError."""
        for projection in self._wanted:
            with self._connection.begin(), unhurried(self._connection):
                swap.index(self._connection, projection)
        for _ in self.catch_up():
            pass
        try:
            with self._connection.begin(), unhurried(self._connection):
                self._connection.execute(_LOCK_READERS)
                self._swap()
        except SQLAlchemyError as error:
            if getattr(getattr(error, "orig", None), "sqlstate", "") in ("55P03", "40P01"):
                raise NotYet("readers of the old tables take long") from error
            raise

    def _swap(self) -> None:
        """With the live folds held up: reach where they are, and change places."""
        connection = self._connection
        live = _live(connection, self._names)
        for projection in self._wanted:
            # No runner of a lane that is new since then may write either; readers are let through.
            connection.execute(text(f'LOCK TABLE "{projection.table.name}" IN SHARE ROW EXCLUSIVE MODE'))
        live = _live(connection, self._names)
        self._lanes = sorted({*self._lanes, *live})
        deadline = time.monotonic() + ARCHIVE_WITHIN
        for lane in self._lanes:
            while self._least(lane).seq < live.get(lane, 0):
                if not self._fold_on(lane):
                    if time.monotonic() > deadline:
                        raise NotYet(f"the archive of {lane} is not as far as its folds: {live[lane]}")
                    time.sleep(0.05)
        for projection in self._wanted:
            for lane in self._lanes:
                enter(connection, projection, lane, START)
            at = {lane: self._at.get((projection.name, lane), START) for lane in self._lanes}
            swap.swap(connection, projection, at)
        rebuilds.note(
            connection,
            self._names,
            state="done",
            finished_at=func.now(),
            done=self.done,
            total=self.done,
            per_second=self._rate(),
        )

    def _begin(self, projection: Projection) -> None:
        """Go on with what an interrupted rebuild has left, or begin."""
        state = rebuilds.pending(self._connection)[projection.name]
        if state.state == "wanted" or not swap.exists(self._connection, projection):
            swap.begin(self._connection, projection)
            return
        left = select(rebuild_positions).where(rebuild_positions.c.projection == projection.name)
        for row in self._connection.execute(left):
            self._at[projection.name, row.lane] = Position(row.seq, row.hash)

    def _least(self, lane: str) -> Position:
        return min((self._at.get((name, lane), START) for name in self._names), key=lambda at: at.seq)

    def _fold_on(self, lane: str) -> bool:
        """Fold the lane's next events; whether there were any."""
        before = self._least(lane)
        events = read(self._connection, lane, before.seq, BATCH)
        if not events:
            return False
        check_joined(before, events)
        after = Position(events[-1].event.seq, events[-1].hash)
        held, moved, batch = held_in(self._connection, lane), list[str](), Batch(events)
        for projection, new in self._wanted.items():
            at = self._at.get((projection.name, lane), START)
            fresh = (
                batch if at.seq == before.seq else Batch([one for one in events if one.event.seq > at.seq])
            )
            if not fresh.events:
                continue
            stopped = fold_into(self._connection, new, lane, fresh, held.get(new.name, {}), self._on_error)
            if stopped is not None:
                raise RebuildFailed(
                    f"{projection.name}: event {lane}:{stopped.seq} ({stopped.type}) cannot be folded:"
                    f" {stopped.error}"
                )
            self._at[projection.name, lane] = after
            moved.append(projection.name)
        put = {"names": moved, "lane": lane, "seq": after.seq, "hash": after.hash}
        self._connection.execute(_PUT_POSITIONS, put)
        return True

    def _note(self) -> None:
        self.total = max(self.total, self.done)
        rebuilds.note(
            self._connection, self._names, done=self.done, total=self.total, per_second=self._rate()
        )

    def _rate(self) -> float:
        return (self.done - self._done_before) / max(0.001, time.monotonic() - self._began)


def read(connection: Connection, lane: str, after: int, limit: int) -> list[Logged]:
    """The lane's archived events after seq `after`, at most `limit`."""
    with wire_of(connection).cursor(binary=True) as cursor:
        cursor.execute(_READ, (lane, after, after + limit))
        return [Logged(decode_event(raw), raw, hash) for raw, hash in cursor.fetchall()]


# By range, seqs having no gaps: with LIMIT a planner without figures of the table sorts all the rest.
_READ = b"SELECT raw, hash FROM archive WHERE lane = %s AND seq > %s AND seq <= %s ORDER BY seq"


def _lanes(connection: Connection) -> list[str]:
    return sorted(connection.scalars(select(positions.c.lane).distinct()))


def _archived(connection: Connection) -> int:
    """How many events the archive has."""
    wanted = select(func.coalesce(func.sum(positions.c.seq), 0)).where(positions.c.projection == ARCHIVE)
    return int(connection.execute(wanted).scalar_one())


def _live(connection: Connection, names: list[str]) -> dict[str, int]:
    """How far the live rows are in each lane, by any of these projections; their positions are locked."""
    wanted = select(positions.c.lane, positions.c.seq).where(positions.c.projection.in_(names))
    found: dict[str, int] = {}
    for row in connection.execute(
        wanted.order_by(positions.c.lane, positions.c.projection).with_for_update()
    ):
        found[row.lane] = max(row.seq, found.get(row.lane, 0))
    return found


@contextmanager
def _alone(connection: Connection) -> Iterator[bool]:
    """Whether no other process rebuilds now; none begins to within the block, unless the connection ends."""
    alone = connection.execute(text("SELECT pg_try_advisory_lock(:lock)"), {"lock": LOCK}).scalar_one()
    connection.rollback()
    try:
        yield bool(alone)
    finally:
        if alone and not connection.closed and not connection.invalidated:
            connection.rollback()
            connection.execute(text("SELECT pg_advisory_unlock(:lock)"), {"lock": LOCK})
            connection.rollback()
