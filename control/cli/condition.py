"""`tocsin condition …`: what is wrong now, and who sees to it."""

from __future__ import annotations

import click

from control.cli import acknowledge, options, session, show


@click.group()
def condition() -> None:
    """List what is wrong now; say that you see to it."""


@condition.command("list")
@options.reading
def list_conditions() -> None:
    """List the episodes that are open, the newest first."""
    with session.readapi() as api:
        envelope = api.get(acknowledge.EPISODES)
    if options.wants_json():
        show.as_json({"conditions": envelope.pop("data"), **envelope})
        return
    show.table(
        ("EPISODE", "WHAT", "ABOUT", "SINCE (UTC)", "SEEN TO BY"),
        (
            (
                one["id"],
                one["kind"],
                one["subject"],
                one["opened_at"][:19].replace("T", " "),
                one["acknowledged_by"],
            )
            for one in envelope["data"]
        ),
        empty="Nothing is wrong that a rule looks for.",
    )
    show.staleness(envelope)


condition.add_command(acknowledge.acknowledge)
