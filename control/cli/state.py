"""`tocsin audit state|diff`: how things were, from the log."""

from __future__ import annotations

from typing import Any

import click

from control import outcomes
from control.cli import log, options, session, show
from control.cli.log import Log
from control.cli.moment import Point, PointInLog
from control.cli.trouble import Trouble
from control.difference import difference
from streams.connection import Unreachable
from streams.messages import now

State = dict[str, Any]
SHOWN = 20
"""Commands in the table; --json has them all."""


@click.command("state")
@click.option("--at", "point", type=PointInLog(), metavar="TIME|LANE:SEQ", help="When (else now).")
@options.reading
def show_state(point: Point | None) -> None:
    """Show the sources, what they should do and did, and the latest commands as they were: after all that
    was logged by a time (`2026-05-01T03:00:00Z`, or `03:00` for the latest such), or after one event.
    """
    with log.opened() as found:
        state = _state(found, point or Point(text="now", at=now()))
    if options.wants_json():
        show.as_json({"state": state})
        return
    told = show.folded(f"As of {_time(state['at'])} UTC, after {_places(state)}.")
    click.echo(f"{told}\n")
    _show_sources(state["sources"])
    click.echo()
    _show_commands(state["commands"][:SHOWN])
    if state["totals"]:
        counts = ", ".join(f"{one['type']} {one['outcome']} {one['count']}" for one in state["totals"])
        click.echo(f"\n{show.folded(f'Commands so far: {counts}.')}")


@click.command("diff")
@click.argument("before", type=PointInLog(), metavar="A")
@click.argument("after", type=PointInLog(), metavar="B")
@options.reading
def show_difference(before: Point, after: Point) -> None:
    """Show what changed from A to B, each a TIME or LANE:SEQ as for `state`: sources that came, went or
    changed, and the commands that had their result between.
    """
    with log.opened() as found:
        first, second = _state(found, before), _state(found, after)
    differs = difference(first, second)
    if options.wants_json():
        show.as_json({"diff": {"from": first["at"], "to": second["at"], **differs}})
        return
    click.echo(f"From {_time(first['at'])} to {_time(second['at'])} UTC.\n")
    sources = differs["sources"]
    rows = [
        ("+", one["id"], "added", f"{one['state']} (wanted {one['desired']})") for one in sources["added"]
    ]
    rows += [("-", one["id"], "removed", f"was {one['state']}") for one in sources["removed"]]
    for one in sources["changed"]:
        rows += [("~", one["id"], field, f"{was} → {is_}") for field, (was, is_) in one["fields"].items()]
    show.table(("", "SOURCE", "WHAT", "HOW"), rows, empty="No source changed.")
    click.echo()
    _show_commands(differs["commands"][:SHOWN], empty="No command had its result between.")
    if differs["totals"]:
        counts = ", ".join(f"{one['type']} {one['outcome']} {one['count']:+}" for one in differs["totals"])
        click.echo(f"\nCommands: {counts}.")


def _state(found: Log, point: Point) -> State:
    past = session.past(found.settings, found.entries)
    if past is None:
        raise Trouble(
            "the past cannot be looked at",
            why="it is folded from the archive, and this station has none (postgres.url)",
            code=outcomes.EXIT_CODES["rejected"],
        )
    try:
        lanes = found.lanes()
    except Unreachable as error:
        click.echo(f"Note: {error.detail}; only what is archived is looked at.", err=True)
        lanes = []
    with past as opened:
        state = opened.state(lanes, at=point.at, lane=point.lane, seq=point.seq)
    if state is None:
        raise Trouble(
            f"there is no event {point.text}",
            next=f"tocsin audit verify --lane {point.lane} shows how far the lane goes",
            code=outcomes.EXIT_CODES["rejected"],
            reason="unknown_event",
        )
    return state


def _show_sources(sources: list[dict[str, Any]]) -> None:
    show.table(
        ("SOURCE", "STATE", "WANTED", "SINCE (UTC)", "NODE", "REASON"),
        (
            (one["id"], one["state"], one["desired"], _time(one["since"]), one["node"], one["reason"])
            for one in sources
        ),
        empty="No sources.",
    )


def _show_commands(commands: list[dict[str, Any]], empty: str = "No commands yet.") -> None:
    show.table(
        ("RESULT (UTC)", "COMMAND", "TYPE", "SOURCE", "OUTCOME"),
        (
            (_time(one["finished_at"]), one["id"], one["type"], one["source"], one["outcome"])
            for one in commands
        ),
        empty=empty,
        whole="COMMAND",
    )


def _time(value: Any) -> str:
    return str(value)[:19].replace("T", " ")


def _places(state: State) -> str:
    places = [f"{lane}:{at['seq']}" for lane, at in state["lanes"].items()]
    return ", ".join(places) if places else "no event"
