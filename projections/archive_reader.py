"""Reading the archive for the hall: what the owner of a lane asks when it takes the lane over."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from threading import Timer
from typing import Any

import psycopg
from psycopg.errors import UndefinedTable

from streams.healing import ArchiveAway, Entry
from streams.settings import PostgresSection
from streams.tail import Position

CONNECT_WITHIN = 2
"""Seconds (libpq takes no less)."""
ANSWER_WITHIN = 2.0
"""Seconds that one question may take; its answer is at most BATCH events."""
BATCH = 2000


class ArchiveReader:
    """The archive of a station, as `streams.healing.Archive`: a connection per question, none kept open.

    Any number of threads may ask. A database without the table has archived nothing yet.
    """

    def __init__(self, postgres: PostgresSection) -> None:
        self._postgres = postgres

    def head(self, lane: str) -> Position | None:
        """The last event archived of the lane; None where there is none. Raises ArchiveAway."""
        last = "SELECT seq, hash FROM archive WHERE lane = %s ORDER BY seq DESC LIMIT 1"
        rows = self._ask(last, (lane,))
        return Position(*rows[0]) if rows else None

    def after(self, lane: str, seq: int) -> Iterator[Entry]:
        """The events archived with a higher seq, oldest first. Raises ArchiveAway."""
        following = "SELECT seq, raw, hash FROM archive WHERE lane = %s AND seq > %s ORDER BY seq LIMIT %s"
        while rows := self._ask(following, (lane, seq, BATCH)):
            for _, raw, stated in rows:
                yield bytes(raw), stated
            seq = rows[-1][0]

    def hash_at(self, lane: str, seq: int) -> str | None:
        """The hash of the archived event with this seq; None where it is not there. Raises ArchiveAway."""
        rows = self._ask("SELECT hash FROM archive WHERE lane = %s AND seq = %s", (lane, seq))
        return str(rows[0][0]) if rows else None

    def _ask(self, query: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        try:
            with self._connected() as connection, _at_most(ANSWER_WITHIN, connection):
                return connection.execute(query.encode(), values).fetchall()
        except UndefinedTable:
            return []
        except (psycopg.Error, OSError) as error:
            said = str(error).strip().partition("\n")[0]
            raise ArchiveAway(f"the archive cannot be asked: {said}") from error

    def _connected(self) -> psycopg.Connection[tuple[Any, ...]]:
        return psycopg.connect(
            self._postgres.url,
            password=self._postgres.password or None,
            connect_timeout=CONNECT_WITHIN,
            application_name="tocsin-archive-reader",
            autocommit=True,
        )


@contextmanager
def _at_most(seconds: float, connection: psycopg.Connection[Any]) -> Iterator[None]:
    """Break the connection after so long: a server that hangs keeps it open and answers nothing."""
    wire = socket.socket(fileno=os.dup(connection.fileno()))

    def cut() -> None:
        with suppress(OSError):
            wire.shutdown(socket.SHUT_RDWR)

    timer = Timer(seconds, cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        wire.close()
