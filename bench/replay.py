"""What history costs once it is archived: `python -m bench replay`.

Verifying and folding events of the archive, as ratios to a bare read of the same events decoded with
msgspec; the read model as it was at random points of a long lane; the memory that all of it takes, by the
length of a lane; and the rebuild of all that is there.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import structlog
from rich.console import Console
from rich.table import Table
from sqlalchemy import text

from bench.archive import database
from bench.ledger import Wrong, archive, draft, linked
from bench.report import circumstances, document, tell_only_errors, write
from bench.stage import servers
from control.station.folder import Folder
from projections import rebuilds
from projections.archive_reader import ArchiveReader
from projections.database import open_engine
from projections.fold_snapshots import Snapshots
from projections.folding import Batch, concerning, fold_some
from projections.lookback import Lookback
from projections.past import Past, fold
from projections.projection import ALL, COMMANDS
from projections.rebuild import Rebuilder
from projections.schema import migrate
from streams.audit import verify
from streams.connection import connect
from streams.drafts import Draft
from streams.durability import replication_id
from streams.history import history, replayed
from streams.library import load_library
from streams.messages import Event, Logged
from streams.names import StationKeys
from streams.settings import Settings, load
from streams.tail import START, Position

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
EVERY = timedelta(seconds=1)
"""Between two events of a log: a million of them are eleven days."""
SOURCES = 64
PAGE = 2000
"""Events that a bare read asks for at once, as the archive's reader does."""
BATCH = 500
"""Events folded at once, as a runner does."""
LENGTHS = (10_000, 100_000, 1_000_000, 10_000_000)
TARGET = 0.5
WITHIN = 1.0
"""Seconds for the read model at any point."""
FLAT = 1.10
"""Memory at the longest lane over that at the shortest: more than this is not flat."""


def events(count: int) -> Iterator[Logged]:
    """A lane's log from its first event on: its sources, then half results of commands, half facts."""
    return linked(map(_draft, range(1, count + 1)), BEGAN, EVERY)


def _draft(seq: int) -> Draft:
    if seq > SOURCES:
        return draft(seq, f"019a0000-0000-7000-8000-{seq:012x}")
    data = {"name": f"Receiver {seq}", "settings": {"kind": "stream", "url": f"http://radio/{seq}"}}
    return Draft(type="source.added", source=f"bench-{seq - 1}", data=data)


def lane_of(length: int) -> str:
    """The floating lane that holds so many events."""
    return f"p{LENGTHS.index(length) if length in LENGTHS else len(LENGTHS)}"


def fill(settings: Settings, lengths: Sequence[int]) -> None:
    """Archive a lane of each length, with its fold snapshots, as the projections process does."""
    engine = open_engine(settings.postgres, name="fill")
    migrate(engine)
    link = connect(settings.redis, "bench-replay")
    load_library(link)
    replid = replication_id(link)
    for length in lengths:
        print(f"archiving a lane of {length:,} events", file=sys.stderr)
        at = archive(engine, lane_of(length), events(length))
        # All of it is trimmed from Redis: the lane's head is what is left there.
        mark = ("wm_seq", at.seq, "wm_hash", at.hash, "wm_token", 1, "wm_replid", replid)
        keys = StationKeys(settings.station.id).lane(lane_of(length))
        link.call("HSET", keys.head, "seq", at.seq, "hash", at.hash, "token", 1, "tokens", 1, *mark)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("SET statement_timeout = 0"))
        connection.execute(text("VACUUM ANALYZE archive"))
    engine.dispose()
    link.close()
    print("making fold snapshots", file=sys.stderr)
    snapshots = Snapshots(settings.postgres)
    for length in lengths:
        snapshots.go_on(lane_of(length), START, Past(), length)
    snapshots.close()


def bare(settings: Settings, lane: str) -> int:
    """Read a lane's archive with nothing but psycopg and msgspec."""
    decode = msgspec.json.Decoder(Event).decode
    count = 0
    with psycopg.connect(settings.postgres.url, password=settings.postgres.password) as connection:
        while rows := connection.execute(
            "SELECT raw, hash FROM archive WHERE lane = %s AND seq > %s AND seq <= %s ORDER BY seq",
            (lane, count, count + PAGE),
            binary=True,
        ).fetchall():
            for raw, _ in rows:
                decode(raw)
            count += len(rows)
    return count


def verified(settings: Settings, lane: str) -> int:
    """Verify it, as `audit verify --no-signatures` does."""
    link = connect(settings.redis, "bench-verify")
    keys = StationKeys(settings.station.id).lane(lane)
    seq, stated = link.call("HMGET", keys.head, "seq", "hash")
    head = Position(int(seq), stated.decode())
    archive = ArchiveReader(settings.postgres)
    verdict = verify(lane, history(link, keys, archive, upto=head.seq), head)
    link.close()
    if verdict.fault:
        raise Wrong(f"lane {lane}: event {verdict.fault.seq}: {verdict.fault.problem}")
    return verdict.events


def folded(settings: Settings, lane: str) -> int:
    """Fold it by the folds of all projections, rows that only Postgres would keep left out."""
    link = connect(settings.redis, "bench-fold")
    keys = StationKeys(settings.station.id).lane(lane)
    log = replayed(link, keys, ArchiveReader(settings.postgres))
    rows: dict[str, dict[str, Any]] = {projection.name: {} for projection in ALL}
    count = results = 0
    while events := list(islice(log, BATCH)):
        batch = Batch(events)
        for projection in ALL:
            found = concerning(projection, batch)
            if not found:
                continue
            known = rows[projection.name]
            ids = {key for key, _, _ in found if key is not None}
            before = {id: known[id] for id in ids if id in known}
            after = fold_some(projection, before, found, {}, "stop")
            if after.stopped:
                raise Wrong(f"{projection.name}: event {after.stopped.seq}: {after.stopped.error}")
            if projection is COMMANDS:
                results += len(after.rows)
            else:
                known.update((id, after.rows[id]) for id in ids)
        count += len(events)
    link.close()
    if results != count // 2 - SOURCES // 2 or len(rows["sources"]) != SOURCES:
        raise Wrong(f"lane {lane}: {results} commands and {len(rows['sources'])} sources came of {count}")
    return count


def past(settings: Settings, lane: str) -> int:
    """Fold it into the read model of the past, from its first event on."""
    link = connect(settings.redis, "bench-past")
    keys = StationKeys(settings.station.id).lane(lane)
    found, count = Past(), 0
    for logged in replayed(link, keys, ArchiveReader(settings.postgres)):
        fold(found, logged)
        count += 1
    link.close()
    if len(found.sources) != SOURCES:
        raise Wrong(f"lane {lane}: {len(found.sources)} sources")
    return count


def rebuilt(settings: Settings, lane: str) -> int:
    """Rebuild all projections of all lanes; `lane` stands for none."""
    engine = open_engine(settings.postgres, name="rebuild")
    with engine.begin() as connection:
        for projection in ALL:
            rebuilds.want(connection, projection, again=True)
    Rebuilder(engine, threading.Event()).look()
    with engine.connect() as connection:
        states = {one.state for one in rebuilds.listed(connection)}
        summed = text("SELECT sum(seq) FROM positions WHERE projection = 'commands'")
        count = int(connection.execute(summed).scalar_one())
    engine.dispose()
    if states != {"done"}:
        raise Wrong(f"the rebuilds are {', '.join(sorted(states))}")
    return count


WORK: dict[str, Callable[[Settings, str], int]] = {
    "read": bare,
    "verify": verified,
    "fold": folded,
    "past": past,
    "rebuild": rebuilt,
}


def here(work: str, path: Path, lane: str) -> None:
    """The body of a process that does one thing: events per second, and its peak memory in MiB."""
    settings = load(path, {})
    started = time.perf_counter()
    count = WORK[work](settings, lane)
    seconds = time.perf_counter() - started
    peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
    told = {"events": count, "seconds": round(seconds, 2), "per_second": round(count / seconds)}
    print(json.dumps(told | {"mib": round(peak, 1)}))


def alone(work: str, path: Path, lane: str = "") -> dict[str, float]:
    """Do it in a process of its own."""
    argv = (sys.executable, "-m", "bench.replay", "--alone", work, str(path), lane)
    said = subprocess.run(argv, check=True, stdout=subprocess.PIPE).stdout
    found: dict[str, float] = json.loads(said.splitlines()[-1])
    print(work, lane, found, file=sys.stderr)
    return found


def compared(settings: Settings, lane: str, rounds: int) -> list[dict[str, float]]:
    """Events per second of each way, in turns; each round begins with another one."""
    ways = ["read", "verify", "fold", "past"]
    found: list[dict[str, float]] = []
    for number in range(rounds):
        figures = {}
        for way in ways[number % 4 :] + ways[: number % 4]:
            started = time.perf_counter()
            count = WORK[way](settings, lane)
            figures[way] = count / (time.perf_counter() - started)
        found.append(figures)
        print(f"round {number + 1}", {way: round(each) for way, each in figures.items()}, file=sys.stderr)
    return found


def looked_back(settings: Settings, length: int, points: int) -> dict[str, float]:
    """Seconds until the read model at random points is known: by event and by time, in turns."""
    chance, lane, seconds = random.Random(length), lane_of(length), []
    for number in range(points):
        seq = chance.randint(SOURCES, length)
        started = time.perf_counter()
        with Lookback(settings.postgres, lambda lane, after: iter(())) as back:
            if number % 2:
                state = back.state([lane], lane=lane, seq=seq)
            else:
                state = back.state([lane], at=BEGAN + seq * EVERY)
        seconds.append(time.perf_counter() - started)
        if state is None or state["lanes"][lane]["seq"] != seq or len(state["sources"]) % SOURCES:
            raise Wrong(f"the state at {lane}:{seq} is not that")
    return {"median": statistics.median(seconds), "longest": max(seconds)}


def commanded(folder: Folder, length: int, points: int) -> dict[str, float]:
    """The same by `tocsin audit state --at`, from its start to its end."""
    chance, seconds = random.Random(length + 1), []
    for _ in range(points):
        at = f"{lane_of(length)}:{chance.randint(SOURCES, length)}"
        argv = ("audit", "state", "--at", at, "--json", "--station", str(folder.path))
        started = time.perf_counter()
        subprocess.run(
            (sys.executable, "-m", "control.composition", *argv), check=True, stdout=subprocess.DEVNULL
        )
        seconds.append(time.perf_counter() - started)
    return {"median": statistics.median(seconds), "longest": max(seconds)}


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """All of it, one after the other. Raises Wrong."""
    lengths = [length for length in LENGTHS if length <= options.longest]
    result: dict[str, Any] = {"rounds": options.rounds, "events": options.events, "targets": {}}
    with servers(folder / "station", replicas=0) as (place, _), database(place):
        settings = load(place.settings, {})
        link = connect(settings.redis, "bench-replay")
        result["circumstances"] = circumstances(link)
        link.close()
        fill(settings, sorted({*lengths, options.events}))
        rounds = compared(settings, lane_of(options.events), options.rounds)
        result["measured"] = rounds
        result["per_second"] = {
            way: round(statistics.median(each[way] for each in rounds)) for way in rounds[0]
        }
        result["ratios"] = {
            f"{way} ÷ read": round(statistics.median(each[way] / each["read"] for each in rounds), 3)
            for way in ("verify", "fold", "past")
        }
        result["state"] = {str(length): looked_back(settings, length, options.points) for length in lengths}
        print(result["state"], file=sys.stderr)
        result["audit_state"] = {str(length): commanded(place, length, 5) for length in lengths}
        print(result["audit_state"], file=sys.stderr)
        result["alone"] = {
            way: {str(length): alone(way, place.settings, lane_of(length)) for length in lengths}
            for way in ("read", "verify", "fold", "past")
        }
        result["rebuild"] = alone("rebuild", place.settings)
    return result


def missed(result: dict[str, Any]) -> list[str]:
    """The targets that a run did not reach, in words."""
    found = [
        f"{name}: {value:.2f}, not {TARGET}" for name, value in result["ratios"].items() if value < TARGET
    ]
    for length, each in result["state"].items():
        if each["longest"] > WITHIN:
            found.append(f"the state at a point of {int(length):,} events took {each['longest']:.2f} s")
    for way, by_length in result["alone"].items():
        peaks = [each["mib"] for each in by_length.values()]
        if peaks[-1] > peaks[0] * FLAT:
            found.append(f"{way}: more memory for a longer lane: {peaks} MiB")
    return found


def rows(result: dict[str, Any]) -> list[tuple[str, str]]:
    """The figures, a row each."""
    told = [(f"{name}, events per second", f"{value:,}") for name, value in result["per_second"].items()]
    told += [(f"**{name}**", f"**{value:.2f}**") for name, value in result["ratios"].items()]
    for name, what in (("state", "the state at a random point of"), ("audit_state", "`audit state` of")):
        for length, each in result[name].items():
            figures = f"{each['median']:.2f} s, at most {each['longest']:.2f} s"
            told.append((f"{what} {int(length):,} events", figures))
    for way, by_length in result["alone"].items():
        peaks = " · ".join(f"{each['mib']:.0f}" for each in by_length.values())
        lengths = " · ".join(f"{int(length):,}" for length in by_length)
        told.append((f"{way}, peak MiB over {lengths} events", peaks))
    again = result["rebuild"]
    figures = f"{again['seconds']:,.0f} s, {again['per_second']:,} per second, peak {again['mib']:.0f} MiB"
    told.append((f"rebuild of all {again['events']:,} events", figures))
    return told


def main(arguments: Sequence[str]) -> int:
    """Measure, show, and write the results; 1 where a run failed or a target was missed."""
    parser = argparse.ArgumentParser(prog="bench replay", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--events", type=int, default=100_000, help="per turn of reading, verifying, folding")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--points", type=int, default=40, help="random points of each lane")
    parser.add_argument(
        "--longest", type=int, default=1_000_000, help="the longest lane; 10000000 takes long"
    )
    parser.add_argument("--quick", action="store_true", help="one round, lanes up to 100,000 events")
    parser.add_argument("--reference", action="store_true", help="write the table into docs/performance.md")
    options = parser.parse_args(arguments)
    if options.quick:
        options.events, options.rounds, options.points, options.longest = 20_000, 1, 10, 100_000
    tell_only_errors()
    with tempfile.TemporaryDirectory(prefix="tocsin-bench-") as folder:
        try:
            result = measure(Path(folder), options)
        except Wrong as error:
            print(f"bench replay: {error}", file=sys.stderr)
            return 1
    table = Table("", "", title="History")
    for name, value in rows(result):
        table.add_row(name.replace("*", ""), value.replace("*", ""))
    Console().print(table)
    print(f"written to {write('replay', result, reference=options.reference)}")
    if options.reference:
        document("replay", result, ("", "measured"), rows(result))
    for one in missed(result):
        print(f"missed: {one}", file=sys.stderr)
    return int(bool(missed(result)))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--alone"]:
        structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
        here(sys.argv[2], Path(sys.argv[3]), sys.argv[4])
    else:
        sys.exit(main(sys.argv[1:]))
