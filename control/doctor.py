"""The doctor's checks: what is so of each part, and what to do about each trouble."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from redis.exceptions import ResponseError

from control.checks import breakers, cluster, notifications, postgres, projections, redis, sentinels
from control.checks.finding import Finding, ok, trouble, warning
from control.lanes import all_lanes, owner_of
from control.ownkeys import own_key
from control.place import Place
from control.readapi import Away, ReadApi
from streams.connection import Link, Unreachable, connect
from streams.faults import FAULTS
from streams.history import EventsMissing
from streams.keywatch import read_book
from streams.messages import now
from streams.names import STATION_LANE, LaneKeys, StationKeys
from streams.settings import Settings
from streams.signing import InvalidKey, load_keyring
from streams.tail import PositionAhead

GROUP = b"ingest"
"""The consumer group of every lane."""
CLOCK_MAY_DIFFER = 1.0
"""Seconds between a node's clock and the server's; further ahead, what is signed there is refused."""
STALE_AFTER = 15.0
"""Seconds without a heartbeat after which a node is in trouble."""


def examine(place: Place) -> Iterator[Finding]:
    """Check every part of the station. Raises FolderNeeded, NoStation, InvalidSettings."""
    settings = place.settings().as_role("reader")
    yield ok("folder", str(place.folder()))
    yield from secrets(settings)
    link = connect(settings.redis, "doctor")
    try:
        primaries = _primaries(link)
        for primary in primaries:
            yield redis.redis(primary, settings.redis)
        yield from redis.plaintext(settings.redis)
        if settings.redis.sentinels:
            yield sentinels.sentinels(settings.redis)
            yield from sentinels.promotable(settings.redis)
            yield from sentinels.down_after(settings.redis)
        if settings.redis.cluster:
            yield cluster.cluster(settings.redis)
        for primary in primaries:
            for check in (redis.writes, redis.replicas, redis.functions):
                yield from _where_reachable(check, primary, settings)
        for check in (signer, nodes, control, lanes):
            yield from _where_reachable(check, link, settings)
        yield from projections.projections(place.web(), link, StationKeys(settings.station.id))
    finally:
        link.close()
    yield from postgres.postgres(settings.postgres)
    yield from postgres.hosts(settings.postgres)
    yield from notifications.notifications(settings.postgres, settings.notify)
    yield web(place)
    yield from breakers.noted(place.folder())


def secrets(settings: Settings) -> Iterator[Finding]:
    """Whether the signing key and the token are there and nobody else's to read."""
    try:
        key = own_key(settings)
        yield ok("key", f"{key.id} ({key.algorithm}, role {key.role})")
    except InvalidKey as error:
        yield trouble("key", str(error), "without it no command can be signed here")
    if settings.web.token_file:
        path = Path(settings.web.token_file)
        if not path.exists():
            yield trouble("web token", f"{path} is missing", "restart the station: it makes a new one")
        elif path.stat().st_mode & 0o077:
            yield trouble("web token", f"{path} can be read by others", f"chmod 600 {path}")


def signer(link: Link, settings: Settings) -> Iterator[Finding]:
    """Whether the station takes what is signed here."""
    try:
        key = own_key(settings)
        book = read_book(link, settings.station.id)
        files = load_keyring(Path(settings.keys.directory))
    except (InvalidKey, EventsMissing, PositionAhead, msgspec.MsgspecError):
        return  # told already, or not to be known from here
    known = book.get(key.id)
    if known is not None and known.revoked_at is not None:
        told = f"{key.id} was revoked by {known.revoked_by} at {known.revoked_at:%Y-%m-%d %H:%M:%S} UTC"
        yield trouble("key", told, "name another that is good: keys.sign_with; tocsin key list shows them")
    elif known is None and key.id not in files:
        told = f"the station does not know {key.id}, so it rejects what is signed here"
        yield trouble("key", told, "tocsin key list shows those it knows; keys.sign_with names the one used")


def nodes(link: Link, settings: Settings) -> Iterator[Finding]:
    """Whether each ingest node that owns sources, and this machine's, has been heard lately."""
    wired = {lane.removeprefix("node.") for lane in _lanes(link, settings) if lane.startswith("node.")}
    keys = StationKeys(settings.station.id)
    for node in sorted(wired):
        age = _age(link.call("HGET", keys.node(node), "time"))
        part = f"node {node}"
        if age is None:
            yield trouble(part, "no heartbeat", "start its ingest process; its log says why it ended")
        elif age > STALE_AFTER:
            yield trouble(part, f"last heard {age:.0f} s ago", "look at its ingest process and its log")
        else:
            yield ok(part, f"heard {age:.0f} s ago")
        yield from _clock(link.call("HGET", keys.node(node), "clock"), node)
    yield from breakers.of_nodes(link, keys, sorted(wired))


def _clock(told: Any, node: str) -> Iterator[Finding]:
    """Whether the node's clock, by its heartbeat, is the server's."""
    try:
        ahead = float(told)
    except (TypeError, ValueError):
        return
    if abs(ahead) > CLOCK_MAY_DIFFER:
        how = f"{abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} the Redis primary's"
        yield warning(f"clock {node}", how, "set it by NTP: the node's alerts are dated by it")


def control(link: Link, settings: Settings) -> Iterator[Finding]:
    """Whether a control process owns the station lane."""
    if owner := owner_of(link, StationKeys(settings.station.id).lane(STATION_LANE)):
        yield ok("control", f"node {owner} owns the lane {STATION_LANE!r}")
    else:
        told = f"nobody owns the lane {STATION_LANE!r}: nothing parked can be retried or dropped"
        yield trouble("control", told, "start it (your own station: tocsin up); its log says why it ended")


def lanes(link: Link, settings: Settings) -> Iterator[Finding]:
    """Whether commands wait in a lane that nobody owns."""
    keys = StationKeys(settings.station.id)
    waiting = {lane: waiting_commands(link, keys.lane(lane)) for lane in _lanes(link, settings)}
    for lane, count in waiting.items():
        owned = link.call("EXISTS", keys.lane(lane).lease)
        if count and not owned:
            yield trouble(
                f"lane {lane}",
                f"{count} commands wait and nobody executes them",
                "start the ingest node that owns this lane; commands expire unexecuted otherwise",
            )
        if owned and _group(link, keys.lane(lane)) is None:
            yield warning(f"lane {lane}", FAULTS["NOGROUP"].means, FAULTS["NOGROUP"].next)
    if not any(waiting.values()):
        yield ok("lanes", f"no command waits in any of {len(waiting)} lanes")
    else:
        yield ok("lanes", f"{sum(waiting.values())} commands wait in {len(waiting)} lanes")


def waiting_commands(link: Link, keys: LaneKeys) -> int:
    """How many commands of a lane have no result yet, delivered or not: what has one is deleted.

    What the server says of the group's lag is not asked: after a failover Redis 7.0 counts what is long gone.
    """
    return int(link.call("XLEN", keys.commands))


def _group(link: Link, keys: LaneKeys) -> dict[bytes, Any] | None:
    """What the server says of the lane's consumer group; None where there is none."""
    try:
        groups = link.call("XINFO", "GROUPS", keys.commands)
    except ResponseError:
        return None  # no such stream: nobody has owned this lane or submitted to it
    told = [dict(zip(group[::2], group[1::2], strict=True)) for group in groups]
    return next((one for one in told if one[b"name"] == GROUP), None)


def web(place: Place) -> Finding:
    """Whether the web process answers reads."""
    next = "start it (your own station: tocsin up); its log says why it ended"
    try:
        with ReadApi(place.web(), place.token(os.environ)) as api:
            began = time.monotonic()
            api.get("/api/audio/sources")
            return ok("web", f"{api.url}, read in {time.monotonic() - began:.2f} s")
    except Away as error:
        return trouble("web", str(error), next)


def _primaries(link: Link) -> list[Link]:
    try:
        return link.primaries()
    except Unreachable:
        return [link]


def _where_reachable(
    check: Callable[[Link, Settings], Iterator[Finding]], link: Link, settings: Settings
) -> Iterator[Finding]:
    try:
        yield from check(link, settings)
    except Unreachable:
        return  # told by the check of redis already
    except ResponseError as error:
        yield warning(check.__name__, f"cannot be looked at: {error}", FAULTS["NOPERM"].next)


def _lanes(link: Link, settings: Settings) -> list[str]:
    flat = [text.decode() for text in link.call("HGETALL", StationKeys(settings.station.id).sources)]
    return all_lanes(settings, dict(zip(flat[::2], flat[1::2], strict=True)))


def _age(text: Any) -> float | None:
    try:
        then = datetime.fromisoformat(text.decode())
    except (AttributeError, ValueError, UnicodeDecodeError):
        return None
    return max(0.0, (now() - then.astimezone(UTC)).total_seconds())
