"""Whether the lanes' logs are sound, as `verifier` last saw it: rows in Postgres."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

import msgspec
from sqlalchemy import Connection, select, update
from sqlalchemy.dialects.postgresql import insert

from projections.rows import columns, structs
from projections.tables import ARCHIVE, positions, verdicts
from streams.chain import Broken, Joint, joined
from streams.tail import Position

BROKEN = ("LogBroken", "PositionAhead")
"""The troubles of a projection that say that a log is not what it was."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """A lane's verdict: it is sound up to `seq`; `fault` is what comes then, None while nothing is wrong.

    `whole_fault` is what was wrong when all of it was last verified, at `whole_at`.
    """

    lane: str
    seq: int
    hash: str
    token: int
    checked_at: datetime | None = None
    fault: str | None = None
    whole_at: datetime | None = None
    whole_fault: str | None = None

    @property
    def joint(self) -> Joint:
        """What the next event must join on to."""
        return Joint(self.seq, self.hash, self.token)

    @property
    def wrong(self) -> str | None:
        """What is wrong, if anything is."""
        return self.fault or self.whole_fault


def kept(connection: Connection) -> dict[str, Verdict]:
    """All verdicts, by lane."""
    rows = list(connection.execute(select(*columns(verdicts, Verdict))))
    return {one.lane: one for one in structs(verdicts, Verdict, rows)}


def archived(connection: Connection) -> dict[str, Position]:
    """How far each lane's archive is."""
    wanted = select(positions.c.lane, positions.c.seq, positions.c.hash)
    rows = connection.execute(wanted.where(positions.c.projection == ARCHIVE))
    return {row.lane: Position(row.seq, row.hash) for row in rows}


def note(
    connection: Connection, lane: str, before: Joint, after: Joint, fault: str | None, at: datetime
) -> None:
    """Keep that the lane is sound from `before` to `after`, unless somebody else went on from there."""
    start = Joint()
    connection.execute(
        insert(verdicts)
        .values(lane=lane, seq=start.seq, hash=start.hash, token=start.token)
        .on_conflict_do_nothing()
    )
    stands = (verdicts.c.lane == lane, verdicts.c.seq == before.seq, verdicts.c.hash == before.hash)
    connection.execute(
        update(verdicts)
        .where(*stands)
        .values(seq=after.seq, hash=after.hash, token=after.token, fault=fault, checked_at=at)
    )


def note_whole(connection: Connection, lane: str, fault: str | None, at: datetime) -> None:
    """Keep what came of verifying the lane from its first event on."""
    connection.execute(update(verdicts).where(verdicts.c.lane == lane).values(whole_at=at, whole_fault=fault))


def follow(
    before: Joint, events: Iterable[tuple[int, bytes, str]], log: Mapping[int, bytes]
) -> tuple[Joint, str | None]:
    """How far archived events (seq, bytes, hash) join on, and what is wrong with the one after that.

    `log` holds the bytes that the lane's log in Redis has for the same seqs, where it still has them.
    """
    for seq, raw, stated in events:
        try:
            after, _ = joined(before, raw, stated)
        except Broken as broken:
            return before, f"event {before.seq + 1} of the archive: {broken}"
        if log.get(seq, raw) != raw:
            return before, f"event {seq}: its bytes in Redis are not those that were archived"
        before = after
    return before, None
