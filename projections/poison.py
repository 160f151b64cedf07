"""Events that a fold cannot take: each is parked, and holds back what follows it of the same source.

The rest of the lane goes on. What is held back is not copied: it is in the archive, and folded from
there when the event is retried or dropped (`projections.mending`).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Literal

import msgspec
from sqlalchemy import ColumnElement, Connection, and_, delete, func, insert, select, update

from projections.folds.data import LONGEST_ID, printable
from projections.projection import Positioned
from projections.tables import poisoned
from streams.messages import Logged

OnError = Literal["park", "stop"]
"""What is done about such an event: set it aside and go on, or stand still before it."""
LONGEST = 500
"""Characters of an error that are kept."""


class Poison(msgspec.Struct, frozen=True, kw_only=True):
    """An event that a projection's fold could not take. `subject` is what it holds back."""

    seq: int
    hash: str
    prev: str
    subject: str
    type: str
    error: str


class Parked(msgspec.Struct, frozen=True, kw_only=True):
    """A parked (or dropped) event as it is kept; `followers` were held back by it so far."""

    projection: str
    lane: str
    seq: int
    hash: str
    subject: str
    type: str
    error: str
    state: str
    followers: int
    at: datetime


Held = dict[str, int]
"""What is held back in a projection and lane, each with the seq of the event that does."""


def subject(logged: Logged, key: str | None) -> str:
    """What an event is about, for holding back: its source, or the row where it has none."""
    return printable(logged.event.source or key or "")[:LONGEST_ID]


def poison(logged: Logged, key: str | None, error: BaseException) -> Poison:
    """What is kept of an event that could not be folded."""
    return Poison(
        seq=logged.event.seq,
        hash=logged.hash,
        prev=logged.event.prev,
        subject=subject(logged, key),
        type=printable(logged.event.type)[:LONGEST_ID],
        error=printable(f"{type(error).__name__}: {error}".splitlines()[0])[:LONGEST],
    )


def held_in(connection: Connection, lane: str) -> dict[str, Held]:
    """What each projection holds back in the lane, by its name."""
    found: dict[str, Held] = {}
    wanted = select(poisoned.c.projection, poisoned.c.subject, poisoned.c.seq)
    for row in connection.execute(wanted.where(poisoned.c.lane == lane, poisoned.c.state == "parked")):
        found.setdefault(row.projection, {})[row.subject] = row.seq
    return found


def park(
    connection: Connection,
    projection: Positioned,
    lane: str,
    events: list[Poison],
    followers: Mapping[int, int],
) -> None:
    """Keep `events` parked, and count so many more `followers` of those with these seqs."""
    if events:
        rows = [
            {
                "projection": projection.name,
                "lane": lane,
                **{name: value for name, value in msgspec.structs.asdict(one).items() if name != "prev"},
                "state": "parked",
                "followers": 0,
                "at": func.now(),
            }
            for one in events
        ]
        for row in rows:
            connection.execute(insert(poisoned).values(**row))
    for seq, count in followers.items():
        connection.execute(
            update(poisoned).where(_at(projection, lane, seq)).values(followers=poisoned.c.followers + count)
        )


def parked(connection: Connection, projection: str | None = None) -> list[Parked]:
    """What is parked or was dropped, the oldest first."""
    wanted = select(*(poisoned.c[name] for name in Parked.__struct_fields__)).order_by(
        poisoned.c.projection, poisoned.c.lane, poisoned.c.seq
    )
    if projection is not None:
        wanted = wanted.where(poisoned.c.projection == projection)
    return [Parked(**row._mapping) for row in connection.execute(wanted)]


def forget(connection: Connection, projection: Positioned, lane: str, seq: int) -> None:
    """Take an event off, which was folded after all."""
    connection.execute(delete(poisoned).where(_at(projection, lane, seq)))


def give_up(connection: Connection, projection: Positioned, lane: str, seq: int) -> None:
    """Keep an event as dropped: its followers were folded without it."""
    connection.execute(
        update(poisoned).where(_at(projection, lane, seq)).values(state="dropped", followers=0)
    )


def _at(projection: Positioned, lane: str, seq: int) -> ColumnElement[bool]:
    return and_(poisoned.c.projection == projection.name, poisoned.c.lane == lane, poisoned.c.seq == seq)
