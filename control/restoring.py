"""Giving a lane back to a Redis that lost it: from the archive, by whoever may write the lane now."""

from __future__ import annotations

import time
from typing import Literal

import msgspec

from control.lanes import owner_of
from streams.connection import Link, connect
from streams.durability import Prover
from streams.history import Catalogue
from streams.lease import Lease, LeaseLost, acquire, release
from streams.library import load_library
from streams.log import LaneLog
from streams.names import STATION_LANE, StationKeys
from streams.settings import Settings
from streams.tail import START

OWNER = "restore"
"""Under this name the lanes are held meanwhile."""
LOOK_AGAIN = 0.2
"""Seconds between two looks at a lane that another owner is to give back."""


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a lane. `by`: who put events back; `seq` and `archived`: where log and archive end."""

    lane: str
    by: Literal["us", "owner", "nobody"]
    owner: str | None = None
    before: int
    """Where the log ended when we looked first."""
    seq: int
    archived: int
    sources: int
    """How many claims of sources were made again."""

    @property
    def whole(self) -> bool:
        """Whether the log has all that the archive has."""
        return self.seq >= self.archived


def load_functions(settings: Settings) -> None:
    """Load the server-side functions, which a total loss takes too. Raises MayNotLoad, Unreachable."""
    link = connect(settings.as_role("admin").redis, "restore-library")
    try:
        load_library(link)
    finally:
        link.close()


def restore_lane(settings: Settings, lane: str, archive: Catalogue, *, patience: float = 30.0) -> Restored:
    """Give the lane and its sources' claims back; where it has an owner, wait until that one has done so.

    Raises ArchiveAway, Unreachable, NotDurable.
    """
    settings = settings.as_role("control" if lane == STATION_LANE else "ingest")
    station = StationKeys(settings.station.id)
    keys = station.lane(lane)
    link = connect(settings.redis, f"restore-{lane}", slot_of=keys.commands)
    try:
        before = int(link.call("HGET", keys.head, "seq") or 0)
        deadline = time.monotonic() + patience
        archived = archive.head(lane) or START
        by: Literal["us", "owner", "nobody"] = "nobody"
        owner: str | None = None
        while (seq := int(link.call("HGET", keys.head, "seq") or 0)) < archived.seq:
            owner = owner_of(link, keys)
            if time.monotonic() > deadline:
                break
            if owner is None and _put_back(settings, lane, link, archive):
                by = "us"
            else:
                by = "owner"
                time.sleep(LOOK_AGAIN)
        claimed = _claim(settings, station, lane, archive)
    finally:
        link.close()
    return Restored(
        lane=lane, by=by, owner=owner, before=before, seq=seq, archived=archived.seq, sources=claimed
    )


def _put_back(settings: Settings, lane: str, link: Link, archive: Catalogue) -> bool:
    """Be the lane's owner for as long as it takes; False where somebody else was faster."""
    station = StationKeys(settings.station.id)
    keys = station.lane(lane)
    log = LaneLog(
        link.another(f"restore-{lane}-log"),
        station,
        lane,
        OWNER,
        Prover(settings.redis),
        settings.durability,
        archive,
        settings.archive.keep,
    )
    fence = ""
    try:
        while isinstance(lease := acquire(link, keys, OWNER, fence), Lease):
            fence = lease.fence
            try:
                log.take(lease)
                log.prove_head()
                log.complete()
            except LeaseLost:
                # The log has events of later leases than the new Redis knew of: the next is later still.
                continue
            release(link, keys, lease)
            return True
        return False
    finally:
        log.close()


def _claim(settings: Settings, station: StationKeys, lane: str, archive: Catalogue) -> int:
    """Claim the ids of the lane's sources again; how many claims were missing."""
    sources = archive.sources(lane)
    if not sources:
        return 0
    link = connect(settings.redis, "restore-claims")
    try:
        replies = link.batch([("HSETNX", station.sources, source, lane) for source in sources])
    finally:
        link.close()
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return sum(replies)
