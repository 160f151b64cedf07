"""Logs to measure with: events as long as real ones, written by the hall's own code or straight in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice

import msgspec
from sqlalchemy import Engine

from projections.archive import THE_ARCHIVE, keep
from projections.store import enter
from streams.audit import head_of, verify
from streams.connection import Link
from streams.drafts import Draft
from streams.durability import Prover, replication_id
from streams.lease import Lease, acquire
from streams.log import BATCH, LaneLog
from streams.messages import (
    DEFAULT_VALIDITY,
    GENESIS,
    SCHEMA,
    Durability,
    Event,
    Logged,
    canonical,
    digest,
    new_command,
    now,
)
from streams.names import LaneKeys, StationKeys
from streams.replay import stored
from streams.settings import Settings
from streams.tail import START, Position

_COMMAND = new_command(
    station="station", lane="p0", source="bench-0", type="source.update", params={}, key="bench-hmac"
)
_LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)
REQUEST = canonical(
    msgspec.structs.replace(_COMMAND, issued_at=_LONG_AGO, expires_at=_LONG_AGO + DEFAULT_VALIDITY)
).decode()
"""A command whose validity is over: nothing has to remember its id."""


class Wrong(Exception):
    """Raised when what was written does not verify: figures of a wrong log are worth nothing."""


def sound(link: Link, keys: LaneKeys, lane: str) -> int:
    """How many events the lane's log holds; raises Wrong where it does not verify."""
    head = head_of(link, keys)
    verdict = verify(lane, stored(link, keys), head)
    if verdict.fault:
        raise Wrong(f"lane {lane}: event {verdict.fault.seq}: {verdict.fault.problem}")
    return verdict.events


def draft(number: int, command: str) -> Draft:
    """An event as a log holds them: every other one a command's result."""
    source = f"bench-{number % 64}"
    if number % 2:
        return Draft(type="source.running", source=source, data={"rate": 48000, "channels": 2})
    data = {
        "type": "source.update",
        "sequence": number // 128 + 1,
        "request": REQUEST,
        "signature": "0" * 64,
        "state": "stopped",
        "received_at": "2026-01-01T00:00:00.000+00:00",
    }
    return Draft(type="command.completed", source=source, command=command, data=data)


def drafts(count: int, start: int = 0) -> list[Draft]:
    return [draft(number, f"019a0000-0000-7000-8000-{number:012x}") for number in range(start, start + count)]


def linked(drafts: Iterable[Draft], begun: datetime, every: timedelta = timedelta(0)) -> Iterator[Logged]:
    """A lane's log from its first event on, so much time between two, each joined to the one before."""
    previous = GENESIS
    for seq, one in enumerate(drafts, 1):
        at = begun + seq * every
        event = Event(
            seq=seq,
            prev=previous,
            token=1,
            at=at,
            logged_at=at,
            node="bench",
            type=one.type,
            data=one.data,
            schema=SCHEMA,
            source=one.source,
            command=one.command,
        )
        raw = canonical(event)
        previous = digest(raw)
        yield Logged(event, raw, previous)


def chained(count: int) -> Iterator[tuple[bytes, str]]:
    """Bytes and hash of `count` events from the first of a log on."""
    for one in linked(drafts(count), now()):
        yield one.raw, one.hash


def archive(engine: Engine, lane: str, log: Iterator[Logged]) -> Position:
    """Archive a whole log, as the projections process does; where it ends."""
    at = START
    while batch := list(islice(log, 5000)):
        with engine.begin() as connection:
            keep(connection, lane, batch)
        at = Position(batch[-1].event.seq, batch[-1].hash)
    with engine.begin() as connection:
        enter(connection, THE_ARCHIVE, lane, at)
    return at


def fill(link: Link, keys: LaneKeys, count: int) -> None:
    """Write a valid log of `count` events into an empty lane, past `append`: for its length only."""
    seq, last, batch = 0, GENESIS, []
    for seq, (raw, last) in enumerate(chained(count), 1):
        batch.append(("XADD", keys.events, f"{seq}-1", "e", raw, "h", last))
        if len(batch) == 1000:
            link.batch(batch)
            batch = []
    replid = replication_id(link)
    head = ("seq", seq, "hash", last, "token", 1, "tokens", 1)
    mark = ("wm_seq", seq, "wm_hash", last, "wm_token", 1, "wm_replid", replid)
    link.batch([*batch, ("HSET", keys.head, *head, *mark)])


def open_log(settings: Settings, link: Link, lane: str, durability: Durability) -> LaneLog:
    """The lane's log in our hands, for as long as one lease lasts."""
    station = StationKeys(settings.station.id)
    lease = acquire(link, station.lane(lane), "bench")
    assert isinstance(lease, Lease)
    log = LaneLog(link, station, lane, "bench", Prover(settings.redis), durability)
    log.take(lease)
    return log


def batches(entries: list[tuple[bytes, str]], keys: LaneKeys) -> Iterator[list[tuple[object, ...]]]:
    """The same bytes as bare XADDs, as many in one round trip as an append writes."""
    for start in range(0, len(entries), BATCH):
        yield [
            ("XADD", keys.events, f"{seq}-1", "e", raw, "h", hash)
            for seq, (raw, hash) in enumerate(entries[start : start + BATCH], start + 1)
        ]
