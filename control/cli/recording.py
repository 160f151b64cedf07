"""`tocsin recording …`: the evidence that the station keeps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from control.cli import options, session, show
from control.cli.source import submit
from control.readapi import NotFound
from streams.names import source_id


@click.group()
def recording() -> None:
    """Look at recordings; record a source throughout, or its alerts alone."""


@recording.command("list")
@click.option(
    "--limit", type=click.IntRange(1, 500), default=20, show_default=True, help="How many, newest first."
)
@click.option("--source", default="", help="Only those of this source.")
@options.reading
def list_recordings(limit: int, source: str) -> None:
    """List the latest recordings."""
    asked: dict[str, str | int] = {"limit": limit}
    if source:
        asked["source"] = source_id(source)
    with session.readapi() as api:
        envelope = api.get("/api/audio/recordings", **asked)
    if options.wants_json():
        show.as_json({"recordings": envelope.pop("data"), **envelope})
        return
    show.table(
        ("RECORDING", "BEGUN (UTC)", "SOURCE", "WHAT"),
        (_row(one) for one in envelope["data"]),
        empty="Nothing was recorded yet.",
        whole="RECORDING",
    )
    show.staleness(envelope)


@recording.command("show")
@click.argument("id")
@options.reading
def show_recording(id: str) -> None:
    """Show one recording: what it holds, its hash, and which node has it."""
    with session.readapi() as api:
        try:
            envelope = api.get(f"/api/audio/recordings/{id}")
        except NotFound:
            raise NotFound(
                f"the station knows no recording {id!r}", "unknown_recording", fresh=True
            ) from None
    found = envelope["data"]
    if options.wants_json():
        show.as_json({"recording": found, "stale": envelope["stale"], "age_seconds": envelope["age_seconds"]})
        return
    show.facts(_facts(found))
    show.staleness(envelope)


@recording.command("start")
@click.argument("id", metavar="SOURCE")
@options.submitting
def start(id: str) -> None:
    """Record all of a source from now on, in segments; over restarts too, until it is stopped."""
    submit("recording.start", id, {})


@recording.command("stop")
@click.argument("id", metavar="SOURCE")
@options.submitting
def stop(id: str) -> None:
    """Record no more of a source than its alerts."""
    submit("recording.stop", id, {})


def _row(one: dict[str, Any]) -> tuple[Any, ...]:
    return one["id"], one["begun_at"][5:19].replace("T", " "), one["source"], _what(one)


def _what(one: dict[str, Any]) -> str:
    length = [] if one["seconds"] is None else [f"{one['seconds']:.1f} s"]
    state = [] if one["state"] == "finished" else [one["state"]]
    notes = ["a test"] if one["injected"] else []
    notes += ["salvaged"] if one["salvaged"] else []
    notes += [f"{one['lost']:.1f} s missing"] if one["lost"] else []
    return ", ".join([one["kind"], *length, *state, *notes, *([one["reason"]] if one["reason"] else [])])


def _facts(one: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in one.items():
        yield name, ", ".join(value) if isinstance(value, list) else value
    if one["state"] == "finished":
        yield "listen", f"GET /api/audio/recordings/{one['id']}/audio"
