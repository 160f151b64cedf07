"""What verbs print: one JSON object, or text and tables for a terminal of 80 columns."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

MARKS = {
    "running": "green",
    "completed": "green",
    "healthy": "green",
    "ok": "green",
    "starting": "yellow",
    "stalled": "yellow",
    "stale": "yellow",
    "superseded": "yellow",
    "expired": "yellow",
    "warning": "yellow",
    "failed": "red",
    "rejected": "red",
    "down": "red",
    "error": "red",
    "trouble": "red",
}
"""The colours of states and outcomes; the word itself always stands there too."""


def as_json(thing: Any) -> None:
    """Print `thing` as one line of JSON."""
    click.echo(line(thing))


def line(thing: Any) -> str:
    """`thing` as one line of JSON."""
    return json.dumps(thing, ensure_ascii=False, default=str)


def table(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], *, empty: str = "none", whole: str = ""
) -> None:
    """Print a table; on a terminal in colours, elsewhere without. The column `whole` is never folded."""
    console = Console(highlight=False)
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        grid.add_column(column, overflow="fold", no_wrap=column == whole)
    for row in rows:
        grid.add_row(*(_cell(value) for value in row))
    if grid.row_count:
        console.print(grid)
    else:
        console.print(empty)


def facts(pairs: Iterable[tuple[str, Any]]) -> None:
    """Print one thing's facts, a line each; those that are not there are left out."""
    console = Console(highlight=False)
    grid = Table(box=None, pad_edge=False, show_header=False)
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in pairs:
        if value not in (None, "", {}):
            grid.add_row(name, _cell(value))
    console.print(grid)


def staleness(envelope: dict[str, Any]) -> None:
    """Say so, on standard error, when what was read may no longer be so."""
    if envelope.get("stale"):
        age = envelope.get("age_seconds")
        told = "nobody knows how old it is" if age is None else f"{age:.0f} s old"
        click.echo(f"Note: this is stale ({told}, from the {envelope.get('source')}).", err=True)


def folded(sentence: str) -> str:
    """A long sentence in lines of a terminal."""
    return click.wrap_text(sentence, width=80)


def decibels(value: float | None) -> str:
    """A level for people; digital silence is −∞."""
    return "−∞" if value is None else f"{value:.1f}"


def _cell(value: Any) -> Text:
    text = "" if value is None else json.dumps(value) if isinstance(value, dict) else str(value)
    return Text(text, style=MARKS.get(text, ""))
