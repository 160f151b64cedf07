"""`tocsin dashboard`: the page's address, with the token that lets it start and stop sources."""

from __future__ import annotations

from pathlib import Path

import click

from control.cli import options, session, show
from control.readapi import Away


@click.command()
@options.reading
def dashboard() -> None:
    """Print the dashboard's link. Who has it may start and stop sources: keep it to yourself."""
    place = session.place()
    address = place.web()
    if address is None:
        raise Away("the station is not up: it has noted no address")
    token = ""
    if place.directory is not None and (name := place.settings().web.token_file):
        token = Path(name).read_text("utf-8").strip()
    # Behind the #, which browsers keep to themselves: it stands in no request and no server's log.
    link = f"{address}/#token={token}" if token else f"{address}/"
    if options.wants_json():
        show.as_json({"dashboard": {"url": address, "link": link}})
    else:
        click.echo(link)
