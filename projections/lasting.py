"""Commits that a promoted standby has too, and telling when another server was promoted.

Whoever is told that an event is archived lets go of it. So that is only told of a commit which every
server that may be promoted has on disk.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from psycopg.errors import Diagnostic
from sqlalchemy import Connection, Engine, text

from projections.database import wire_of

WITHIN = 10.0
"""Seconds that a commit which is here is waited for at the standbys."""
LOOK_AGAIN = 0.005
"""Seconds between two looks at how far the standbys are, at first; doubling."""


class NotLasting(Exception):
    """Raised when a commit is here, and not known to be on every standby: nobody may be told of it."""


@contextmanager
def lasting(engine: Engine, standbys: int = 0) -> Iterator[Connection]:
    """A transaction that is on disk here and on the standbys once the block has ended.

    Those are the server's synchronous ones, and at least `standbys` in number. Raises NotLasting
    where they did not answer in time: it may be committed then. The next lasting commit vouches for
    it, because a standby's log has no gaps.
    """
    with engine.connect() as connection:
        with _warnings(connection) as warned:
            with connection.begin():
                yield connection
                make_lasting(connection)
                warned.clear()
            if warned:
                raise NotLasting(f"committed here alone: {warned[0]}")
        if standbys:
            _await_standbys(connection, standbys)


def make_lasting(connection: Connection) -> None:
    """Let the transaction's commit return only once it is on disk, here and on every synchronous standby.

    Where these do not answer, that wait is cancelled as any statement is that takes too long. The
    transaction is committed then and its locks are free; Postgres warns that it is here alone.
    """
    connection.execute(text("SET LOCAL synchronous_commit = on"))


@contextmanager
def _warnings(connection: Connection) -> Iterator[list[str]]:
    """What the server warns of meanwhile. A commit has nothing else to warn of, in any language."""
    told: list[str] = []

    def hear(notice: Diagnostic) -> None:
        told.append(f"{notice.message_primary} ({notice.message_detail})")

    wire = wire_of(connection)
    wire.add_notice_handler(hear)
    try:
        yield told
    finally:
        wire.remove_notice_handler(hear)


def _await_standbys(connection: Connection, wanted: int) -> None:
    """Return once so many standbys have on disk what is committed. Raises NotLasting.

    That holds whatever the server calls synchronous: somebody may have changed it meanwhile.
    """
    flushed = connection.execute(text("SELECT pg_current_wal_flush_lsn()::text")).scalar_one()
    deadline, pause = time.monotonic() + WITHIN, LOOK_AGAIN
    while True:
        found = connection.execute(_STANDBYS, {"flushed": flushed}).one()
        # A new transaction for each look: within one, what is seen of other sessions stays the same.
        connection.rollback()
        if found.have >= wanted:
            return
        if not found.may_look:
            raise NotLasting(
                "how far the standbys are (postgres.standbys) is not shown to this user:"
                " GRANT pg_read_all_stats to it"
            )
        if time.monotonic() > deadline:
            raise NotLasting(f"{found.have} of {wanted} standbys (postgres.standbys) have it on disk")
        time.sleep(pause)
        pause = min(pause * 2, 0.25)


_STANDBYS = text(
    "SELECT pg_has_role('pg_read_all_stats', 'usage') AS may_look,"
    " (SELECT count(*) FROM pg_stat_replication AS reader WHERE flush_lsn >= CAST(:flushed AS pg_lsn)"
    # A backup in progress or a logical subscriber reads the log as well, and cannot be promoted.
    " AND application_name NOT IN ('pg_basebackup', 'pg_receivewal') AND NOT EXISTS"
    " (SELECT FROM pg_replication_slots WHERE active_pid = reader.pid AND slot_type = 'logical')) AS have"
)


def history(connection: Connection) -> str:
    """Which history the database is on: another one after a standby was promoted, or a backup restored."""
    return str(
        connection.execute(
            text(
                "SELECT (SELECT system_identifier FROM pg_control_system())"
                # The log file's name begins with the timeline; the control file's is older by a checkpoint.
                " || '-' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8)"
            )
        ).scalar_one()
    )
