"""What a projection is made of: its fold, and the table and row type it folds into."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import msgspec
from sqlalchemy import Table

from projections import tables
from projections.folds import commands, sources
from streams.messages import Event, Logged


class Positioned(Protocol):
    """What follows lanes and keeps its position in each: a projection, or the archive."""

    @property
    def name(self) -> str:
        """Under which its positions are kept."""

    @property
    def version(self) -> int:
        """Of what it keeps."""


class Projection(msgspec.Struct, frozen=True):
    """A fold and where its rows are kept. `concerns` names the row that an event may change."""

    name: str
    version: int
    table: Table
    row: type[Any]
    concerns: Callable[[Event], str | None]
    fold: Callable[[Any, Logged], Any]


SOURCES = Projection(
    sources.NAME, sources.VERSION, tables.sources, sources.SourceRow, sources.concerns, sources.fold
)
COMMANDS = Projection(
    commands.NAME, commands.VERSION, tables.commands, commands.CommandRow, commands.concerns, commands.fold
)
ALL = (SOURCES, COMMANDS)


def concerned(projection: Projection, events: list[Logged]) -> set[str]:
    """The ids of all rows that `events` may change."""
    return {key for logged in events if (key := projection.concerns(logged.event)) is not None}


def fold_all(projection: Projection, rows: dict[str, Any], events: list[Logged]) -> dict[str, Any]:
    """The rows by id after `events`; None stands for a row that there is no more."""
    after: dict[str, Any] = dict(rows)
    for logged in events:
        key = projection.concerns(logged.event)
        if key is not None:
            after[key] = projection.fold(after.get(key), logged)
    return after
