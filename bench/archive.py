"""A long log in little memory, and all of it again: `python -m bench archive`.

An owner logs events as fast as room is made for them: Redis has a fixed `maxmemory`, the projections
process archives and folds, the owner trims. Then the whole history is verified and replayed across
archive and log; and at last Redis is emptied, and the lane given back from the archive.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog
from rich.console import Console
from rich.table import Table

from bench.bare import NoOp
from bench.ledger import Wrong, drafts
from bench.report import circumstances, document, write
from bench.stage import servers
from control.restoring import restore_lane
from control.station import postgres
from control.station.folder import Folder
from control.station.ports import free_port
from control.station.process import Launch, end
from ingest.ledger import SUMMARY, sources_of
from projections.archive_reader import ArchiveReader
from streams.audit import verify
from streams.connection import Link
from streams.drafts import Post
from streams.durability import Prover
from streams.history import history, replayed
from streams.library import load_library
from streams.names import LaneKeys, StationKeys
from streams.settings import Settings, load
from streams.tail import Position
from streams.worker import LaneWorker

LANE = "p0"
PAGE = 1000
"""Events logged between two looks at how full Redis is."""
SOME = 4 * PAGE
"""Events that may wait to be written."""
PATIENCE = 1800.0
"""Seconds after which a run that does not come to its end has failed."""


class Filler(NoOp):
    """An owner's handler that hands its `post` to whoever fills the log."""

    summary = SUMMARY  # type: ignore[assignment]  # the other keeps nothing
    post: Post

    def begin(self, post: Post) -> None:
        self.post = post


@contextmanager
def database(folder: Folder) -> Iterator[None]:
    """A PostgreSQL for the station in `folder`, named in its settings."""
    made = postgres.Database(folder.path / "postgres", folder.log("postgres"), free_port())
    postgres.create(made, folder.secret("postgres.password"))
    process, launch = postgres.start(made)
    text = folder.settings.read_text("utf-8")
    told = (
        f'[postgres]\nurl = "{made.url}"\npassword_file = "secrets/postgres.password"\n[archive]\nkeep = 0\n'
    )
    folder.settings.write_text(text + told, "utf-8")
    try:
        yield
    finally:
        end(process, launch)


@contextmanager
def projections(folder: Folder) -> Iterator[None]:
    """The projections process, as a station has it."""
    log = folder.log("projections")
    argv = (sys.executable, "-m", "control.composition", "run", "projections", "--station", str(folder.path))
    with log.open("ab") as said:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=said, stderr=said, env=os.environ)
    try:
        yield
    finally:
        end(process, Launch("projections", (), log))


@contextmanager
def owner(settings: Settings, archive: ArchiveReader) -> Iterator[Filler]:
    """The lane's owner, in threads of this process."""
    filler, stop = Filler(), threading.Event()
    worker = LaneWorker(
        settings, LANE, "bench", filler, keyring=dict, prover=Prover(settings.redis), archive=archive
    )
    thread = threading.Thread(target=worker.run, args=(stop,), name="owner", daemon=True)
    thread.start()
    try:
        if not worker.owned.wait(60):
            raise Wrong("the lane was not acquired")
        yield filler
    finally:
        stop.set()
        thread.join(30)


def used(link: Link) -> int:
    """Bytes of memory that Redis uses now."""
    info: bytes = link.call("INFO", "memory")
    return int(info.split(b"used_memory:")[1].split()[0])


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise Wrong(f"not within {PATIENCE:g} s: {what}")
        time.sleep(0.05)


def logged(link: Link, keys: LaneKeys, field: str = "seq") -> int:
    return int(link.call("HGET", keys.head, field) or 0)


def fill(link: Link, keys: LaneKeys, filler: Filler, count: int, limit: int) -> dict[str, float]:
    """Log `count` events, waiting wherever Redis is full to the mark `limit` (bytes)."""
    started, peak, longest, waited = time.perf_counter(), 0, 0, 0.0
    first = logged(link, keys)
    for start in range(0, count, PAGE):
        for one in drafts(min(PAGE, count - start), start):
            filler.post(one)
        posted = first + start
        wait_until(lambda posted=posted: logged(link, keys) >= posted - SOME, "events written")  # type: ignore[misc]
        peak, longest = max(peak, used(link)), max(longest, int(link.call("XLEN", keys.events)))
        before = time.perf_counter()
        wait_until(lambda: used(link) < limit, "room in Redis")
        waited += time.perf_counter() - before
    wait_until(lambda: logged(link, keys) >= first + count, "events written")
    wait_until(lambda: logged(link, keys, "folded") >= first + count, "events folded")
    wait_until(lambda: logged(link, keys, "archived") >= first + count, "events archived")
    return {
        "seconds": time.perf_counter() - started,
        "waited_for_room": waited,
        "peak_mib": peak / 2**20,
        "longest_stream": longest,
    }


def measure(path: Path, events: int, maxmemory: int) -> dict[str, Any]:
    """One run: fill, verify, replay, lose, restore. `maxmemory` is in MiB. Raises Wrong."""
    with servers(path, replicas=0) as (folder, _), database(folder):
        settings = load(folder.settings, {})
        archive = ArchiveReader(settings.postgres)
        keys = StationKeys(settings.station.id).lane(LANE)
        with projections(folder):
            link = _prepared(settings, maxmemory)
            result: dict[str, Any] = {"rounds": 1, "events": events, "maxmemory_mib": maxmemory}
            result["circumstances"] = circumstances(link)
            with owner(settings, archive) as filler:
                limit = int(settings.archive.high_water * maxmemory * 2**20)
                result["fill"] = fill(link, keys, filler, events, limit)
                wait_until(lambda: int(link.call("XLEN", keys.events)) < PAGE, "the log trimmed")
                result["stands"] = int(link.call("XLEN", keys.events))
                result["verify"] = _verified(link, keys, archive)
                result["replay"] = _replayed(link, keys, archive)
            wait_until(lambda: logged(link, keys, "archived") == logged(link, keys), "everything archived")
        result["restore"] = _restored(settings, link, keys, archive)
        link.close()
    return result


def _prepared(settings: Settings, maxmemory: int) -> Link:
    from streams.connection import connect

    link = connect(settings.redis, "bench-archive")
    load_library(link)
    link.call("CONFIG", "SET", "maxmemory", maxmemory * 2**20)
    return link


def _verified(link: Link, keys: LaneKeys, archive: ArchiveReader) -> dict[str, float]:
    started = time.perf_counter()
    seq, stated = link.call("HMGET", keys.head, "seq", "hash")
    head = Position(int(seq), stated.decode())
    verdict = verify(LANE, history(link, keys, archive, upto=head.seq), head)
    if verdict.fault or verdict.events != head.seq:
        raise Wrong(f"{verdict.events} of {head.seq} events verified: {verdict.fault}")
    seconds = time.perf_counter() - started
    return {"events": verdict.events, "seconds": seconds, "per_second": verdict.events / seconds}


def _replayed(link: Link, keys: LaneKeys, archive: ArchiveReader) -> dict[str, float]:
    started, count = time.perf_counter(), 0

    def counted() -> Iterator[Any]:
        nonlocal count
        for one in replayed(link, keys, archive):
            count += 1
            yield one

    sources_of(counted())
    seconds = time.perf_counter() - started
    return {"events": count, "seconds": seconds, "per_second": count / seconds}


def _restored(settings: Settings, link: Link, keys: LaneKeys, archive: ArchiveReader) -> dict[str, float]:
    before = link.call("HMGET", keys.head, "seq", "hash")
    link.call("FLUSHALL")
    load_library(link)
    started = time.perf_counter()
    found = restore_lane(settings, LANE, archive)
    seconds = time.perf_counter() - started
    if not found.whole or archive.hash_at(LANE, int(before[0])) != before[1].decode():
        raise Wrong(f"the lane was not given back: {found}")
    _verified(link, keys, archive)
    return {"events": found.archived, "seconds": seconds, "stands": int(link.call("XLEN", keys.events))}


def rows(result: dict[str, Any]) -> list[list[str]]:
    fill, verified, again, back = (result[name] for name in ("fill", "verify", "replay", "restore"))
    per_second = result["events"] / fill["seconds"]
    return [
        ["events logged, archived and folded", f"{result['events']:,}", f"{per_second:,.0f} per second"],
        ["Redis' maxmemory", f"{result['maxmemory_mib']} MiB", f"at most {fill['peak_mib']:.0f} MiB used"],
        ["longest log in Redis", f"{fill['longest_stream']:,} events", f"in the end {result['stands']:,}"],
        ["all verified, from archive and log", *_rate(verified)],
        ["all replayed into the sources they tell of", *_rate(again)],
        ["Redis emptied, the lane given back", f"{back['seconds']:.1f} s", f"{back['stands']:,} in Redis"],
    ]  # fmt: skip


def _rate(found: dict[str, float]) -> list[str]:
    return [f"{found['seconds']:.1f} s", f"{found['per_second']:,.0f} per second"]


def main(arguments: list[str]) -> int:
    """Measure, show, and write the results; 1 where a run failed."""
    parser = argparse.ArgumentParser(prog="python -m bench archive", description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--maxmemory", type=int, default=192, help="MiB")
    parser.add_argument("--quick", action="store_true", help="20,000 events in 16 MiB")
    parser.add_argument("--reference", action="store_true", help="write the table of docs/performance.md")
    options = parser.parse_args(arguments)
    if options.quick:
        options.events, options.maxmemory = 20_000, 16
    # What the owner says of each trimming would hide the result.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("warning"))
    with tempfile.TemporaryDirectory() as folder:
        try:
            result = measure(Path(folder) / "station", options.events, options.maxmemory)
        except Wrong as error:
            print(f"bench archive: {error}", file=sys.stderr)
            return 1
    table = Table("", "", "", title="A long log in little memory")
    for row in rows(result):
        table.add_row(*row)
    Console().print(table)
    print(f"written to {write('archive', result, reference=options.reference)}")
    if options.reference:
        document("archive", result, ("", "", ""), rows(result))
    return 0
