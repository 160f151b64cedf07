"""Ids that Tab offers; imported with the verbs that take them."""

from __future__ import annotations

import click

from control.cli import session

PATIENCE = 1.0
"""Seconds that somebody who pressed Tab is left waiting at most."""


def sources(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Ids of sources that begin so; none where the station cannot be asked."""
    given = ctx.params.get(param.name or "") or ()
    try:
        with ctx, session.readapi(PATIENCE) as api:
            found = [one["id"] for one in api.get("/api/audio/sources")["data"]]
    except Exception:
        # A prompt is no place for an error: who runs the verb is told.
        return []
    return [id for id in found if id.startswith(incomplete) and id not in given]
