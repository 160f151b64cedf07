"""`tocsin watch`: a station, live, in a terminal."""

from __future__ import annotations

import time
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.live import Live

from control.cli import acknowledge, options, session, show
from control.cli.screen import ALERTS, Seen, drawn
from control.readapi import Away, NotFound, ReadApi
from streams.messages import now


@click.command()
@click.option("--once", is_flag=True, help="Show it once and end (as where the output is no terminal).")
@click.option(
    "--every",
    type=click.FloatRange(0.2, 60),
    default=1.0,
    show_default=True,
    help="Seconds between two looks.",
)
@options.reading
def watch(once: bool, every: float) -> None:
    """Show sources, levels, lanes and the latest alerts, live; Ctrl-C ends it.

    What is shown comes from the read models. Where they cannot be read, the last that was known stays, with
    its age.
    """
    console = Console(highlight=False)
    with session.readapi() as api:
        seen = look(api)
        if options.wants_json():
            show.as_json({"watch": msgspec.to_builtins(seen)})
            return
        if once or not console.is_terminal:
            console.print(drawn(seen, now(), 10_000))
            return
        try:
            with Live(console=console, screen=True, auto_refresh=False) as live:
                while True:
                    live.update(drawn(seen, now(), console.height), refresh=True)
                    time.sleep(every)
                    seen = again(api, seen)
        except KeyboardInterrupt:
            # The terminal is as it was; to end is what was asked for.
            return


def look(api: ReadApi) -> Seen:
    """What the station's read models say now. Raises Away."""
    dashboard = api.get("/api/audio/health/dashboard")
    return Seen(
        url=api.url,
        at=now(),
        dashboard=dashboard,
        alerts=_optional(api, "/api/audio/alerts", limit=ALERTS),
        episodes=[acknowledge.line(one) for one in _optional(api, acknowledge.EPISODES)],
    )


def again(api: ReadApi, seen: Seen) -> Seen:
    """What they say now; where they cannot be read what was seen before, and why."""
    try:
        return look(api)
    except (Away, NotFound) as error:
        return msgspec.structs.replace(seen, lost=str(error))


def _optional(api: ReadApi, path: str, **params: str | int) -> list[dict[str, Any]]:
    """What is in Postgres alone, and not shown where that is away."""
    try:
        found: list[dict[str, Any]] = api.get(path, **params)["data"]
    except (Away, NotFound):
        return []
    return found
