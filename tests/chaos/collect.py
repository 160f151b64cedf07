"""Gathers what is known at the end of a run, from Redis, from Postgres, and from those who were told."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import psycopg

from control.doctor import waiting_commands
from projections.archive_reader import ArchiveReader
from projections.wire import connect_to
from streams import audit
from streams.connection import Link, connect
from streams.messages import decode_event
from streams.names import STATION_LANE, StationKeys, floating_lanes, node_lane
from streams.replay import stored
from streams.settings import Settings
from tests.chaos.history import Fact, History, Told
from tests.chaos.operator import NODES

COMPARED = ("sources", "commands", "alerts", "conditions", "weekly_tests", "parked")
"""Tables of which a rebuild must make the same rows."""


def collect(settings: Settings, told: list[Told]) -> History:
    """The history as it stands now; `rebuilt` and `tables` are for whoever has all folded afresh."""
    lanes = [STATION_LANE, *floating_lanes(settings.station.lanes), *map(node_lane, NODES)]
    keys, history = StationKeys(settings.station.id), History(told=told)
    archive = ArchiveReader(settings.postgres)
    with closing(connect(settings.redis, "collect")) as link:
        for lane in lanes:
            history.archive[lane] = [_fact(raw, stated) for raw, stated in archive.after(lane, 0)]
            entries = list(stored(link, keys.lane(lane)))
            # What Redis has let go of is read where any reader goes for it.
            oldest = decode_event(entries[0][0]).seq if entries else 1
            gone = archive.after(lane, 0, oldest - 1) if oldest > 1 else ()
            history.trimmed += oldest - 1
            entries = [*((raw, stated.encode()) for raw, stated in gone), *entries]
            history.log[lane] = [_fact(raw, stated.decode()) for raw, stated in entries]
            history.waiting[lane] = waiting_commands(link, keys.lane(lane))
            history.verified += _verified(link, keys, lane, entries)
    with closing(connect_to(settings.postgres, name="collect")) as wire:
        history.rows = command_rows(wire)
        history.hearings = _hearings(wire)
    return history


def settled(settings: Settings) -> bool:
    """Whether nothing waits and the archive has all that is logged."""
    keys, archive = StationKeys(settings.station.id), ArchiveReader(settings.postgres)
    lanes = [STATION_LANE, *floating_lanes(settings.station.lanes), *map(node_lane, NODES)]
    with closing(connect(settings.redis, "settled")) as link:
        for lane in lanes:
            head, last = audit.head_of(link, keys.lane(lane)), archive.head(lane)
            if waiting_commands(link, keys.lane(lane)) or head.seq > (last.seq if last else 0):
                return False
    return True


def command_rows(wire: psycopg.Connection[Any]) -> dict[str, tuple[str, int, str]]:
    """What the read model says of each command."""
    rows = wire.execute("SELECT id, lane, seq, outcome FROM commands").fetchall()
    return {id: (lane, seq, outcome) for id, lane, seq, outcome in rows}


def all_rows(settings: Settings) -> dict[str, list[str]]:
    """The rows of each table that is compared, as text, in order."""
    found = {}
    with closing(connect_to(settings.postgres, name="collect")) as wire:
        for name in COMPARED:
            rows = wire.execute(f"SELECT to_jsonb(t)::text FROM {name} t ORDER BY 1").fetchall()  # type: ignore[call-overload]
            found[name] = [text for (text,) in rows]
    return found


def _hearings(wire: psycopg.Connection[Any]) -> dict[str, int]:
    asked = "SELECT source, header, count(*), sum(heard)::int FROM alerts GROUP BY source, header"
    # An alert that has two rows is there twice, however often it was heard.
    rows = wire.execute(asked).fetchall()
    return {f"{source} {header}": heard if count == 1 else -count for source, header, count, heard in rows}


def _verified(link: Link, keys: StationKeys, lane: str, entries: list[tuple[bytes, bytes]]) -> list[str]:
    verdict = audit.verify(lane, entries, audit.head_of(link, keys.lane(lane)))
    return [f"{lane}:{verdict.fault.seq} {verdict.fault.problem}"] if verdict.fault else []


def _fact(raw: bytes, stated: str) -> Fact:
    event = decode_event(raw)
    return Fact(event.seq, stated, event.prev, event.type, event.source, event.command, event.data)
