"""`GET /api/audio/health/episodes`: what goes on now of which rules tell people, and who was told."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
from litestar import get
from litestar.handlers import HTTPRouteHandler
from sqlalchemy import Connection, desc, select

from projections.notify.keeping import LOOKED
from projections.problems import DOCUMENTED
from projections.reads import Reads
from projections.rows import columns, structs
from projections.tables import episodes, marks, notifications
from projections.views import Envelope, envelope
from streams.messages import now

MOST = 500


class EpisodeView(msgspec.Struct, frozen=True, kw_only=True):
    """An open episode. Times are UTC; `expires_at` is when it ends by itself, where it does.

    `muted` says why it is not told; `notifications` has the state of the latest for each target.
    """

    id: int
    rule: str
    kind: str
    subject: str
    source: str
    lane: str | None
    seq: int | None
    detail: str
    opened_at: datetime
    expires_at: datetime | None
    muted: str | None
    repeats: int
    notified_at: datetime | None
    acknowledged_at: datetime | None
    acknowledged_by: str | None
    notifications: dict[str, str] = {}


def episode_routes(reads: Reads) -> list[HTTPRouteHandler]:
    """The route, over what Postgres says."""

    @get("/api/audio/health/episodes", sync_to_thread=True, responses=DOCUMENTED)
    def list_episodes() -> Envelope[list[EpisodeView]]:
        """What goes on now by the rules of `[notify]`, the latest first; to be acknowledged by its id."""
        return open_episodes(reads)

    return [list_episodes]


def open_episodes(reads: Reads) -> Envelope[list[EpisodeView]]:
    """The open episodes as of the notifier's last look; stale where nobody looks. Raises Away."""
    found, as_of = reads.database(_asked)
    return envelope(found, "database", as_of=as_of, at=now())


def _asked(connection: Connection) -> tuple[list[EpisodeView], datetime | None]:
    wanted = select(*columns(episodes, EpisodeView)).where(episodes.c.closed_at.is_(None))
    rows = list(connection.execute(wanted.order_by(desc(episodes.c.id)).limit(MOST)))
    views = structs(episodes, EpisodeView, rows)
    latest = (
        select(notifications.c.episode, notifications.c.target, notifications.c.state)
        .where(notifications.c.episode.in_([view.id for view in views]))
        .order_by(notifications.c.number)
    )
    states: dict[int, dict[str, str]] = {}
    for row in connection.execute(latest):
        states.setdefault(row.episode, {})[row.target] = row.state
    as_of: Any = connection.execute(select(marks.c.at).where(marks.c.name == LOOKED)).scalar()
    return [msgspec.structs.replace(view, notifications=states.get(view.id, {})) for view in views], as_of
