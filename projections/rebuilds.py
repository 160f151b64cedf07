"""Which projections are to be rebuilt, and how far each rebuild is: the table `rebuilds`.

Whoever wants one writes it down here; the projections' process that holds the lock does it.
"""

from __future__ import annotations

from datetime import datetime

import msgspec
from sqlalchemy import Connection, func, select, update
from sqlalchemy.dialects.postgresql import insert

from projections.projection import Positioned
from projections.rows import columns, structs
from projections.tables import rebuilds

PENDING = ("wanted", "running")


class Rebuild(msgspec.Struct, frozen=True, kw_only=True):
    """The latest rebuild of a projection: `done` of `total` events, `per_second` at the moment.

    `state` is wanted, running, done or failed; `detail` says why it failed, or what it waits for.
    """

    projection: str
    version: int
    state: str
    wanted_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    done: int
    total: int
    per_second: float | None
    detail: str | None

    @property
    def seconds_left(self) -> float | None:
        """How long it still takes at the present rate; None where nobody knows."""
        if self.state != "running" or not self.per_second:
            return None
        return max(0, self.total - self.done) / self.per_second


def want(connection: Connection, projection: Positioned, *, again: bool = False) -> bool:
    """Ask for a rebuild, unless one is pending; whether it was asked for now.

    One that failed is not asked for again by itself, only with `again` or for another version.
    """
    fresh = {
        "version": projection.version,
        "state": "wanted",
        "wanted_at": func.now(),
        "started_at": None,
        "finished_at": None,
        "done": 0,
        "total": 0,
        "per_second": None,
        "detail": None,
    }
    put = insert(rebuilds).values(projection=projection.name, **fresh)
    stands = rebuilds.c.state.in_(PENDING if again else (*PENDING, "failed"))
    asked = connection.execute(
        put.on_conflict_do_update(
            index_elements=["projection"],
            set_=fresh,
            where=~stands | (rebuilds.c.version != projection.version),
        ).returning(rebuilds.c.projection)
    )
    return asked.one_or_none() is not None


def failure(connection: Connection, projection: Positioned) -> str | None:
    """Why the latest rebuild of this version failed; None where it did not."""
    for one in listed(connection):
        if (one.projection, one.version, one.state) == (projection.name, projection.version, "failed"):
            return one.detail or "nobody knows why"
    return None


def pending(connection: Connection) -> dict[str, Rebuild]:
    """Those that are wanted or under way, by projection."""
    return {one.projection: one for one in listed(connection) if one.state in PENDING}


def listed(connection: Connection) -> list[Rebuild]:
    """The latest rebuild of every projection that ever had one."""
    wanted = select(*columns(rebuilds, Rebuild)).order_by(rebuilds.c.projection)
    return structs(rebuilds, Rebuild, list(connection.execute(wanted)))


def note(connection: Connection, projections: list[str], **fields: object) -> None:
    """Keep how far the rebuild of `projections` is."""
    connection.execute(update(rebuilds).where(rebuilds.c.projection.in_(projections)).values(**fields))
