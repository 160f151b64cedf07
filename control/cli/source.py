"""`tocsin source …`: what is listened to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from control.cli import answers, options, session, show
from control.cli.remote import command_by_http
from control.readapi import NotFound
from streams.names import source_id
from streams.vocabulary import FileSettings, SourceAdd, SourceUpdate, plain


@click.group()
def source() -> None:
    """Add, start, stop and look at sources."""


@source.command("list")
@options.reading
def list_sources() -> None:
    """List all sources with their states."""
    with session.readapi() as api:
        envelope = api.get("/api/audio/sources")
    if options.wants_json():
        show.as_json({"sources": envelope.pop("data"), **envelope})
        return
    rows(envelope)
    show.staleness(envelope)


@source.command("show")
@click.argument("id")
@options.reading
def show_source(id: str) -> None:
    """Show one source."""
    envelope = _read(id)
    if options.wants_json():
        show.as_json(
            {"source": envelope["data"], "stale": envelope["stale"], "age_seconds": envelope["age_seconds"]}
        )
        return
    show.facts((name, value) for name, value in envelope["data"].items())
    show.staleness(envelope)


@source.command("add")
@click.argument("id")
@click.option(
    "--file", "path", required=True, type=click.Path(dir_okay=False, path_type=Path), help="A recording."
)
@click.option("--loop", is_flag=True, help="Start again at its end.")
@click.option(
    "--pace",
    type=click.Choice(["realtime", "fast"]),
    default="realtime",
    show_default=True,
    help="How fast to play.",
)
@click.option("--name", default="", help="What people call it.")
@click.option("--start", "at_once", is_flag=True, help="Start it at once.")
@options.submitting
def add_source(id: str, path: Path, loop: bool, pace: Any, name: str, at_once: bool) -> None:
    """Make a source known to the station."""
    settings = FileSettings(path=str(path.expanduser().absolute()), loop=loop, pace=pace)
    params = plain(SourceAdd(settings=settings, name=name))
    with session.desk() as desk:
        wish = session.wish("source.add", source_id(id), params, id=options.given().get("command_id"))
        added = desk.add(wish, kind="file", timeout=options.timeout())
        if not at_once or added.outcome != "completed":
            answers.tell("source.add", id, added)
            return
        started = desk.submit(session.wish("source.start", id), added.lane, timeout=options.timeout())
        answers.tell("source.start", id, started)


@source.command("update")
@click.argument("id")
@click.option("--file", "path", type=click.Path(dir_okay=False, path_type=Path), help="Another recording.")
@click.option("--loop/--no-loop", default=None, help="Whether to start again at its end.")
@click.option("--pace", type=click.Choice(["realtime", "fast"]), help="How fast to play.")
@click.option("--name", help="What people call it.")
@options.submitting
def update_source(id: str, path: Path | None, loop: bool | None, pace: str | None, name: str | None) -> None:
    """Change a source; what is not given stays as it is. A running one is restarted."""
    changes = {"path": str(path.expanduser().absolute()) if path else None, "loop": loop, "pace": pace}
    changes = {key: value for key, value in changes.items() if value is not None}
    if not changes and name is None:
        raise click.UsageError("nothing to change: give --file, --loop, --no-loop, --pace or --name")
    settings = None
    if changes:
        before = msgspec.convert(_read(id)["data"]["settings"], FileSettings)
        settings = msgspec.structs.replace(before, **changes)
    params = {
        key: value
        for key, value in plain(SourceUpdate(settings=settings, name=name)).items()
        if value is not None
    }
    _submit("source.update", id, params)


def _plain_verb(verb: str, help: str) -> None:
    @source.command(verb, help=help)
    @click.argument("id")
    @options.submitting
    def command(id: str) -> None:
        _submit(f"source.{verb}", id, {})


_plain_verb("remove", "Stop a source and forget it.")
_plain_verb("start", "Start a source; done once its audio has been read.")
_plain_verb("stop", "Stop a source.")
_plain_verb("restart", "Stop and start a source.")


def _submit(type: str, id: str, params: dict[str, Any]) -> None:
    if session.place().url is not None:
        answers.tell(type, id, command_by_http(type, source_id(id)))
        return
    with session.desk() as desk:
        lane = desk.lane_of(source_id(id), timeout=options.timeout())
        wish = session.wish(type, id, params, id=options.given().get("command_id"))
        answers.tell(type, id, desk.submit(wish, lane, timeout=options.timeout()))


def _read(id: str) -> dict[str, Any]:
    with session.readapi() as api:
        try:
            return api.get(f"/api/audio/sources/{source_id(id)}")
        except NotFound:
            raise NotFound(f"the station knows no source {id!r}", "unknown_source", fresh=True) from None


def rows(envelope: dict[str, Any]) -> None:
    """Print the sources of a read as a table."""
    show.table(
        ("SOURCE", "STATE", "WANTED", "RMS dBFS", "PEAK dBFS", "NAME", "REASON"),
        (_row(one) for one in envelope["data"]),
        empty="No sources yet. Add one: tocsin source add ID --file RECORDING.wav --start",
    )


def _row(one: dict[str, Any]) -> tuple[Any, ...]:
    level = one.get("level") if one["state"] == "running" else None
    rms, peak = (show.decibels(level["rms_dbfs"]), show.decibels(level["peak_dbfs"])) if level else ("", "")
    return one["id"], one["state"], one["desired"], rms, peak, one["name"], one["reason"]
