"""The archive: every event of a lane, copied into Postgres as it stands in the log.

A lane's archiver is a runner of its own, so that a fold that stands still does not hold it back.
Its rows and its position are one transaction. What it has committed it tells the lane's owner,
by the field `archived` of the lane's head.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Event

import msgspec
from psycopg import Cursor
from sqlalchemy import Connection, Engine, func, select, text, update

from projections.projection import Positioned
from projections.runner import Positions, Runner, after_position
from projections.store import advance, enter
from projections.tables import ARCHIVE, archive, positions
from streams.connection import Link
from streams.messages import Logged
from streams.names import LaneKeys
from streams.tail import START, Position

TELL_EVERY = 1.0
"""Seconds after which the owner is told again how far the lane is: a failover may have lost it."""

_COPY = "COPY archive (lane, seq, token, hash, raw, type, source, command, at, logged_at) FROM STDIN"


class _Archive(msgspec.Struct, frozen=True):
    name: str = ARCHIVE
    version: int = 1


THE_ARCHIVE: Positioned = _Archive()


class Archiver(Runner):
    """Copies one lane into the archive, until told to stop. `run` is the body of a thread.

    Where the log does not contain the archive's last event (it was rolled back, or is another
    branch), it stands still and says so: what was archived is never changed or skipped over.
    """

    def __init__(self, engine: Engine, link: Link, lane: str, keys: LaneKeys, stopping: Event) -> None:
        # Whoever asked for durability `archive` waits for it.
        super().__init__(engine, link, lane, keys, stopping, projections=(), linger=0.0)
        self._standing = (THE_ARCHIVE,)
        self._at = START
        self._told_at = float("-inf")

    def follow(self, progress: Callable[[], None] = lambda: None) -> None:
        """Copy what comes until told to stop; raises what stopped it, as a runner does."""

        def went_on() -> None:
            if time.monotonic() - self._told_at > TELL_EVERY:
                self._tell_owner()
            progress()

        super().follow(went_on)

    def positions(self) -> Positions:
        """Where the archive stands in the lane, known to be as lasting as the next commit will be."""
        with self._engine.begin() as connection:
            self._at = archive_position(connection, self.lane)
            make_lasting(connection)
        self._tell_owner()
        return {ARCHIVE: self._at}

    def commit(self, positions: Positions, events: list[Logged]) -> Positions:
        """Keep `events` in one transaction with the position, and tell the owner.

        Raises PositionLost, LogBroken, DBAPIError (then nothing was changed), Unreachable (then it was).
        """
        fresh = after_position(positions[ARCHIVE], events)
        if not fresh:
            return positions
        after = Position(fresh[-1].event.seq, fresh[-1].hash)
        with self._engine.begin() as connection:
            advance(connection, THE_ARCHIVE, self.lane, positions[ARCHIVE], after)
            keep(connection, self.lane, fresh)
            make_lasting(connection)
        self._at = after
        self._tell_owner()
        return {ARCHIVE: after}

    def _tell_owner(self) -> None:
        """Raise the field `archived` of the lane's head; where the log is another one, nothing happens."""
        self._told_at = time.monotonic()
        if self._at.seq:
            keys = self._keys
            self._link.call(
                "FCALL", "tocsin_archived", 2, keys.head, keys.events, self._at.seq, self._at.hash
            )


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


def make_lasting(connection: Connection) -> None:
    """Let the transaction's commit return only once it is on disk, here and on every synchronous standby.

    A statement timeout during the commit would end the wait for standbys and not the commit.
    """
    connection.execute(
        text(
            "SELECT set_config('statement_timeout', '0', true), set_config('synchronous_commit', CASE"
            " WHEN current_setting('synchronous_commit') IN ('on', 'remote_apply')"
            " THEN current_setting('synchronous_commit') ELSE 'on' END, true)"
        )
    )
