"""Fold snapshots: each lane's past as it was at every so many events, so that any point is near one.

They are made of what is archived and can always be made again: by the projections process as the
archive grows, and by whoever looks back where one is missing.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Iterator
from contextlib import suppress

import msgspec
import psycopg
import structlog

from projections.past import FOLDS, Past, fold, packed, unpacked
from projections.wire import Wire, connect_to
from streams.backoff import Backoff
from streams.history import Entry
from streams.messages import Logged, decode_event
from streams.settings import PostgresSection
from streams.tail import START, Position

EVERY = 2000
"""Events between two snapshots of a lane."""
BATCH = 2000
LOOK_EVERY = 2.0
"""Seconds between two looks at how far the archive is."""


class Snapshots:
    """The snapshots and the archive of one station, over one connection. For one thread at a time."""

    def __init__(self, postgres: PostgresSection, name: str = "past") -> None:
        self._postgres = postgres
        self._name = name
        self._open: Wire | None = None

    @property
    def _wire(self) -> Wire:
        if self._open is None or self._open.closed:
            self._open = connect_to(self._postgres, name=self._name, autocommit=True)
        return self._open

    def lanes(self) -> dict[str, int]:
        """The lanes that are archived, and how far. Raises psycopg.Error, as all of these do."""
        query = "SELECT lane, seq FROM positions WHERE projection = 'archive' AND seq > 0 ORDER BY lane"
        return dict(self._wire.execute(query.encode()).fetchall())

    def event(self, lane: str, seq: int) -> Logged | None:
        """One archived event; None where it is not there."""
        found = self._wire.cursor(binary=True).execute(
            b"SELECT raw, hash FROM archive WHERE lane = %s AND seq = %s", (lane, seq)
        )
        row = found.fetchone()
        return Logged(decode_event(row[0]), row[0], row[1]) if row else None

    def events(self, lane: str, after: int, upto: int) -> Iterator[Entry]:
        """Bytes and hash of the archived events with seq in (after, upto], oldest first."""
        query = (
            b"SELECT seq, raw, hash FROM archive WHERE lane = %s AND seq > %s AND seq <= %s"
            b" ORDER BY seq LIMIT %s"
        )
        while after < upto:
            rows = self._wire.cursor(binary=True).execute(query, (lane, after, upto, BATCH)).fetchall()
            for _, raw, stated in rows:
                yield raw, stated
            if len(rows) < BATCH:
                return
            after = rows[-1][0]

    def nearest(self, lane: str, seq: int) -> tuple[Position, Past]:
        """The latest usable snapshot of the lane at `seq` or before it, else its start.

        It counts only where the archive still holds the event that it was made at.
        """
        while seq > 0:
            row = (
                self._wire.cursor(binary=True)
                .execute(
                    b"SELECT s.seq, s.hash, s.rows, a.hash FROM fold_snapshots s"
                    b" LEFT JOIN archive a ON a.lane = s.lane AND a.seq = s.seq"
                    b" WHERE s.lane = %s AND s.seq <= %s AND s.folds = %s ORDER BY s.seq DESC LIMIT 1",
                    (lane, seq, FOLDS),
                )
                .fetchone()
            )
            if row is None:
                break
            seq, stated, rows, archived = row
            with suppress(zlib.error, msgspec.MsgspecError):
                if stated == archived:
                    return Position(seq, stated), unpacked(rows)
            seq -= 1
        return START, Past()

    def keep(self, lane: str, at: Position, past: Past) -> None:
        """Keep a snapshot; one that other folds made there is replaced."""
        self._wire.execute(
            b"INSERT INTO fold_snapshots (lane, seq, hash, folds, rows) VALUES (%s, %s, %s, %s, %s)"
            b" ON CONFLICT (lane, seq) DO UPDATE"
            b" SET hash = excluded.hash, folds = excluded.folds, rows = excluded.rows",
            (lane, at.seq, at.hash, FOLDS, packed(past)),
        )

    def go_on(self, lane: str, at: Position, past: Past, upto: int, *, keep: bool = True) -> Position:
        """Fold the archived events behind `at`, up to `upto`, into `past`; keeps snapshots on the way."""
        for raw, stated in self.events(lane, at.seq, upto):
            event = decode_event(raw)
            fold(past, Logged(event, raw, stated))
            at = Position(event.seq, stated)
            if keep and at.seq % EVERY == 0:
                self.keep(lane, at, past)
        return at

    def close(self) -> None:
        """Close the connection; it is opened again when it is needed."""
        if self._open is not None:
            self._open.close()
            self._open = None


class SnapshotMaker:
    """Makes the snapshots of all lanes as the archive grows. `run` is the body of a thread."""

    def __init__(self, postgres: PostgresSection, stopping: threading.Event) -> None:
        self._snapshots = Snapshots(postgres, "fold-snapshots")
        self._stopping = stopping
        self._standing: dict[str, tuple[Position, Past]] = {}
        self._log = structlog.get_logger("projections.fold_snapshots")

    def run(self) -> None:
        """Make what is missing until told to stop; what fails is tried again."""
        backoff = Backoff(self._stopping)
        while not self._stopping.is_set():
            try:
                while self.make():
                    pass
                backoff.reset()
                self._stopping.wait(LOOK_EVERY)
            except (psycopg.Error, msgspec.MsgspecError) as error:
                if backoff.failures == 0:
                    self._log.warning("no fold snapshots", detail=str(error).partition("\n")[0])
                # Another server may have another past.
                self._standing.clear()
                self._snapshots.close()
                backoff.wait()
        self._snapshots.close()

    def make(self) -> bool:
        """Make the next snapshot of each lane that has come so far; whether there was any to be made."""
        made = False
        for lane, archived in self._snapshots.lanes().items():
            at, past = self._standing.get(lane) or self._snapshots.nearest(lane, archived)
            upto = (at.seq // EVERY + 1) * EVERY
            if upto <= archived and not self._stopping.is_set():
                at, made = self._snapshots.go_on(lane, at, past, upto), True
            self._standing[lane] = at, past
        return made
