"""`tocsin event …`: the facts, as the log has them."""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterator
from itertools import islice

import click
import msgspec

from control.cli import options, session, show
from control.desk import Desk
from streams.connection import Link, Unreachable, connect
from streams.history import ArchiveAway, latest
from streams.messages import GENESIS, Event, Logged
from streams.names import LaneKeys, StationKeys
from streams.tail import Position, Tail

LOOK = 0.2
"""Seconds between two looks at the lanes when there was nothing new."""


class Told(msgspec.Struct, frozen=True):
    """An event with the lane it stands in."""

    lane: str
    logged: Logged


@click.group()
def event() -> None:
    """Read what happened."""


@event.command("list")
@click.option("--lane", help="Only this lane (else all).")
@click.option("--source", default="", help="Only events of this source.")
@click.option("--type", "kind", default="", help="Only this type, or what begins with it (`source.`).")
@click.option(
    "--limit", type=click.IntRange(1, 100000), default=50, show_default=True, help="The latest so many."
)
@options.reading
def list_events(lane: str | None, source: str, kind: str, limit: int) -> None:
    """List the latest events of the log, oldest first."""
    with session.desk() as desk:
        link = connect(desk.settings.as_role("reader").redis, "events")
        lanes = session.lanes(desk, lane)
        keys = StationKeys(desk.settings.station.id)
        archive = session.archive(desk.settings)
        wanted: list[Told] = []
        for one in lanes:
            events = (Told(one, logged) for logged in latest(link, keys.lane(one), archive))
            wanted += islice((told for told in events if _matches(told.logged.event, source, kind)), limit)
        found = heapq.nlargest(
            limit, wanted, key=lambda told: (told.logged.event.logged_at, told.logged.event.seq)
        )
        link.close()
    found.reverse()
    if options.wants_json():
        show.as_json({"events": [_plain(told) for told in found]})
        return
    show.table(
        ("LOGGED (UTC)", "LANE", "SEQ", "TYPE", "SOURCE", "WHAT"),
        ((_time(t.logged.event), t.lane, *_columns(t.logged.event)) for t in found),
        empty="No events.",
    )


@event.command("tail")
@click.option("--lane", help="Only this lane (else all).")
@click.option("--source", default="", help="Only events of this source.")
@click.option("--type", "kind", default="", help="Only this type, or what begins with it (`source.`).")
@click.option("--from-start", is_flag=True, help="All events first, then what comes.")
@options.reading
def tail_events(lane: str | None, source: str, kind: str, from_start: bool) -> None:
    """Print events as they come, until Ctrl-C; with --json one object per line."""
    with session.desk() as desk:
        for told in follow(desk, lane, from_start=from_start):
            if not _matches(told.logged.event, source, kind):
                continue
            if options.wants_json():
                show.as_json({"event": _plain(told)})
            else:
                seq, *what = _columns(told.logged.event)
                click.echo("  ".join((_time(told.logged.event), f"{told.lane}/{seq}", *what)).rstrip())


def follow(desk: Desk, lane: str | None, *, from_start: bool) -> Iterator[Told]:
    """Durable events as they come, without end; lanes of sources added meanwhile come along.

    It waits while the station is unreachable, and says so once.
    Raises PositionAhead when a log was rolled back, EventsMissing.
    """
    link = connect(desk.settings.as_role("reader").redis, "events")
    keys = StationKeys(desk.settings.station.id)
    archive = session.archive(desk.settings)
    tails: dict[str, Tail] = {}
    silent = False
    while True:
        came = False
        try:
            for one in session.lanes(desk, lane):
                if one not in tails:
                    start = Position(0, GENESIS) if from_start else _watermark(link, keys.lane(one))
                    tails[one] = Tail(link, keys.lane(one), start, archive)
                for logged in tails[one].read(block=0.0):
                    came = True
                    yield Told(one, logged)
            # A lane that appears from here on is new: all of it is news.
            from_start, silent = True, False
        except (Unreachable, ArchiveAway) as error:
            if not silent:
                click.echo(f"Waiting for the station: {error}", err=True)
            silent = True
        if not came:
            time.sleep(LOOK)


def _watermark(link: Link, keys: LaneKeys) -> Position:
    seq, hash = link.call("HMGET", keys.head, "wm_seq", "wm_hash")
    return Position(int(seq), hash.decode()) if seq else Position(0, GENESIS)


def _matches(event: Event, source: str, kind: str) -> bool:
    typed = not kind or event.type == kind or (kind.endswith(".") and event.type.startswith(kind))
    return typed and (not source or event.source == source)


def _columns(event: Event) -> tuple[int, str, str, str]:
    data = event.data
    parts = [str(data[name]) for name in ("type", "state", "reason", "by") if data.get(name)]
    return event.seq, event.type, event.source, " ".join(parts)


def _time(event: Event) -> str:
    return event.logged_at.strftime("%H:%M:%S.%f")[:-3]


def _plain(told: Told) -> dict[str, object]:
    return {"lane": told.lane, "hash": told.logged.hash, **msgspec.to_builtins(told.logged.event)}
