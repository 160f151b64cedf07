"""The rows of sources as readers see them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, desc, select

from projections.tables import sources


def all_sources(connection: Connection) -> list[Mapping[str, Any]]:
    """Every source once, by id. While a source moves from one lane to another, the newer row counts."""
    newest = (
        select(sources)
        .distinct(sources.c.id)
        .order_by(sources.c.id, desc(sources.c.updated_at), desc(sources.c.lane))
    )
    return [dict(row._mapping) for row in connection.execute(newest)]
