"""`tocsin status`: one look at the whole station."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from control.cli import acknowledge, options, session, show
from control.cli.source import rows
from control.lanes import owner_of
from control.readapi import Away, NotFound, ReadApi
from streams.breaker import Standing, described
from streams.connection import Unreachable, connect
from streams.names import STATION_LANE, StationKeys


@click.command()
@options.reading
def status() -> None:
    """Show whether the audio service is alive, and what each source does."""
    with session.readapi() as api:
        health = api.health()
        envelope = api.get("/api/audio/sources")
        breakers = api.get("/api/audio/health/breakers")
        open = _episodes(api)
    sources: list[dict[str, Any]] = envelope["data"]
    if options.wants_json():
        told: dict[str, Any] = {"url": api.url, "health": health, "breakers": breakers, "control": _owner()}
        told |= {"episodes": open, "sources": sources}
        show.as_json({"status": {**told, "stale": envelope["stale"], "age_seconds": envelope["age_seconds"]}})
        return
    running = sum(one["state"] == "running" for one in sources)
    show.facts(
        [
            ("service", health.get("status")),
            ("", health.get("message")),
            *(("", told) for told in _tripped(breakers)),
            ("sources", f"{len(sources)}, {running} running"),
            ("control", _control()),
            *(
                ("episodes" if not place else "", acknowledge.line(one))
                for place, one in enumerate(open or [])
            ),
            ("dashboard", api.url),
        ]
    )
    if sources:
        click.echo()
        rows(envelope)
    show.staleness(envelope)


def _episodes(api: ReadApi) -> list[dict[str, Any]] | None:
    """The open episodes; None where they cannot be read: they are in Postgres alone."""
    try:
        found: list[dict[str, Any]] = api.get(acknowledge.EPISODES)["data"]
    except (Away, NotFound):
        return None
    return found


def _tripped(breakers: dict[str, Any]) -> list[str]:
    """A line for each breaker that is not closed, here in the web process and in the nodes."""
    places = {"web process": breakers["web"]}
    places |= {f"node {name}": standings for name, standings in (breakers["nodes"] or {}).items()}
    return [
        f"{dependency} breaker of the {place} {described(msgspec.convert(standing, Standing))}"
        for place, standings in places.items()
        for dependency, standing in (standings or {}).items()
        if standing["state"] != "closed"
    ]


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
    settings = session.place().settings().as_role("reader")
    link = connect(settings.redis, "status")
    try:
        return owner_of(link, StationKeys(settings.station.id).lane(STATION_LANE))
    except Unreachable:
        return None
    finally:
        link.close()
