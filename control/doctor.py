"""The doctor's checks: what is so of each part, and what to do about each trouble."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import msgspec
import psycopg
from redis.exceptions import ResponseError

from control.lanes import all_lanes, owner_of
from control.place import Place
from control.readapi import Away, ReadApi
from streams import library, sentinel
from streams.connection import Link, Unreachable, connect
from streams.durability import attached
from streams.messages import now
from streams.names import STATION_LANE, LaneKeys, StationKeys
from streams.server_check import WrongServer, check_server
from streams.settings import Settings
from streams.signing import InvalidKey, load_key

STALE_AFTER = 15.0
"""Seconds without a heartbeat after which a node is in trouble."""
CONNECT_TIMEOUT = 3
"""Seconds."""
OLDEST_POSTGRES = 15

Verdict = Literal["ok", "warning", "trouble"]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One check: the part, the verdict, what is so, and what to do where that is not well."""

    part: str
    verdict: Verdict
    told: str
    next: str = ""


def ok(part: str, told: str) -> Finding:
    """A part that is well."""
    return Finding(part=part, verdict="ok", told=told)


def trouble(part: str, told: str, next: str) -> Finding:
    """A part that is not."""
    return Finding(part=part, verdict="trouble", told=told, next=next)


def examine(place: Place) -> Iterator[Finding]:
    """Check every part of the station. Raises FolderNeeded, NoStation, InvalidSettings."""
    settings = place.settings()
    yield ok("folder", str(place.folder()))
    yield from secrets(settings)
    link = connect(settings.redis, "doctor")
    try:
        yield redis(link)
        if settings.redis.sentinels:
            yield sentinels(settings)
        for check in (replicas, functions, nodes, control, lanes):
            yield from _where_reachable(check, link, settings)
    finally:
        link.close()
    yield postgres(settings)
    yield web(place)


def secrets(settings: Settings) -> Iterator[Finding]:
    """Whether the signing key and the token are there and nobody else's to read."""
    try:
        key = load_key(Path(settings.keys.directory), settings.keys.sign_with)
        yield ok("key", f"{key.id} ({key.algorithm}, role {key.role})")
    except InvalidKey as error:
        yield trouble("key", str(error), "without it no command can be signed here")
    if settings.web.token_file:
        path = Path(settings.web.token_file)
        if not path.exists():
            yield trouble("web token", f"{path} is missing", "restart the station: it makes a new one")
        elif path.stat().st_mode & 0o077:
            yield trouble("web token", f"{path} can be read by others", f"chmod 600 {path}")


def redis(link: Link) -> Finding:
    """Whether the primary answers, and is set up so that promises can hold."""
    try:
        server = check_server(link)
    except Unreachable as error:
        return trouble("redis", error.detail, "start it (your own station: tocsin up), or mend the network")
    except WrongServer as error:
        changes = "; ".join(fault.change for fault in error.faults)
        return trouble("redis", str(error), changes)
    version = ".".join(map(str, server.version))
    return ok("redis", f"primary {link.address}, {server.product} {version}, settings as needed")


def sentinels(settings: Settings) -> Finding:
    """Whether all Sentinels answer and name the same primary."""
    opinions = sentinel.ask(settings.redis)
    configured, needed = len(settings.redis.sentinels), sentinel.majority(settings.redis)
    named = {str(opinion.address) for opinion in opinions}
    told = f"{len(opinions)} of {configured} answer, naming {', '.join(sorted(named)) or 'nobody'}"
    if len(opinions) < needed:
        return trouble("sentinels", told, f"without {needed} of them no primary is found: start them")
    if any(opinion.failing for opinion in opinions) or len(named) > 1:
        return Finding(
            part="sentinels",
            verdict="warning",
            told=told,
            next="a failover is in progress: look again in ten seconds",
        )
    if len(opinions) < configured:
        return Finding(
            part="sentinels",
            verdict="warning",
            told=told,
            next="start those missing: one more lost is too many",
        )
    return ok("sentinels", told)


def replicas(link: Link, settings: Settings) -> Iterator[Finding]:
    """Whether all replicas that the settings speak of are attached."""
    wanted = settings.redis.replicas
    if not wanted:
        return
    found = len(attached(link).replicas)
    told = f"{found} of {wanted} attached"
    if found >= wanted:
        yield ok("replicas", told)
    elif found:
        yield Finding(
            part="replicas", verdict="warning", told=told, next="start the missing one: commands take longer"
        )
    else:
        yield trouble("replicas", told, "the primary takes no writes without one: start the replicas")


def functions(link: Link, _: Settings) -> Iterator[Finding]:
    """Whether the server-side functions are those of this version."""
    loaded, ours = library.loaded_version(link), library.version()
    if loaded == ours:
        yield ok("functions", f"library {library.NAME}, version {ours}")
    elif loaded is None:
        yield trouble("functions", "not loaded", "start an ingest node: it loads them")
    else:
        yield trouble(
            "functions",
            f"version {loaded}, this tool has {ours}",
            "run the same version of Tocsin everywhere, then restart the ingest nodes",
        )


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
        if count and not link.call("EXISTS", keys.lane(lane).lease):
            yield trouble(
                f"lane {lane}",
                f"{count} commands wait and nobody executes them",
                "start the ingest node that owns this lane; commands expire unexecuted otherwise",
            )
    if not any(waiting.values()):
        yield ok("lanes", f"no command waits in any of {len(waiting)} lanes")
    else:
        yield ok("lanes", f"{sum(waiting.values())} commands wait in {len(waiting)} lanes")


def waiting_commands(link: Link, keys: LaneKeys) -> int:
    """How many commands of a lane have no result yet, delivered or not."""
    try:
        groups = link.call("XINFO", "GROUPS", keys.commands)
    except ResponseError:
        return 0  # no such stream: nothing was ever submitted to this lane
    if not groups:
        return int(link.call("XLEN", keys.commands))
    facts = dict(zip(groups[0][::2], groups[0][1::2], strict=True))
    return int(facts[b"pending"]) + int(facts.get(b"lag") or 0)


def postgres(settings: Settings) -> Finding:
    """Whether PostgreSQL answers, and is new enough."""
    part = "postgres"
    try:
        with psycopg.connect(
            settings.postgres.url,
            password=settings.postgres.password or None,
            connect_timeout=CONNECT_TIMEOUT,
        ) as connection:
            version = connection.info.server_version // 10000
            connection.execute("SELECT 1")
    except psycopg.Error as error:
        told = str(error).strip().splitlines()
        return trouble(
            part, told[0] if told else "no answer", "start it; until then the pages show what was last known"
        )
    if version < OLDEST_POSTGRES:
        return trouble(part, f"version {version}", f"upgrade it to {OLDEST_POSTGRES} or newer")
    return ok(part, f"version {version}")


def web(place: Place) -> Finding:
    """Whether the web process answers reads."""
    next = "start it (your own station: tocsin up); its log says why it ended"
    try:
        with ReadApi(place.web()) as api:
            began = time.monotonic()
            api.get("/api/audio/sources")
            return ok("web", f"{api.url}, read in {time.monotonic() - began:.2f} s")
    except Away as error:
        return trouble("web", str(error), next)


def _where_reachable(
    check: Callable[[Link, Settings], Iterator[Finding]], link: Link, settings: Settings
) -> Iterator[Finding]:
    try:
        yield from check(link, settings)
    except Unreachable:
        return  # told by the check of redis already


def _lanes(link: Link, settings: Settings) -> list[str]:
    flat = [text.decode() for text in link.call("HGETALL", StationKeys(settings.station.id).sources)]
    return all_lanes(settings, dict(zip(flat[::2], flat[1::2], strict=True)))


def _age(text: Any) -> float | None:
    try:
        then = datetime.fromisoformat(text.decode())
    except (AttributeError, ValueError, UnicodeDecodeError):
        return None
    return max(0.0, (now() - then.astimezone(UTC)).total_seconds())
