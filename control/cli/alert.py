"""`tocsin alert …`: what the station's sources have heard."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from control.cli import options, session, show
from control.cli.acknowledge import acknowledge
from control.readapi import NotFound
from streams.names import source_id


@click.group()
def alert() -> None:
    """Read the alerts that were heard; acknowledge what you were told of."""


alert.add_command(acknowledge)


@alert.command("list")
@click.option(
    "--limit", type=click.IntRange(1, 200), default=20, show_default=True, help="How many, newest first."
)
@click.option("--source", default="", help="Only those that this source heard.")
@click.option("--event", default="", help="Only of this event, as RWT or TOR.")
@options.reading
def list_alerts(limit: int, source: str, event: str) -> None:
    """List the alerts heard last, each once however often it was heard."""
    asked: dict[str, str | int] = {"limit": limit}
    if source:
        asked["source"] = source_id(source)
    if event:
        asked["event"] = _code(event)
    with session.readapi() as api:
        envelope = api.get("/api/audio/alerts", **asked)
    if options.wants_json():
        show.as_json({"alerts": envelope.pop("data"), **envelope})
        return
    show.table(
        ("ALERT", "HEARD (UTC)", "TIMES", "EVENT", "PLACES", "BY", "NOTE"),
        (_row(one) for one in envelope["data"]),
        empty="No alert was heard yet.",
    )
    show.staleness(envelope)


@alert.command("show")
@click.argument("id")
@options.reading
def show_alert(id: str) -> None:
    """Show one alert: what it says, and who heard it when."""
    with session.readapi() as api:
        try:
            envelope = api.get(f"/api/audio/alerts/{id}")
        except NotFound:
            raise NotFound(f"the station knows no alert {id!r}", "unknown_alert", fresh=True) from None
    found = envelope["data"]
    if options.wants_json():
        show.as_json({"alert": found, "stale": envelope["stale"], "age_seconds": envelope["age_seconds"]})
        return
    show.facts(_facts(found))
    show.table(
        ("HEARD BY", "TIMES", "FIRST (UTC)", "LAST (UTC)", "ENDED (UTC)", "CONFIDENCE"),
        (_heard(one) for one in found["sources"]),
    )
    show.staleness(envelope)


def _code(event: str) -> str:
    if len(event) != 3 or not (event.isascii() and event.isalpha()):
        raise click.UsageError(f"{event!r} is no event code: it has three letters, as RWT or TOR")
    return event.upper()


def _row(one: dict[str, Any]) -> tuple[Any, ...]:
    places = [place["name"] or place["code"] for place in one["locations"]]
    told = f"{'; '.join(places[:2])}{f' and {len(places) - 2} more' if len(places) > 2 else ''}"
    sources = ", ".join(by["source"] for by in one["sources"])
    return one["id"], _time(one["last_at"]), one["heard"], _event(one), told, sources, _note(one)


def _event(one: dict[str, Any]) -> str:
    if one["event"] is None:
        return "unreadable"
    return f"{one['event']} {one['event_name'] or '(unknown)'}"


def _note(one: dict[str, Any]) -> str:
    notes = ["a test"] if one["injected"] else []
    notes += [] if one["confirmed"] else ["unconfirmed"]
    if one["problems"]:
        notes.append("breaks the format")
    return ", ".join(notes)


def _facts(one: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    originator, name = one["originator"], one["originator_name"]
    yield "id", one["id"]
    yield "event", _event(one)
    yield "from", f"{originator} {name or '(unknown)'}" if originator else None
    yield "station", one["station"]
    for place in one["locations"]:
        yield "place", f"{place['code']} {place['name'] or '(unknown)'}"
    yield "issued (UTC)", _time(one["issued_at"])
    yield "expires (UTC)", _time(one["expires_at"])
    yield "header", one["header"]
    yield "test", "it was played by tocsin source inject" if one["injected"] else None
    for problem in one["problems"]:
        yield "problem", problem
    yield "confirmed", "yes" if one["confirmed"] else "no: it was not received well enough to be sure"


def _heard(by: dict[str, Any]) -> tuple[Any, ...]:
    times = [_time(by[name]) for name in ("first_at", "last_at", "ended_at")]
    confidence = by["confidence"]
    return by["source"], by["heard"], *times, "" if confidence is None else f"{confidence:.2f}"


def _time(text: str | None) -> str:
    return text[:19].replace("T", " ") if text else ""
