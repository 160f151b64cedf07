"""`tocsin status`: one look at the whole station."""

from __future__ import annotations

from typing import Any

import click

from control.cli import options, session, show
from control.cli.source import rows


@click.command()
@options.reading
def status() -> None:
    """Show whether the audio service is alive, and what each source does."""
    with session.readapi() as api:
        health = api.health()
        envelope = api.get("/api/audio/sources")
    sources: list[dict[str, Any]] = envelope["data"]
    if options.wants_json():
        told = {"url": api.url, "health": health, "sources": sources}
        show.as_json({"status": {**told, "stale": envelope["stale"], "age_seconds": envelope["age_seconds"]}})
        return
    running = sum(one["state"] == "running" for one in sources)
    show.facts(
        [
            ("service", health.get("status")),
            ("", health.get("message")),
            ("sources", f"{len(sources)}, {running} running"),
            ("dashboard", api.url),
        ]
    )
    if sources:
        click.echo()
        rows(envelope)
    show.staleness(envelope)
