"""The sources as Postgres has them, for readers."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, desc, select

from projections.rows import columns, structs
from projections.tables import sources
from projections.views import SourceView


def all_sources(connection: Connection) -> list[SourceView]:
    """Every source once, by id. While a source moves from one lane to another, the newer row counts."""
    newest: Any = (
        select(*columns(sources, SourceView))
        .distinct(sources.c.id)
        .order_by(sources.c.id, desc(sources.c.updated_at), desc(sources.c.lane))
    )
    return structs(sources, SourceView, list(connection.execute(newest)))
