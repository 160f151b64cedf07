"""The archive: every event of a lane, copied into Postgres as it stands in the log.

A lane's archiver is a runner of its own, so that a fold that stands still does not hold it back.
Its rows and its position are one transaction. What it has committed it tells the lane's owner,
by its key `archived`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Event

import msgspec
from psycopg import Cursor
from sqlalchemy import Connection, Engine, func, select, update

from projections.lasting import lasting
from projections.projection import ALL, Positioned
from projections.runner import Positions, Runner, after_position
from projections.store import advance, enter
from projections.tables import ARCHIVE, archive, positions
from streams.backoff import REDIS, Waits
from streams.connection import Link
from streams.messages import Logged
from streams.names import LaneKeys
from streams.steps import step
from streams.tail import START, Position

TELL_EVERY = 1.0
"""Seconds after which the owner is told again how far the lane is: a failover may have lost it."""

_COPY = (
    "COPY archive (lane, seq, token, hash, raw, type, source, command, at, logged_at)"
    " FROM STDIN (FORMAT BINARY)"
)
_TYPES = ("text", "int8", "int8", "text", "bytea", "text", "text", "text", "timestamptz", "timestamptz")


class _Archive(msgspec.Struct, frozen=True):
    name: str = ARCHIVE
    version: int = 1


THE_ARCHIVE: Positioned = _Archive()


class Archiver(Runner):
    """Copies one lane into the archive, until told to stop. `run` is the body of a thread.

    Where the log does not contain the archive's last event (it was rolled back, or is another
    branch), it stands still and says so: what was archived is never changed or skipped over.
    """

    def __init__(
        self,
        engine: Engine,
        link: Link,
        lane: str,
        keys: LaneKeys,
        stopping: Event,
        *,
        standbys: int = 0,
        waits: Waits = REDIS,
    ) -> None:
        # No lingering: whoever asked for durability `archive` waits for it.
        super().__init__(engine, link, lane, keys, stopping, projections=(), linger=0.0, waits=waits)
        self._standbys = standbys
        self._standing = (THE_ARCHIVE,)
        self._at = START
        self._told_at = float("-inf")

    def follow(self, progress: Callable[[], None] = lambda: None) -> None:
        """Copy what comes until told to stop; raises what stopped it, as a runner does."""

        def went_on() -> None:
            if time.monotonic() - self._told_at > TELL_EVERY:
                self._tell_owner(self._folded())
            progress()

        super().follow(went_on)

    def positions(self) -> Positions:
        """Where the archive stands in the lane, all of it on the standbys. Raises NotLasting, DBAPIError."""
        with lasting(self._engine, self._standbys) as connection:
            at = archive_position(connection, self.lane)
        self._at = at
        self._tell_owner()
        return {ARCHIVE: at}

    def commit(self, positions: Positions, events: list[Logged]) -> Positions:
        """Keep `events` in one transaction with the position, and tell the owner once that is lasting.

        Raises PositionLost, LogBroken (then nothing was changed), Unreachable (then it was); after
        DBAPIError and NotLasting `positions` must say, which vouches for what was committed.
        """
        fresh = after_position(positions[ARCHIVE], events)
        if not fresh:
            return positions
        after = Position(fresh[-1].event.seq, fresh[-1].hash)
        with lasting(self._engine, self._standbys) as connection:
            advance(connection, THE_ARCHIVE, self.lane, positions[ARCHIVE], after)
            step("archive position moved")
            keep(connection, self.lane, fresh)
            step("archive rows kept")
        step("archived")
        self._at = after
        self._tell_owner()
        return {ARCHIVE: after}

    def _folded(self) -> int:
        with self._engine.connect() as connection:
            return folded_by_all(connection, self.lane)

    def _tell_owner(self, *folded: int) -> None:
        """Tell how far the lane is archived, and folded; where the log is another one, nothing happens."""
        self._told_at = time.monotonic()
        if self._at.seq:
            keys, at = self._keys, self._at
            told = (at.seq, at.hash, *folded)
            self._link.call("FCALL", "tocsin_archived", 2, keys.archived, keys.events, *told)
            step("archive told")


def folded_by_all(connection: Connection, lane: str) -> int:
    """The last event of the lane that every projection of this version has folded; 0 where one has none."""
    wanted = select(positions.c.projection, positions.c.seq).where(positions.c.lane == lane)
    found: dict[str, int] = {row.projection: row.seq for row in connection.execute(wanted)}
    return min(found.get(projection.name, 0) for projection in ALL)


def archive_position(connection: Connection, lane: str) -> Position:
    """Where the archive stands in the lane: at its last event, where no position is kept.

    It also writes: a commit that waits for standbys then vouches for what was committed before it.
    """
    newest = select(archive.c.seq, archive.c.hash).where(archive.c.lane == lane)
    last = connection.execute(newest.order_by(archive.c.seq.desc()).limit(1)).one_or_none()
    enter(connection, THE_ARCHIVE, lane, Position(last.seq, last.hash) if last else START)
    row = connection.execute(
        update(positions)
        .where(positions.c.projection == ARCHIVE, positions.c.lane == lane)
        .values(updated_at=func.now())
        .returning(positions.c.seq, positions.c.hash)
    ).one()
    return Position(row.seq, row.hash)


def keep(connection: Connection, lane: str, events: list[Logged]) -> None:
    """Add rows for `events`, inside the transaction of `connection`."""
    cursor: Cursor[tuple[object, ...]] = connection.connection.cursor()  # type: ignore[assignment]  # psycopg's
    with cursor, cursor.copy(_COPY) as copy:
        copy.set_types(_TYPES)
        for logged in events:
            event = logged.event
            copy.write_row(
                (
                    lane,
                    event.seq,
                    event.token,
                    logged.hash,
                    logged.raw,
                    _storable(event.type),
                    _storable(event.source),
                    _storable(event.command),
                    event.at,
                    event.logged_at,
                )
            )


def _storable(value: str | None) -> str | None:
    # Postgres holds no NUL in a text; the bytes beside it keep it.
    return value.replace("\x00", "\ufffd") if value else value
