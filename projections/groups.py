"""Reading groups of sources: which member of each counts, since when, and why."""

from __future__ import annotations

from datetime import datetime

from litestar import get
from litestar.handlers import HTTPRouteHandler
from sqlalchemy import Connection, select

from projections.after import WAIT, After
from projections.folds.groups import NAME, GroupRow
from projections.group_tables import groups as table
from projections.parameters import AfterEvent, Wait, Waiters
from projections.problems import DOCUMENTED_AFTER
from projections.reads import Reads, folded_at
from projections.rows import columns, structs
from projections.views import Envelope, envelope
from streams.messages import now


def list_groups(reads: Reads, after: After | None = None) -> Envelope[list[GroupRow]]:
    """All groups, by id. Raises Away, NotFolded."""

    def ask(connection: Connection) -> tuple[list[GroupRow], datetime | None]:
        rows = connection.execute(select(*columns(table, GroupRow)).order_by(table.c.id)).all()
        return list(structs(table, GroupRow, list(rows))), folded_at(connection, NAME)

    found, as_of = reads.database(ask, after)
    return envelope(found, "database", as_of=as_of, at=now(), redis_away=reads.redis_away())


def group_routes(reads: Reads, waiters: Waiters) -> list[HTTPRouteHandler]:
    """What the read API tells of groups."""

    @get("/api/audio/groups", sync_to_thread=True, responses=DOCUMENTED_AFTER)
    def show_groups(after: AfterEvent = None, wait: Wait = WAIT) -> Envelope[list[GroupRow]]:
        """The groups of sources, each with the member that counts."""
        with waiters.asked(after, wait) as wanted:
            return list_groups(reads, wanted)

    return [show_groups]
