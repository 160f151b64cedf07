"""`GET /api/keys`: who may sign commands, by what the log says."""

from __future__ import annotations

from datetime import datetime

from litestar import get
from litestar.handlers import HTTPRouteHandler
from sqlalchemy import Connection, select

from projections.after import WAIT, After
from projections.folds.keys import NAME, KeyRow
from projections.key_tables import keys as table
from projections.parameters import AfterEvent, Wait, Waiters
from projections.problems import DOCUMENTED_AFTER
from projections.reads import Reads, folded_at
from projections.rows import columns, structs
from projections.views import Envelope, envelope
from streams.messages import now

MOST = 10_000


def key_routes(reads: Reads, waiters: Waiters) -> list[HTTPRouteHandler]:
    """The route, over what Postgres says."""

    @get("/api/keys", sync_to_thread=True, responses=DOCUMENTED_AFTER)
    def show_keys(after: AfterEvent = None, wait: Wait = WAIT) -> Envelope[list[KeyRow]]:
        """All keys that were made by commands, by id, and those of files that were revoked."""
        with waiters.asked(after, wait) as wanted:
            return list_keys(reads, wanted)

    return [show_keys]


def list_keys(reads: Reads, after: After | None = None) -> Envelope[list[KeyRow]]:
    """All keys that the log knows. Raises Away, NotFolded."""
    wanted = select(*columns(table, KeyRow)).order_by(table.c.id).limit(MOST)

    def ask(connection: Connection) -> tuple[list[KeyRow], datetime | None]:
        return structs(table, KeyRow, list(connection.execute(wanted))), folded_at(connection, NAME)

    rows, as_of = reads.database(ask, after)
    return envelope(rows, "database", as_of=as_of, at=now(), redis_away=reads.redis_away())
