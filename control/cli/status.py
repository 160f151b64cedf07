"""`tocsin status`: one look at the whole station."""

from __future__ import annotations

from typing import Any

import click

from control.cli import options, session, show
from control.cli.source import rows
from control.lanes import owner_of
from streams.connection import Unreachable, connect
from streams.names import STATION_LANE, StationKeys


@click.command()
@options.reading
def status() -> None:
    """Show whether the audio service is alive, and what each source does."""
    with session.readapi() as api:
        health = api.health()
        envelope = api.get("/api/audio/sources")
    sources: list[dict[str, Any]] = envelope["data"]
    if options.wants_json():
        told = {"url": api.url, "health": health, "control": _owner(), "sources": sources}
        show.as_json({"status": {**told, "stale": envelope["stale"], "age_seconds": envelope["age_seconds"]}})
        return
    running = sum(one["state"] == "running" for one in sources)
    show.facts(
        [
            ("service", health.get("status")),
            ("", health.get("message")),
            ("sources", f"{len(sources)}, {running} running"),
            ("control", _control()),
            ("dashboard", api.url),
        ]
    )
    if sources:
        click.echo()
        rows(envelope)
    show.staleness(envelope)


def _control() -> str | None:
    """What the control process does, as far as that can be seen from here."""
    if session.place().directory is None:
        return None
    owner = _owner()
    return f"node {owner} owns the station lane" if owner else "not seen: tocsin doctor says more"


def _owner() -> str | None:
    """The node whose control process owns the station lane; None where none is seen from here."""
    if session.place().directory is None:
        return None
    settings = session.place().settings()
    link = connect(settings.redis, "status")
    try:
        return owner_of(link, StationKeys(settings.station.id).lane(STATION_LANE))
    except Unreachable:
        return None
    finally:
        link.close()
