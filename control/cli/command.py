"""`tocsin command …`: what became of a wish."""

from __future__ import annotations

import click

from control import outcomes
from control.cli import options, session, show
from control.readapi import NotFound


@click.group()
def command() -> None:
    """Ask what became of commands."""


@command.command("show")
@click.argument("id")
@options.reading
def show_command(id: str) -> int:
    """Show one command; the exit code says its outcome, as when it was submitted."""
    with session.readapi() as api:
        try:
            envelope = api.get(f"/api/commands/{id}")
        except NotFound:
            raise NotFound(
                f"the station knows no outcome of a command {id!r}", "unknown_command", fresh=True
            ) from None
    found = envelope["data"]
    if options.wants_json():
        show.as_json({"command": found, "stale": envelope["stale"], "age_seconds": envelope["age_seconds"]})
    else:
        show.facts(found.items())
        show.staleness(envelope)
    return outcomes.EXIT_CODES.get(found["outcome"], outcomes.NO_ANSWER_YET)


@command.command("list")
@click.option(
    "--limit", type=click.IntRange(1, 500), default=20, show_default=True, help="How many, newest first."
)
@click.option("--source", default="", help="Only those for this source.")
@options.reading
def list_commands(limit: int, source: str) -> None:
    """List the latest commands."""
    asked: dict[str, str | int] = {"limit": limit}
    if source:
        asked["source"] = source
    with session.readapi() as api:
        envelope = api.get("/api/commands", **asked)
    if options.wants_json():
        show.as_json({"commands": envelope.pop("data"), **envelope})
        return
    show.table(
        ("COMMAND", "TYPE", "SOURCE", "SEQUENCE", "OUTCOME", "REASON"),
        (
            (one["id"], one["type"], one["source"], one["sequence"], one["outcome"], one["reason"])
            for one in envelope["data"]
        ),
        empty="No commands yet.",
    )
    show.staleness(envelope)
