"""What folding events into Postgres costs: `python -m bench projections`.

Beside a raw COPY of the very rows that came of it, and beside the eventsourcing library's own saving; how
long an event takes until its row is seen; and the rebuild of a long archive, with its memory.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, func, select

from bench.ledger import archive, draft, linked
from bench.report import circumstances, document, tell_only_errors, write
from bench.stage import servers
from control.station import postgres as pg
from control.station.ports import free_port
from control.station.process import end
from projections import rebuilds
from projections.database import open_engine
from projections.projection import ALL
from projections.rebuild import Rebuilder
from projections.runner import Runner
from projections.schema import migrate
from projections.tables import commands
from streams.connection import Link, connect
from streams.durability import replication_id
from streams.library import load_library
from streams.messages import Logged, now
from streams.names import StationKeys
from streams.settings import PostgresSection, load

PASSWORD = "bench"
LANE = "p0"
PEER = Path(".venv-bench/bin/python")


@contextmanager
def database(folder: Path) -> Iterator[PostgresSection]:
    """A PostgreSQL server as a station runs it, waiting for the disk."""
    place = pg.Database(folder / "postgres", folder / "postgres.log", free_port())
    pg.create(place, PASSWORD)
    process, launch = pg.start(place)
    try:
        yield PostgresSection(url=place.url, password=PASSWORD)
    finally:
        end(process, launch, hurry=True)


def results(count: int) -> Iterator[Logged]:
    """A log of which every event is a command's result, and so makes a row of its own."""
    return linked(
        (draft(2 * seq, f"019a0000-0000-7000-8000-{seq:012x}") for seq in range(1, count + 1)), now()
    )


def rebuild(engine: Engine, count: int) -> float:
    """Seconds that a rebuild of all projections takes."""
    with engine.begin() as connection:
        for projection in ALL:
            rebuilds.want(connection, projection, again=True)
    started = time.perf_counter()
    Rebuilder(engine, threading.Event()).look()
    seconds = time.perf_counter() - started
    with engine.connect() as connection:
        found = connection.execute(select(func.count()).select_from(commands)).scalar_one()
    if found != count:
        raise SystemExit(f"{found} rows came of {count} results")
    return seconds


def raw_copy(engine: Engine, count: int) -> float:
    """Seconds that COPY takes for the same rows, whose bytes are ready, into the same emptied table."""
    with engine.connect() as connection:
        wire = connection.connection.driver_connection
        assert wire is not None
        with wire.cursor() as cursor:
            with cursor.copy("COPY commands TO STDOUT (FORMAT BINARY)") as out:
                kept = [bytes(part) for part in out]
            cursor.execute("TRUNCATE commands")
            wire.commit()
            parts = [b"".join(kept[start : start + 500]) for start in range(0, len(kept), 500)]
            started = time.perf_counter()
            with cursor.copy("COPY commands FROM STDIN (FORMAT BINARY)") as into:
                for part in parts:
                    into.write(part)
            wire.commit()
            return time.perf_counter() - started


def put(link: Link, events: list[Logged], keys: Any, replid: str) -> None:
    """Write events into the lane's log, durable at once."""
    adds = [("XADD", keys.events, f"{one.event.seq}-1", "e", one.raw, "h", one.hash) for one in events]
    seq, hash = events[-1].event.seq, events[-1].hash
    mark = ("wm_seq", seq, "wm_hash", hash, "wm_token", 1, "wm_replid", replid)
    link.batch([*adds, ("HSET", keys.head, "seq", seq, "hash", hash, "token", 1, *mark)])


def _asked(engine: Engine, query: Any) -> bool:
    with engine.connect() as connection:
        return connection.execute(query).first() is not None


def live(folder: Path, postgres: PostgresSection, count: int, single: int) -> dict[str, float]:
    """A runner that catches up with a log of `count`, then `single` events one after the other."""
    engine, watching = open_engine(postgres, name="live"), open_engine(postgres, name="watch", connections=1)
    migrate(engine)
    with servers(folder, replicas=0) as (place, _):
        settings = load(place.settings, {})
        link = connect(settings.redis, "bench")
        load_library(link)
        keys, replid = StationKeys(settings.station.id).lane(LANE), replication_id(link)
        log = results(count + single)
        while batch := list(islice(log, min(1000, max(0, count)))):
            put(link, batch, keys, replid)
            count -= len(batch)
        total = link.call("XLEN", keys.events)
        stopping = threading.Event()
        runner = Runner(engine, connect(settings.redis, "runner"), LANE, keys, stopping)
        thread = threading.Thread(target=runner.run)
        started = time.perf_counter()
        thread.start()
        last = f"019a0000-0000-7000-8000-{total:012x}"
        _until(lambda: _asked(watching, select(commands.c.id).where(commands.c.id == last)))
        rate = total / (time.perf_counter() - started)
        micros = []
        for one in log:
            began = time.perf_counter()
            put(link, [one], keys, replid)
            wanted = select(commands.c.id).where(commands.c.id == one.event.command)
            _until(lambda wanted=wanted: _asked(watching, wanted))  # type: ignore[misc]
            micros.append(time.perf_counter() - began)
        stopping.set()
        thread.join()
        link.close()
    engine.dispose()
    watching.dispose()
    cuts = statistics.quantiles(micros, n=100)
    return {"per_second": rate, "p50_ms": cuts[49] * 1000, "p99_ms": cuts[98] * 1000}


def _until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 600
    while not done():
        if time.monotonic() > deadline:
            raise SystemExit("not within 600 s")
        time.sleep(0.0005)


def peer(postgres: PostgresSection, count: int) -> dict[str, Any]:
    """What the eventsourcing library saves, in an environment of its own."""
    where = postgres.url.split("@")[1]
    host, _, rest = where.partition(":")
    port, _, name = rest.partition("/")
    told = {"DBNAME": name, "HOST": host, "PORT": port, "USER": pg.USER, "PASSWORD": PASSWORD}
    env = {**os.environ, **{f"BENCH_POSTGRES_{key}": value for key, value in told.items()}}
    argv = (str(PEER), "-W", "ignore", "-m", "bench.peers.eventsourcing_peer", str(count))
    found: dict[str, Any] = json.loads(subprocess.run(argv, env=env, check=True, capture_output=True).stdout)
    return found


def alone(url: str, count: int) -> None:
    """The body of a process that only rebuilds: seconds, and its peak memory in MiB."""
    engine = open_engine(PostgresSection(url=url, password=PASSWORD), name="rebuild")
    seconds = rebuild(engine, count)
    peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
    print(
        json.dumps({"seconds": round(seconds, 1), "per_second": round(count / seconds), "mib": round(peak)})
    )


def long_rebuild(folder: Path, count: int) -> dict[str, float]:
    """The rebuild of `count` events in a process of its own."""
    with database(folder) as postgres:
        engine = open_engine(postgres, name="fill")
        migrate(engine)
        archive(engine, LANE, results(count))
        engine.dispose()
        argv = (sys.executable, "-m", "bench.projections", "--alone", postgres.url, str(count))
        said = subprocess.run(argv, check=True, stdout=subprocess.PIPE).stdout
    found: dict[str, float] = json.loads(said.splitlines()[-1])
    return found


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    result: dict[str, Any] = {"rounds": options.rounds, "events": options.events}
    with servers(folder / "redis", replicas=0) as (place, _):
        link = connect(load(place.settings, {}).redis, "bench")
        result["circumstances"] = circumstances(link)
        link.close()
    rounds = []
    with database(folder / "one") as postgres:
        engine = open_engine(postgres, name="bench")
        migrate(engine)
        archive(engine, LANE, results(options.events))
        for _ in range(options.rounds):
            folded = options.events / rebuild(engine, options.events)
            copied = options.events / raw_copy(engine, options.events)
            saved = peer(postgres, 1000)["per_second"] if PEER.exists() else float("nan")
            rounds.append({"rebuild": folded, "copy": copied, "eventsourcing": saved})
            print(rounds[-1], file=sys.stderr)
        engine.dispose()
    with database(folder / "two") as postgres:
        result["live"] = live(folder / "live", postgres, options.events, options.single)
        print(result["live"], file=sys.stderr)
    result["measured"] = rounds
    result["per_second"] = {
        key: round(statistics.median(each[key] for each in rounds)) for key in rounds[0]
    } | {"live": round(result["live"]["per_second"])}
    for name, over in (("rebuild ÷ copy", "copy"), ("rebuild ÷ eventsourcing", "eventsourcing")):
        result.setdefault("ratios", {})[name] = round(
            statistics.median(each["rebuild"] / each[over] for each in rounds), 3
        )
    result["ratios"]["live ÷ copy"] = round(result["live"]["per_second"] / result["per_second"]["copy"], 3)
    result["long"] = {
        str(count): long_rebuild(folder / f"long-{count}", count)
        for count in (100_000, options.longest)
        if count <= options.longest
    }
    return result


def table(result: dict[str, Any]) -> list[tuple[str, str]]:
    """The figures, a row each."""
    told = [(f"{name}, events per second", f"{value:,}") for name, value in result["per_second"].items()]
    told += [(f"**{name}**", f"**{value:.2f}**") for name, value in result["ratios"].items()]
    found = result["live"]
    told += [(f"event to visible row, {cut}", f"{found[f'{cut}_ms']:.1f} ms") for cut in ("p50", "p99")]
    for count, each in result["long"].items():
        figures = f"{each['seconds']:,.0f} s, {each['per_second']:,} per second, peak {each['mib']} MiB"
        told.append((f"rebuild of {int(count):,} events", figures))
    return told


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="bench projections", description=__doc__)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--single", type=int, default=500, help="events timed one after the other")
    parser.add_argument("--longest", type=int, default=1_000_000, help="events of the long rebuild")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--reference", action="store_true", help="write the table into docs/performance.md")
    options = parser.parse_args(arguments)
    if options.quick:
        options.events, options.rounds, options.single, options.longest = 20_000, 1, 100, 100_000
    tell_only_errors()
    with tempfile.TemporaryDirectory(prefix="tocsin-bench-") as folder:
        result = measure(Path(folder), options)
    for name, value in table(result):
        print(f"{name:40} {value}")
    print(write("projections", result, reference=options.reference))
    if options.reference:
        document("projections", result, ("", "measured"), table(result))
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--alone"]:
        alone(sys.argv[2], int(sys.argv[3]))
    else:
        sys.exit(main(sys.argv[1:]))
