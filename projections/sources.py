"""The sources as Postgres has them, for readers."""

from __future__ import annotations

import msgspec
from sqlalchemy import Connection, select

from projections.rows import columns, structs
from projections.tables import decoders, sources
from projections.views import DecoderView, SourceView


def all_sources(connection: Connection) -> list[SourceView]:
    """Every source once, by id. While a source moves from one lane to another, the newer row counts."""
    mine = columns(sources, SourceView)
    joined = sources.outerjoin(
        decoders, (decoders.c.id == sources.c.id) & (decoders.c.lane == sources.c.lane)
    )
    wanted = select(*mine, decoders.c.id.is_not(None), *columns(decoders, DecoderView)).select_from(joined)
    wanted = wanted.order_by(sources.c.id, sources.c.updated_at, sources.c.lane)
    rows = connection.execute(wanted).all()
    found = structs(sources, SourceView, [row[: len(mine)] for row in rows])
    heard = structs(decoders, DecoderView, [row[len(mine) + 1 :] for row in rows])
    return list(
        {
            view.id: msgspec.structs.replace(view, decoder=decoder) if row[len(mine)] else view
            for view, decoder, row in zip(found, heard, rows, strict=True)
        }.values()
    )
