"""The station that a verb works with: its place, its desk, its read API."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, Protocol

import click

from control.cli import options, rehearsed
from control.desk import Desk, Wish
from control.lanes import all_lanes
from control.place import Place, find
from control.readapi import PATIENCE, ReadApi
from control.rehearsal import NotSent, Rehearsal
from streams.history import Catalogue
from streams.messages import DEFAULT_VALIDITY
from streams.settings import Settings
from streams.traces import exporting

ARCHIVE = "tocsin.archive"
"""Where in the click context's `meta` the composition root puts what makes a station's archive."""
PAST = "tocsin.past"
"""And what looks back."""


def place() -> Place:
    """The station meant on this command line."""
    return find(options.given().get("station"), os.environ)


def readapi(patience: float = PATIENCE) -> ReadApi:
    """A client of the station's web process; raises Away where none is known."""
    here = place()
    return ReadApi(here.web(), here.token(os.environ), patience)


@contextmanager
def desk() -> Iterator[Desk]:
    """The desk that signs for this user; raises what Place.settings raises.

    With --dry-run it submits nothing: what it would have sent is told instead, and ends the verb.
    """
    here = place()
    settings = here.settings().as_role("submitter")
    found = (Rehearsal if options.dry_run() else Desk)(settings, here.folder())
    try:
        with exporting(settings, "cli", brief=True):
            yield found
    except NotSent as shown:
        rehearsed.tell(shown.commands)
        raise click.exceptions.Exit(rehearsed.exit_code(shown.commands)) from None
    finally:
        found.close()


def archive(settings: Settings) -> Catalogue | None:
    """What keeps the station's events outside Redis; None where there is nothing, or nobody to read it."""
    find: Callable[[Settings], Catalogue | None] | None = click.get_current_context().meta.get(ARCHIVE)
    return find(settings) if find else None


class Past(Protocol):
    """How the read model was, at any point of the log."""

    def __enter__(self) -> Past:
        """Opens nothing yet."""

    def __exit__(self, *_: object) -> None:
        """Close what was opened."""

    def state(
        self, lanes: list[str], *, at: datetime | None = None, lane: str = "", seq: int = 0
    ) -> dict[str, Any] | None:
        """The read model at a moment, or after one event; None where there is no such event."""


def past(settings: Settings, tail: Callable[[str, int], Iterator[tuple[bytes, bytes]]]) -> Past | None:
    """Who looks back; None where there is no archive, or nobody to read it.

    `tail` gives a lane's events behind a seq: what is not archived yet.
    """
    find: Callable[..., Past | None] | None = click.get_current_context().meta.get(PAST)
    return find(settings, tail) if find else None


def lanes(desk: Desk, named: str | None) -> list[str]:
    """The lane named, else all lanes of the station."""
    return [named] if named else all_lanes(desk.settings, desk.sources())


def wish(
    type: str,
    source: str,
    params: dict[str, object] | None = None,
    *,
    id: str | None = None,
    follows: bool = False,
) -> Wish:
    """A wish with what the options say of it; one that `follows` another says nothing of the sequence."""
    given = options.given()
    expires = given.get("expires")
    return Wish(
        type=type,
        source=source,
        params=params or {},
        validity=DEFAULT_VALIDITY if expires is None else timedelta(seconds=expires),
        id=id,
        durability=given.get("durability"),
        if_sequence=None if follows else given.get("if_sequence"),
    )
