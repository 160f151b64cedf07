"""How far every projection is in every lane, what it lacks, and how its rebuild stands."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import msgspec
from sqlalchemy import Connection, func, select

from projections import rebuilds
from projections.poison import Parked, parked
from projections.projection import ALL
from projections.rebuilds import PENDING, Rebuild
from projections.tables import ARCHIVE, archive, poisoned, positions
from streams.messages import now


class InLane(msgspec.Struct, frozen=True, kw_only=True):
    """One projection in one lane.

    `lag` is how many events of the log are not folded yet, `gap_seconds` for how long the first of
    them has been in the log (None where there is none, or it is not archived). `skipped` counts the
    events that its rows lack: those it could not fold, and those held back. `failure` is of what
    class the trouble is.
    """

    lane: str
    seq: int
    version: int
    lag: int
    gap_seconds: float | None
    skipped: int
    failure: str | None
    trouble: str | None


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """One projection: `state` is following, behind, rebuilding or troubled. The sums are over its lanes."""

    projection: str
    version: int
    state: str
    lag: int
    gap_seconds: float | None
    skipped: int
    lanes: list[InLane]
    rebuild: Rebuild | None
    parked: list[Parked]


def status(connection: Connection, heads: Mapping[str, int]) -> list[Status]:
    """Every projection; `heads` are the logs' last events, where Redis could be asked for them."""
    built = {one.projection: one for one in rebuilds.listed(connection)}
    aside: dict[str, list[Parked]] = {}
    for one in parked(connection):
        aside.setdefault(one.projection, []).append(one)
    found: dict[str, list[InLane]] = {projection.name: [] for projection in ALL}
    for lane in _in_lanes(connection, heads):
        found.setdefault(lane[0], []).append(lane[1])
    versions = {projection.name: projection.version for projection in ALL}
    return [
        Status(
            projection=name,
            version=versions.get(name, 0),
            state=_state(lanes, built.get(name)),
            lag=sum(lane.lag for lane in lanes),
            gap_seconds=max((g for lane in lanes if (g := lane.gap_seconds) is not None), default=None),
            skipped=sum(lane.skipped for lane in lanes),
            lanes=lanes,
            rebuild=built.get(name),
            parked=aside.get(name, []),
        )
        for name, lanes in found.items()
    ]


def archived(connection: Connection) -> dict[str, int]:
    """The last archived event of each lane: how far the logs are at least, where Redis cannot be asked."""
    wanted = select(positions.c.lane, positions.c.seq).where(positions.c.projection == ARCHIVE)
    return {row.lane: row.seq for row in connection.execute(wanted)}


def _in_lanes(connection: Connection, heads: Mapping[str, int]) -> list[tuple[str, InLane]]:
    """Each projection's name with how it stands in a lane."""
    first = archive.c.seq == positions.c.seq + 1
    wanted = (
        select(positions, archive.c.logged_at)
        .outerjoin(archive, (archive.c.lane == positions.c.lane) & first)
        .where(positions.c.projection != ARCHIVE)
        .order_by(positions.c.projection, positions.c.lane)
    )
    skipped = _skipped(connection)
    return [
        (
            row.projection,
            InLane(
                lane=row.lane,
                seq=row.seq,
                version=row.version,
                lag=max(0, heads.get(row.lane, 0) - row.seq),
                gap_seconds=_age(row.logged_at),
                skipped=skipped.get((row.projection, row.lane), 0),
                failure=row.failure,
                trouble=row.trouble,
            ),
        )
        for row in connection.execute(wanted)
    ]


def _skipped(connection: Connection) -> dict[tuple[str, str], int]:
    lacks = func.sum(poisoned.c.followers + 1)
    wanted = select(poisoned.c.projection, poisoned.c.lane, lacks).group_by(
        poisoned.c.projection, poisoned.c.lane
    )
    return {(name, lane): int(count) for name, lane, count in connection.execute(wanted)}


def _age(moment: datetime | None) -> float | None:
    return None if moment is None else round(max(0.0, (now() - moment).total_seconds()), 3)


def _state(lanes: list[InLane], rebuild: Rebuild | None) -> str:
    if any(lane.trouble for lane in lanes):
        return "troubled"
    if rebuild is not None and rebuild.state in PENDING:
        return "rebuilding"
    return "behind" if any(lane.lag for lane in lanes) else "following"
