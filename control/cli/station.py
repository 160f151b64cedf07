"""`tocsin up` and `tocsin down`: the local station."""

from __future__ import annotations

import os

import click

from control.cli import options

DEMO = "tocsin.demo"
"""Where in the click context's `meta` the composition root puts what --demo calls, with the settings."""


@click.command()
@click.option("--demo", is_flag=True, help="Add and start a source that plays a generated weekly test.")
@options.reading
@click.pass_context
def up(ctx: click.Context, demo: bool) -> None:
    """Start a local station and keep it running in the foreground, until Ctrl-C or `tocsin down`.

    It has its own Redis servers with their Sentinels, its own PostgreSQL, and the three processes
    of Tocsin. The folder is made where it is missing; the data in it stay.
    """
    from control.cli.trouble import Trouble
    from control.place import find
    from control.station.instance import AlreadyRunning
    from control.station.up import UpFailed
    from control.station.up import up as run

    found = ctx.meta.get(DEMO) if demo else None
    if demo and found is None:
        raise Trouble("no demo comes with this installation", next="tocsin up, then tocsin source add")
    try:
        run(find(options.given().get("station"), os.environ).folder(), demo=found)
    except AlreadyRunning as error:
        raise Trouble(str(error), next="tocsin status shows it; tocsin down stops it") from None
    except UpFailed as error:
        raise Trouble("the station was not started", why=str(error)) from None


@click.command()
@options.reading
def down() -> None:
    """Stop the local station and wait until it has ended; its data stay."""
    from control.cli import show
    from control.cli.trouble import Trouble
    from control.place import find
    from control.station.up import StillRunning
    from control.station.up import down as stop

    folder = find(options.given().get("station"), os.environ).folder()
    try:
        stopped = stop(folder)
    except StillRunning as error:
        raise Trouble(str(error), next=f"its logs are in {folder / 'logs'}") from None
    if options.wants_json():
        show.as_json({"station": {"folder": str(folder), "stopped": stopped}})
    else:
        click.echo("stopped" if stopped else f"no station runs in {folder}")
