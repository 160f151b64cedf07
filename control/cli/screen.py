"""What `tocsin watch` shows: from what was read of a station to a screen. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import msgspec
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from control.cli.show import MARKS, decibels

FLOOR = -60.0
"""dBFS at which the bar is empty; it is full at 0."""
CELLS = 12
ALERTS = 3
AROUND = 14
"""Lines that everything but the sources takes at most."""


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What was read last: the dashboard's envelope, the latest alerts, open episodes, and when that was.

    `lost` says why it could not be read again since, `at` is then when it still could.
    """

    url: str
    at: datetime
    dashboard: dict[str, Any] | None = None
    alerts: list[dict[str, Any]] | None = None
    episodes: list[str] | None = None
    lost: str = ""


def drawn(seen: Seen, now: datetime, height: int) -> RenderableType:
    """The screen for a terminal of so many lines, at `now`."""
    if seen.dashboard is None:
        return Text(f"Nothing was read from {seen.url} yet. {seen.lost}".rstrip(), style="red")
    data = seen.dashboard["data"]
    parts: list[RenderableType] = [_head(seen, seen.dashboard, now), Text()]
    parts += [_sources(data["sources"], max(height - AROUND, 1)), Text()]
    parts += [_line("lanes", told) for told in _lanes(data["lanes"])]
    parts += [_line("alert", _alert(one)) for one in (seen.alerts or [])[:ALERTS]]
    parts += [_line("open", told, "yellow") for told in (seen.episodes or [])[:ALERTS]]
    parts += [_line("trouble", told, "red") for told in data["troubles"][:ALERTS]]
    parts.append(Text("Ctrl-C ends this.", style="dim"))
    return Group(*parts)


def bar(level: float | None) -> str:
    """A level in dBFS as a bar; None is digital silence."""
    part = 0.0 if level is None else min(max((level - FLOOR) / -FLOOR, 0.0), 1.0)
    full = round(part * CELLS)
    return "█" * full + "·" * (CELLS - full)


def _head(seen: Seen, dashboard: dict[str, Any], now: datetime) -> Text:
    service = dashboard["data"]["service"]["status"]
    text = Text.assemble(
        ("Tocsin ", "bold"),
        f"{seen.url}  service ",
        (service, MARKS.get(service, "")),
        f"  {now:%H:%M:%S} UTC",
        overflow="fold",
    )
    if seen.lost:
        age = (now - seen.at).total_seconds()
        text.append(f"\nSTALE: what follows is {age:.0f} s old. {seen.lost}", style="bold red")
    elif dashboard["stale"]:
        age = dashboard["age_seconds"]
        told = "nobody knows how old this is" if age is None else f"this is {age:.0f} s old"
        text.append(f"\nSTALE: {told} (from the {dashboard['source']})", style="bold red")
    return text


def _sources(sources: list[dict[str, Any]], most: int) -> RenderableType:
    if not sources:
        return Text("No sources yet.")
    grid = Table(box=None, pad_edge=False, header_style="bold", expand=True)
    for name, width in (("SOURCE", 16), ("STATE", 8), ("WANTED", 7), ("RMS dBFS", CELLS + 6), ("PEAK", 6)):
        grid.add_column(name, width=width, no_wrap=True, overflow="ellipsis")
    grid.add_column("NOTE", no_wrap=True, overflow="ellipsis", ratio=1)
    # What is not well comes first: a list that is cut off hides no trouble.
    ranked = sorted(sources, key=lambda one: (one["score"], one["id"]))
    for one in ranked[:most]:
        level = one["level"] if one["state"] == "running" else None
        rms = f"{bar(level['rms_dbfs'])} {decibels(level['rms_dbfs']):>5}" if level else ""
        note = one["reasons"][0]["message"] if one["reasons"] else one["name"]
        grid.add_row(
            Text(one["id"]),
            Text(one["state"], style=MARKS.get(one["state"], "")),
            Text(one["desired"]),
            Text(rms),
            Text(f"{decibels(level['peak_dbfs']):>5}" if level else ""),
            Text(note),
        )
    if len(ranked) > most:
        grid.add_row(Text(f"and {len(ranked) - most} more", style="dim"))
    return grid


def _lanes(lanes: list[dict[str, Any]] | None) -> Iterable[str]:
    """A line for all lanes, and one for each that needs to be looked at."""
    if lanes is None:
        yield "not known now"
        return
    sums = {
        name: sum(one[name] or 0 for one in lanes) for name in ("waiting", "parked", "behind", "unarchived")
    }
    yield f"{len(lanes)}; " + ", ".join(f"{count} {name}" for name, count in sums.items())
    odd = [one for one in lanes if one["trouble"] or one["parked"] or not one["owner"]]
    for one in odd[:ALERTS]:
        owner = f"owner {one['owner']}" if one["owner"] else "no owner"
        told = f"{one['lane']}: {owner}, {one['parked'] or 0} parked"
        yield f"{told}; {one['trouble']}" if one["trouble"] else told


def _alert(one: dict[str, Any]) -> str:
    places = ", ".join(place["name"] or place["code"] for place in one["locations"][:2])
    event = f"{one['event']} {one['event_name'] or '(unknown)'}" if one["event"] else "unreadable"
    by = ", ".join(heard["source"] for heard in one["sources"][:3])
    return f"{one['last_at'][11:19]} {event}, {places or 'no places'}, by {by}"


def _line(name: str, told: str, style: str = "") -> Text:
    line = Text.assemble((f"{name:<8}", "bold"), (told, style))
    line.no_wrap, line.overflow = True, "ellipsis"
    return line
