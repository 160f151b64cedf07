"""The station that a verb works with: its place, its desk, its read API."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from control.cli import options
from control.desk import Desk, Wish
from control.lanes import all_lanes
from control.place import Place, find
from control.readapi import ReadApi
from streams.messages import DEFAULT_VALIDITY


def place() -> Place:
    """The station meant on this command line."""
    return find(options.given().get("station"), os.environ)


def readapi() -> ReadApi:
    """A client of the station's web process; raises Away where none is known."""
    return ReadApi(place().web(), os.environ.get("TOCSIN_TOKEN", ""))


@contextmanager
def desk() -> Iterator[Desk]:
    """The desk that signs for this user; raises what Place.settings raises."""
    here = place()
    found = Desk(here.settings(), here.folder())
    try:
        yield found
    finally:
        found.close()


def lanes(desk: Desk, named: str | None) -> list[str]:
    """The lane named, else all lanes of the station."""
    return [named] if named else all_lanes(desk.settings, desk.sources())


def wish(type: str, source: str, params: dict[str, object] | None = None, *, id: str | None = None) -> Wish:
    """A wish with what the options say of it."""
    given = options.given()
    expires = given.get("expires")
    return Wish(
        type=type,
        source=source,
        params=params or {},
        validity=DEFAULT_VALIDITY if expires is None else timedelta(seconds=expires),
        id=id,
        durability=given.get("durability"),
    )
