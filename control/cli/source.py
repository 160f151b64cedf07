"""`tocsin source …`: what is listened to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from control.cli import answers, bulk, inputs, options, session, show
from control.cli import ids as ids_of
from control.cli.group import roles
from control.cli.remote import by_http
from control.deadline import within
from control.readapi import NotFound
from control.rehearsal import NotSent, Rehearsed
from streams.names import node_name, source_id
from streams.vocabulary import SourceAdd, plain

DEVICES = "tocsin.devices"
"""Where in click's `meta` the composition root has put what knows the sound cards."""


@click.group()
def source() -> None:
    """Add, start, stop and look at sources."""


@source.command("list")
@options.reading
def list_sources() -> None:
    """List all sources with their states."""
    with session.readapi() as api:
        envelope = api.get("/api/audio/sources")
        groups = {} if options.wants_json() else roles(api)
    if options.wants_json():
        show.as_json({"sources": envelope.pop("data"), **envelope})
        return
    rows(envelope, groups)
    show.staleness(envelope)


@source.command("show")
@click.argument("id", shell_complete=ids_of.sources)
@options.reading
def show_source(id: str) -> None:
    """Show one source."""
    envelope = _read(id)
    if options.wants_json():
        show.as_json(
            {"source": envelope["data"], "stale": envelope["stale"], "age_seconds": envelope["age_seconds"]}
        )
        return
    show.facts(_shown(envelope["data"]))
    show.staleness(envelope)


@source.command("add")
@click.argument("id")
@inputs.choosing
@click.option("--name", default="", help="What people call it.")
@click.option("--node", help="The node it is wired to (not for streams: any node captures them).")
@click.option("--start", "at_once", is_flag=True, help="Start it at once.")
@options.submitting
def add_source(id: str, name: str, node: str | None, at_once: bool, **given: Any) -> None:
    """Make a source known to the station: one of --file, --stream, --sdp, --pipe and --device."""
    settings = inputs.settings_of(given)
    kind = settings.__struct_config__.tag
    params = plain(SourceAdd(settings=settings, name=name))
    if session.place().url is not None:
        _add_by_http(id, params, node=node, at_once=at_once)
        return
    with session.desk() as desk, within(options.timeout()) as left:
        wish = session.wish("source.add", source_id(id), params, id=options.given().get("command_id"))
        try:
            added = desk.add(wish, kind=str(kind), node=node and node_name(node), timeout=left())
        except NotSent as shown:
            start = desk.sign(session.wish("source.start", id, follows=True), shown.commands[0].command.lane)
            raise NotSent(*shown.commands, *([Rehearsed(command=start.command)] if at_once else [])) from None
        if not at_once or added.outcome != "completed":
            answers.tell("source.add", id, added)
            return
        started = desk.submit(session.wish("source.start", id, follows=True), added.lane, timeout=left())
        answers.tell("source.start", id, started)


@source.command("update")
@click.argument("id", shell_complete=ids_of.sources)
@inputs.choosing
@click.option("--name", help="What people call it.")
@options.submitting
def update_source(id: str, name: str | None, **given: Any) -> None:
    """Change a source; what is not given stays as it is. A running one is restarted."""
    if not inputs.changes(given) and name is None:
        raise click.UsageError("nothing to change: give --name or what else is to be different")
    params: dict[str, Any] = {} if name is None else {"name": name}
    if inputs.changes(given):
        # With whatever a newer version has added to them: it is not for us to drop that.
        params["settings"] = inputs.changed(_read(id)["data"]["settings"], given)
    submit("source.update", id, params)


@source.command("acknowledge")
@click.argument("id")
@click.argument("episode")
@options.submitting
def acknowledge(id: str, episode: str) -> None:
    """Say that you have seen a condition of a source; the log keeps that it was you.

    EPISODE is what `tocsin event list --source ID` shows of its `condition.opened`.
    """
    submit("condition.acknowledge", id, {"episode": episode})


@source.command("inject")
@click.argument("id")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@options.submitting
def inject(id: str, file: Path) -> None:
    """Play a recording through what a source's audio goes through, as a test.

    All that is heard of it, and its recording, is marked as a test everywhere. FILE lies on the ingest node.
    """
    submit("source.inject", id, {"path": str(file.expanduser().absolute())})


def _plain_verb(verb: str, help: str) -> None:
    @source.command(verb, help=help)
    @click.argument("id", shell_complete=ids_of.sources)
    @options.submitting
    def command(id: str) -> None:
        submit(f"source.{verb}", id, {})


def _bulk_verb(verb: str, help: str) -> None:
    @source.command(
        verb, help=f"{help}\n\nIDS may be patterns ('west-*'). Each source has a command of its own."
    )
    @click.argument("ids", nargs=-1, shell_complete=ids_of.sources)
    @click.option("--all", "everything", is_flag=True, help="Every source.")
    @click.option("--group", help="The sources of this group.")
    @options.submitting
    def command(ids: tuple[str, ...], everything: bool, group: str | None) -> int:
        if bulk.is_bulk(ids, everything=everything, group=group):
            chosen = bulk.chosen(ids, everything=everything, group=group)
            return bulk.submit_to_each(f"source.{verb}", chosen, named=ids)
        submit(f"source.{verb}", ids[0], {})
        return 0


_plain_verb("remove", "Stop a source and forget it.")
_bulk_verb("start", "Start sources; done once their audio has been read.")
_bulk_verb("stop", "Stop sources.")
_bulk_verb("restart", "Stop and start sources.")


@source.group("device")
def device() -> None:
    """Sound cards."""


@device.command("list")
@options.reading
def list_devices() -> None:
    """List the sound cards of this machine that can be listened to."""
    found = click.get_current_context().meta[DEVICES]()
    if options.wants_json():
        show.as_json({"devices": found})
        return
    columns = ("DEVICE", "BY", "CHANNELS", "RATE", "DEFAULT")
    show.table(
        columns,
        (
            (one["name"], one["api"], one["channels"], f"{one['rate']} Hz", "*" if one["default"] else "")
            for one in found
        ),
        empty="This machine has no sound card that can be listened to.",
    )


def submit(type: str, id: str, params: dict[str, Any]) -> None:
    """Submit a command of a source and tell what became of it."""
    wish = session.wish(type, source_id(id), params, id=options.given().get("command_id"))
    if session.place().url is not None:
        answers.tell(type, id, by_http()(wish))
        return
    with session.desk() as desk:
        answers.tell(type, id, desk.address(wish, timeout=options.timeout()))


def _add_by_http(id: str, params: dict[str, Any], *, node: str | None, at_once: bool) -> None:
    ask = by_http()
    with within(options.timeout()) as left:
        wish = session.wish("source.add", source_id(id), params, id=options.given().get("command_id"))
        added = ask(wish, timeout=left(), id=id, node=node and node_name(node))
        if not at_once or added.outcome != "completed":
            answers.tell("source.add", id, added)
            return
        answers.tell("source.start", id, ask(session.wish("source.start", id, follows=True), timeout=left()))


def _read(id: str) -> dict[str, Any]:
    with session.readapi() as api:
        try:
            return api.get(f"/api/audio/sources/{source_id(id)}")
        except NotFound:
            raise NotFound(f"the station knows no source {id!r}", "unknown_source", fresh=True) from None


def _shown(one: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """A source's facts for people: its level and its meters, a line each."""
    for name, value in one.items():
        if name != "level" or value is None:
            yield name, value
            continue
        meters = value.get("meters") or {}
        for key, found in {
            **{k: v for k, v in value.items() if k not in ("meters", "spectrum")},
            **meters,
        }.items():
            silent = found is None and key.endswith(("dbfs", "dbtp", "lufs"))
            yield key, "−∞" if silent else found


def rows(envelope: dict[str, Any], groups: Mapping[str, str] | None = None) -> None:
    """Print the sources of a read as a table; `groups` says what each is to its groups."""
    columns: tuple[str, ...] = ("SOURCE", "STATE", "WANTED", "RMS dBFS", "PEAK dBFS", "NAME", "REASON")
    found: list[tuple[Any, ...]] = [_row(one) for one in envelope["data"]]
    if groups:
        columns = (*columns, "GROUP")
        found = [(*row, groups.get(row[0], "")) for row in found]
    show.table(
        columns,
        found,
        empty="No sources yet. Add one: tocsin source add ID --file RECORDING.wav --start",
    )


def _row(one: dict[str, Any]) -> tuple[Any, ...]:
    level = one.get("level") if one["state"] == "running" else None
    rms, peak = (show.decibels(level["rms_dbfs"]), show.decibels(level["peak_dbfs"])) if level else ("", "")
    return one["id"], one["state"], one["desired"], rms, peak, one["name"], one["reason"]
