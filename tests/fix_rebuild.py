"""What tests of rebuilds and of poison share: folds that refuse events, a busy lane, how a rebuild stands."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import msgspec
from sqlalchemy import select, text

from projections import rebuilds
from projections.projection import ALL, SOURCES, Projection
from projections.rebuilds import Rebuild
from projections.tables import poisoned
from streams.messages import Logged
from tests.fix_projections import LANE, Scribe, Yard

NAMES = ("mic", "tower", "icecast")


class Refused(Exception):
    """What the fold of these tests raises."""


def refusing(projection: Projection, refuses: Callable[[Logged], bool]) -> Projection:
    """The projection, with a fold that raises for some events."""

    def fold(row: Any, logged: Logged) -> Any:
        if refuses(logged):
            raise Refused(f"event {logged.event.seq} is not to my taste")
        return projection.fold(row, logged)

    return msgspec.structs.replace(projection, fold=fold)


def named(name: str) -> Callable[[Logged], bool]:
    """Whether an event gives its source that name."""
    return lambda logged: logged.event.data.get("name") == name


def busy(scribe: Scribe, count: int, seed: int = 1) -> None:
    """A lane in which sources come and change and commands are settled; nothing is ever removed."""
    draw = random.Random(seed)
    for source in NAMES:
        scribe.add(source, running=True)
    for number in range(count):
        source = draw.choice(NAMES)
        if number % 2:
            scribe.settle(f"command-{seed}-{number}", source)
        else:
            kind = draw.choice(("running", "failed", "stopped", "starting"))
            scribe.write(f"source.{kind}", source, reason=f"because {number}", rate=number)


def ask_for(yard: Yard, *projections: Projection) -> None:
    """Ask for a rebuild, as the command does."""
    with yard.engine.begin() as connection:
        for projection in projections:
            assert rebuilds.want(connection, projection, again=True)


def rebuild_of(yard: Yard, projection: Projection = SOURCES) -> Rebuild | None:
    """How far the latest rebuild is."""
    with yard.engine.connect() as connection:
        found = {one.projection: one for one in rebuilds.listed(connection)}
    return found.get(projection.name)


def rebuilt(yard: Yard, *projections: Projection) -> Callable[[], bool]:
    """Whether the rebuilds of all of them are done."""

    def check() -> bool:
        found = [rebuild_of(yard, projection) for projection in projections or ALL]
        return all(one is not None and one.state == "done" for one in found)

    return check


def parked_in(yard: Yard) -> list[tuple[Any, ...]]:
    """Projection, seq, state and followers of what is parked or dropped."""
    wanted = select(poisoned.c.projection, poisoned.c.seq, poisoned.c.state, poisoned.c.followers)
    with yard.engine.connect() as connection:
        return [tuple(row) for row in connection.execute(wanted.order_by(poisoned.c.seq))]


def position_of(yard: Yard, projection: Projection = SOURCES) -> tuple[int, str | None]:
    """How far the projection is in the lane, and of what class its failure there is."""
    query = text("SELECT seq, failure FROM positions WHERE lane = :lane AND projection = :name")
    with yard.engine.connect() as connection:
        row = connection.execute(query, {"lane": LANE, "name": projection.name}).one_or_none()
    return (row.seq, row.failure) if row else (0, None)
