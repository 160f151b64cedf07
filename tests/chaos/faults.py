"""What is done to a station: each fault a name, and a function that does it and undoes it.

A fault gets the station and a draw of chance and blocks until it is undone; what it returns is noted. What is
cut off is a host: a Redis goes with the Sentinel of its number.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from control.guard import replication
from control.guard.remote import Remote
from streams.connection import Unreachable
from streams.names import lane_for
from tests.chaos.station import POSTGRES, RADIO, NotReady, Station

REDIS = ("redis-1", "redis-2", "redis-3")
SENTINELS = ("sentinel-1", "sentinel-2", "sentinel-3")
NODES = ("ingest-1", "ingest-2")
WORKERS = ("projections-1", "projections-2", "control-1", "control-2", "web-1", "web-2")
OPERATORS = ("operator-1", "operator-2")

PAST_LEASE = 13.5
"""Seconds after which others own what a node owned (`streams.lease.LENGTH` is 12)."""

Do = Callable[[Station, random.Random], str]
Pick = Callable[[Station, random.Random], str]


@dataclass(frozen=True)
class Fault:
    """A fault by name; `fails_over` where another primary is expected afterwards."""

    name: str
    do: Do
    fails_over: bool = False


def host(redis: str) -> tuple[str, str]:
    """A Redis, and the Sentinel beside it."""
    return redis, redis.replace("redis", "sentinel")


def primary(station: Station) -> str:
    """Who leads; waits until somebody does."""
    station.wait("a primary", lambda: station.primary() is not None)
    return station.primary() or REDIS[0]


def replicas(station: Station) -> list[str]:
    """The others."""
    leads = primary(station)
    return [name for name in REDIS if name != leads]


def others(station: Station, names: Iterable[str]) -> list[str]:
    """Every container but these."""
    return [name for name in station.stage.containers if name not in set(names)]


def cut_off(station: Station, names: Iterable[str], seconds: float, *, both_ways: bool = True) -> None:
    """Cut these off from all others for so long."""
    inside = list(names)
    outside = others(station, inside)
    station.stage.cut(inside, outside, both_ways=both_ways)
    time.sleep(seconds)
    station.stage.mend(inside, outside)


def kill(pick: Pick) -> Do:
    """SIGKILL a container; its engine starts it again."""

    def do(station: Station, draw: random.Random) -> str:
        name = pick(station, draw)
        station.struck = time.monotonic()
        station.stage.kill(name)
        return name

    return do


def pause(pick: Pick, least: float, most: float) -> Do:
    """SIGSTOP a container, and SIGCONT it after a while."""

    def do(station: Station, draw: random.Random) -> str:
        name, seconds = pick(station, draw), draw.uniform(least, most)
        station.stage.pause(name)
        time.sleep(seconds)
        station.stage.resume(name)
        return f"{name} for {seconds:.1f} s"

    return do


def restart(pick: Pick) -> Do:
    """End a container in order, and start it again."""

    def do(station: Station, draw: random.Random) -> str:
        name = pick(station, draw)
        station.stage.restart(name)
        return name

    return do


def isolate(pick: Pick, least: float, most: float, *, one_way: bool = False) -> Do:
    """Cut a host, or a container, off from all others for a while; or let it only hear, not be heard."""

    def do(station: Station, draw: random.Random) -> str:
        name, seconds = pick(station, draw), draw.uniform(least, most)
        cut_off(station, host(name) if name in REDIS else (name,), seconds, both_ways=not one_way)
        return f"{name} for {seconds:.1f} s"

    return do


def part(pick: Pick, other: Pick, *, one_way: bool = False) -> Do:
    """Cut two containers off from one another, and from nobody else; or let only the first not be heard."""

    def do(station: Station, draw: random.Random) -> str:
        here, there, seconds = pick(station, draw), other(station, draw), draw.uniform(3, 10)
        station.stage.cut([here], [there], both_ways=not one_way)
        time.sleep(seconds)
        station.stage.mend([here], [there])
        return f"{here} from {there} for {seconds:.1f} s"

    return do


def island(station: Station, draw: random.Random) -> str:
    """The primary with one replica, an operator, a node and no Sentinel, cut off from all else."""
    leads, spare = primary(station), draw.choice(replicas(station))
    inside = (leads, spare, draw.choice(OPERATORS), draw.choice(NODES))
    seconds = draw.uniform(6, 14)
    cut_off(station, inside, seconds)
    return f"{', '.join(inside)} for {seconds:.1f} s"


def resume_after_promotion(seconds: float) -> Do:
    """The primary hangs; it goes on so long after another was promoted."""

    def do(station: Station, draw: random.Random) -> str:
        leads = primary(station)
        station.stage.pause(leads)
        try:
            station.wait(
                "another primary", lambda: any(_leads(station, name) for name in REDIS if name != leads), 30
            )
            time.sleep(seconds)
        finally:
            station.stage.resume(leads)
        return f"{leads}, {seconds} s after the promotion"

    return do


def _leads(station: Station, name: str) -> bool:
    said = replication.standing(station.remote(name))
    return said is not None and said.role == "master"


def kill_the_next(station: Station, draw: random.Random) -> str:
    """The old primary comes back and is demoted; the new one is killed before it has re-synchronised."""
    first = primary(station)
    station.stage.kill(first)
    station.wait("another primary", lambda: station.primary() not in (None, first), 30)
    second = primary(station)
    began = station.stage.containers[first].starts
    station.wait("the old one started again", lambda: station.stage.containers[first].starts > began
                 or bool(station.stage.containers[first].processes()), 20)  # fmt: skip
    station.stage.kill(second)
    return f"{first}, then {second}"


def shortened(station: Station, draw: random.Random) -> str:
    """The server alone dies and loses the end of its append-only file; its guard is there to start it."""
    leads = primary(station)
    (path,) = (station.deployment / "data" / leads / "appendonlydir").glob("*.incr.aof")
    short = path.stat().st_size
    time.sleep(1.5)
    for process in station.stage.containers[leads].processes():
        if process.name() in ("redis-server", "valkey-server"):
            process.kill()
            process.wait(5)
    lost = path.stat().st_size - short
    with path.open("r+b") as file:
        file.truncate(short)
    return f"{leads}, {lost} bytes"


def switch_over(form: str) -> Do:
    """`SENTINEL FAILOVER`, by hand."""

    def do(station: Station, draw: random.Random) -> str:
        leads = primary(station)

        def asked() -> bool:
            try:
                sentinel = Remote((draw.choice(SENTINELS), 26379), station.settings().redis)
                sentinel.call("SENTINEL", "FAILOVER", "tocsin", *([form] if form else []))
            except Exception:  # an election is still going on: asked again
                return False
            return True

        station.wait("a switch-over begun", asked, 30)
        station.wait("another primary", lambda: station.primary() not in (None, leads), 30)
        return leads

    return do


def promote_postgres(station: Station, draw: random.Random) -> str:
    """Postgres' primary is killed and kept off; the other is promoted, and then the first started."""
    leads = postgres_primary(station)
    (follows,) = (name for name in POSTGRES if name != leads)
    station.stage.kill(leads, again=False)
    time.sleep(draw.uniform(0, 2))
    station.stage.execute(follows, "pg_ctl", "promote", "-D", "/data/main")
    station.wait("the standby leads", lambda: postgres_primary(station) == follows, 30)
    time.sleep(draw.uniform(0, 2))
    station.stage.start(leads)
    return f"{leads}, then {follows} leads"


def postgres_primary(station: Station) -> str:
    """Which of the two leads; the first where none says so."""
    return station.leading_postgres() or POSTGRES[0]


def after_a_trim(station: Station, draw: random.Random) -> str:
    """The same, at the moment at which Redis has let go of events that Postgres alone has then."""
    before = station.oldest()
    station.wait("a trim", lambda: station.oldest() != before, 90, every=0.05)
    return promote_postgres(station, draw)


def drill(station: Station, draw: random.Random) -> str:
    """`tocsin drill failover`: the switch-over that the documentation asks for."""
    code, said = station.cli("drill", "failover", within=150)
    if code:
        raise NotReady(f"tocsin drill failover: {said.strip()}")
    return " ".join(said.split())


def stop_between(station: Station, draw: random.Random) -> str:
    """An owner stops itself once WAIT has answered, before the watermark says so; others get its lanes."""
    name = draw.choice(NODES)
    station.put(name, "stop-at", "proven")
    station.wait(f"{name} stopped", lambda: station.stopped(name), 30)
    time.sleep(PAST_LEASE)
    station.stage.resume(name)
    return f"{name} for {PAST_LEASE} s"


def spool_moves(station: Station, draw: random.Random) -> str:
    """The node that listens to the radio hears on, cut off from all else, until another has its lane."""
    lane = lane_for("stream", RADIO, node="", lane_count=station.settings().station.lanes)

    def owner() -> str | None:
        try:
            return station.owner(lane, NODES)
        except Unreachable:
            return None

    station.wait("an owner of the radio's lane", lambda: owner() is not None)
    was = owner() or NODES[0]
    outside = [name for name in others(station, [was]) if name != RADIO]
    spool = station.deployment / "data" / was / "spool" / lane
    station.stage.cut([was], outside)
    try:
        station.wait("another owner", lambda: owner() not in (None, was), 60)
        # Kept when the lane was another's already.
        before = {path.name for path in spool.glob("*.json")}
        station.wait("something heard meanwhile", lambda: bool(_new(spool, before)), 90)
        names = _new(spool, before)
        kept = [json.loads((spool / name).read_text()) for name in names]
    finally:
        station.stage.mend([was], outside)
    station.spooled += [f"{lane} {one['node']}/{one['boot']}/{one['counter']}" for one in kept]
    station.wait("an empty spool", lambda: not any((spool / name).exists() for name in names), 120)
    return f"{was}, lane {lane}, {len(kept)} facts heard while it was another's"


def _new(spool: Path, before: set[str]) -> list[str]:
    return [path.name for path in spool.glob("*.json") if path.name not in before]


def jump(station: Station, draw: random.Random) -> str:
    """The clock of a node jumps, by up to an hour either way, and back after a while."""
    seconds = draw.choice((-3600, -30, -2, 2, 30, 3600))
    station.set_clock("ingest-2", seconds)
    time.sleep(draw.uniform(4, 8))
    station.set_clock("ingest-2", 0)
    return f"ingest-2 by {seconds} s"


def full_disk(station: Station, draw: random.Random) -> str:
    """The disk of a replica is full for a while."""
    name = station.small_disk
    path = station.deployment / "data" / name / "filler"
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * (1 << 16))
        except OSError:
            pass
    seconds = draw.uniform(5, 10)
    time.sleep(seconds)
    path.unlink()
    return f"{name} for {seconds:.1f} s"


def slow(station: Station, draw: random.Random) -> str:
    """What a replica sends goes through a narrow line for a while."""
    name, seconds = draw.choice(replicas(station)), draw.uniform(5, 10)
    station.stage.slow(name, "256kbit")
    time.sleep(seconds)
    station.stage.slow(name, None)
    return f"{name} at 256 kbit/s for {seconds:.1f} s"


def rolling(station: Station, draw: random.Random) -> str:
    """Everything is restarted in order, one after the other, the primary last."""
    (standby,) = (name for name in POSTGRES if name != postgres_primary(station))
    names = [*WORKERS, *NODES, *SENTINELS, *replicas(station), "front", standby, postgres_primary(station)]
    for name in names:
        station.stage.restart(name)
        station.whole(60)
    station.stage.restart(primary(station))
    return f"{len(names) + 1} containers"


def both(one: Do, other: Do) -> Do:
    """Two faults at once."""

    def do(station: Station, draw: random.Random) -> str:
        said: list[str] = []
        second = threading.Thread(target=lambda: said.append(other(station, draw)))
        second.start()
        said.append(one(station, draw))
        second.join()
        return " and ".join(said)

    return do


def _any(names: tuple[str, ...]) -> Callable[[Station, random.Random], str]:
    return lambda station, draw: draw.choice(names)


def _primary(station: Station, draw: random.Random) -> str:
    return primary(station)


def _replica(station: Station, draw: random.Random) -> str:
    return draw.choice(replicas(station))


def _leading_postgres(station: Station, draw: random.Random) -> str:
    return postgres_primary(station)


KILL_PRIMARY = Fault("kill the primary", kill(_primary), fails_over=True)
PLAYED_BY_CHANCE: tuple[tuple[int, Fault], ...] = (
    (8, KILL_PRIMARY),
    (4, Fault("pause the primary", pause(_primary, 3, 9), fails_over=True)),
    (4, Fault("isolate the primary's host", isolate(_primary, 4, 12), fails_over=True)),
    (2, Fault("the primary is not heard", isolate(_primary, 4, 10, one_way=True), fails_over=True)),
    (2, Fault("restart the primary", restart(_primary), fails_over=True)),
    (2, Fault("primary, replica, operator and node on an island", island, fails_over=True)),
    (2, Fault("kill a replica", kill(_replica))),
    (1, Fault("pause a replica", pause(_replica, 1, 6))),
    (1, Fault("isolate a replica's host", isolate(_replica, 2, 8))),
    (1, Fault("kill a Sentinel", kill(_any(SENTINELS)))),
    (1, Fault("pause a Sentinel", pause(_any(SENTINELS), 2, 8))),
    (2, Fault("kill a node", kill(_any(NODES)))),
    (2, Fault("pause a node", pause(_any(NODES), 2, 16))),
    (2, Fault("isolate a node", isolate(_any(NODES), 2, 16))),
    (2, Fault("kill a worker", kill(_any(WORKERS)))),
    (1, Fault("pause a worker", pause(_any(WORKERS), 2, 8))),
    (1, Fault("isolate a worker", isolate(_any(WORKERS), 2, 8))),
    (1, Fault("isolate an operator", isolate(_any(OPERATORS), 2, 8))),
    (2, Fault("kill Postgres' primary", kill(_leading_postgres))),
    (1, Fault("pause Postgres' primary", pause(_leading_postgres, 2, 8))),
    (1, Fault("isolate a Postgres", isolate(_any(POSTGRES), 2, 8))),
    (1, Fault("promote Postgres' standby", promote_postgres)),
    (1, Fault("a clock jumps", jump)),
    (1, Fault("a slow link", slow)),
    (1, Fault("a full disk", full_disk)),
    (1, Fault("a node cut off from the primary alone", part(_any(NODES), _primary))),
    (1, Fault("the primary does not hear a replica", part(_replica, _primary, one_way=True))),
    (2, Fault("kill primary and node", both(kill(_primary), kill(_any(NODES))), fails_over=True)),
    (1, Fault("kill primary and Postgres", both(kill(_primary), kill(_leading_postgres)), fails_over=True)),
    (1, Fault("kill primary and a worker", both(kill(_primary), kill(_any(WORKERS))), fails_over=True)),
)  # fmt: skip
FIXED: tuple[Fault, ...] = (
    *(
        Fault(f"primary resumed {after} s after a promotion", resume_after_promotion(after), fails_over=True)
        for after in (0, 0.3, 0.8, 1.5)
    ),
    Fault("primary, one replica, owner and submitter cut off together", island, fails_over=True),
    Fault("new primary killed before the old has re-synchronised", kill_the_next, fails_over=True),
    Fault("primary back at once on a shortened log", shortened, fails_over=True),
    Fault("replica lost under load", kill(_replica)),
    Fault("owner paused beyond its lease", pause(_any(NODES), 13, 15)),
    Fault("owner paused between WAIT and watermark", stop_between),
    Fault("switch-over by hand, the plain form", switch_over(""), fails_over=True),
    Fault("switch-over by hand, by tocsin drill failover", drill, fails_over=True),
    Fault("Postgres' primary lost, its standby promoted", promote_postgres),
    Fault("Postgres' primary killed right after a trim", after_a_trim),
    Fault("spool replayed after the lane has moved", spool_moves),
    Fault("a full disk", full_disk),
    Fault("everything restarted in turn", rolling, fails_over=True),
)
"""For the windows of a second that chance misses; what naive clients lost is in docs/survival.md."""


def by_chance(draw: random.Random) -> Iterator[Fault]:
    """Faults for ever: first each once, in an order by chance, then by their weights."""
    faults = [fault for _, fault in PLAYED_BY_CHANCE]
    yield from draw.sample(faults, len(faults))
    while True:
        yield draw.choices(faults, [weight for weight, _ in PLAYED_BY_CHANCE])[0]
