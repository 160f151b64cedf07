"""Retrying and dropping events that a fold could not take, with all that they held back.

One transaction, under the lock of the projection's position: what was held back is folded from the
archive onto the rows as they were before the event, up to where the lane's folds are now.
"""

from __future__ import annotations

from typing import Literal

from sqlalchemy import Connection, Engine, select, text

from projections.folding import Batch, fold_into
from projections.poison import Parked, forget, give_up, parked, subject
from projections.projection import Projection
from projections.store import note_trouble
from projections.tables import positions
from streams.messages import Logged, decode_event

BATCH = 2000

What = Literal["retry", "drop"]


class CannotMend(Exception):
    """Raised when there is no such event, or it cannot be folded from the archive now."""


def mend(engine: Engine, projection: Projection, lane: str, seq: int, what: What) -> list[Parked]:
    """Fold a parked event, or give it up, and fold what it held back; what is parked of them again.

    Raises CannotMend, DBAPIError; then nothing was changed.
    """
    with engine.begin() as connection:
        at = _locked(connection, projection, lane)
        found = [one for one in parked(connection, projection.name) if (one.lane, one.seq) == (lane, seq)]
        if not found or found[0].state != "parked":
            raise CannotMend(f"event {lane}:{seq} is not parked in {projection.name}")
        if what == "retry":
            forget(connection, projection, lane, seq)
        else:
            give_up(connection, projection, lane, seq)
        _fold_on(connection, projection, found[0], seq if what == "retry" else seq + 1, at)
        return [
            one
            for one in parked(connection, projection.name)
            if (one.lane, one.subject, one.state) == (lane, found[0].subject, "parked")
        ]


def go_on(engine: Engine, projection: Projection, lane: str) -> bool:
    """Let a projection that stopped before an event try it again; whether it had stopped."""
    with engine.begin() as connection:
        stopped = connection.execute(
            select(positions.c.failure)
            .where(positions.c.projection == projection.name, positions.c.lane == lane)
            .with_for_update()
        ).scalar()
        if stopped == "poison":
            note_trouble(connection, projection, lane, None, None)
        return stopped == "poison"


def _locked(connection: Connection, projection: Projection, lane: str) -> int:
    """How far the projection is in the lane, which stays so until the transaction ends."""
    row = connection.execute(
        select(positions.c.seq, positions.c.version)
        .where(positions.c.projection == projection.name, positions.c.lane == lane)
        .with_for_update()
    ).one_or_none()
    if row is None:
        raise CannotMend(f"{projection.name} does not follow the lane {lane}")
    if row.version != projection.version:
        raise CannotMend(
            f"the rows of {projection.name} are of version {row.version}, this is {projection.version}"
        )
    return int(row.seq)


def _fold_on(connection: Connection, projection: Projection, one: Parked, start: int, end: int) -> None:
    """Fold what is about the same as `one` of the events from `start` to `end`, as if it came now."""
    held: dict[str, int] = {}
    last = start - 1
    while last < end:
        rows = connection.execute(_READ, {"of": one.lane, "after": last, "end": min(end, last + BATCH)}).all()
        if not rows:
            raise CannotMend(f"the archive of {one.lane} ends before event {last + 1}: try again later")
        last = rows[-1].seq
        events = [Logged(decode_event(row.raw), row.raw, row.hash) for row in rows]
        about = [logged for logged in events if _is_about(projection, logged, one.subject)]
        fold_into(connection, projection, one.lane, Batch(about), held, "park")
        held = {
            again.subject: again.seq
            for again in parked(connection, projection.name)
            if again.lane == one.lane and again.state == "parked" and again.seq >= start
        }


def _is_about(projection: Projection, logged: Logged, wanted: str) -> bool:
    try:
        key = projection.concerns(logged.event)
    except Exception:  # what cannot be told is told when it is folded
        return subject(logged, None) == wanted
    return key is not None and subject(logged, key) == wanted


_READ = text(
    "SELECT seq, raw, hash FROM archive WHERE lane = :of AND seq > :after AND seq <= :end ORDER BY seq"
)
