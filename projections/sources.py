"""The sources as Postgres has them, for readers."""

from __future__ import annotations

from sqlalchemy import Connection, select

from projections.rows import columns, structs
from projections.tables import sources
from projections.views import SourceView


def all_sources(connection: Connection) -> list[SourceView]:
    """Every source once, by id. While a source moves from one lane to another, the newer row counts."""
    wanted = select(*columns(sources, SourceView)).order_by(
        sources.c.id, sources.c.updated_at, sources.c.lane
    )
    views = structs(sources, SourceView, list(connection.execute(wanted)))
    return list({view.id: view for view in views}.values())
