"""What a line of the log costs, as ratios to bare Redis and bare SHA-256: `python -m bench log`.

Append, read and verify; the memory that verifying takes; and how the cost of a command grows with
the length of the log, the number of sources and the number of lanes (it should not). A run that does
not show what it is to show fails: see `bench.judge`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from bench import growth
from bench.chart import chart
from bench.judge import judge
from bench.ledger import Wrong, batches, drafts, fill, open_log, sound
from bench.report import circumstances, document, write
from bench.stage import servers
from streams.audit import head_of, verify
from streams.connection import Link, connect
from streams.library import load_library
from streams.log import BATCH
from streams.messages import Durability, Event
from streams.names import StationKeys
from streams.replay import replay, stored
from streams.settings import Settings, load

PICTURES = Path("docs/pictures")
READS = 5
"""How often a round reads the log in each way: once is over in a twentieth of a second, and too noisy."""


def seconds(work: Callable[[], object]) -> float:
    """How long `work` takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def rate(count: int, work: Callable[[], object]) -> float:
    """Events per second of `work`, which handles `count` of them."""
    return count / seconds(work)


def append(settings: Settings, link: Link, count: int, level: Durability) -> dict[str, float]:
    """One round: the log's own append, and the very bytes it wrote as bare XADDs."""
    station = StationKeys(settings.station.id)
    name = f"append-{level}"
    for each in (station.lane(name), station.lane("bare")):
        link.call("DEL", each.events, each.head, each.lease, each.commands)
    log = open_log(settings, link, name, level)
    given = drafts(count)

    def write_log() -> None:
        for start in range(0, count, BATCH):
            for one in given[start : start + BATCH]:
                log.post(one)
            log.flush()

    appended = rate(count, write_log)
    entries = [(raw, stated.decode()) for raw, stated in stored(link, station.lane(name))]
    if sound(link, station.lane(name), name) != count:
        raise Wrong(f"lane {name} holds {len(entries)} events, not {count}")
    wait: list[tuple[Any, ...]] = [("WAIT", settings.redis.replicas, 1000)] if level == "replica" else []
    bare = list(batches(entries, station.lane("bare")))
    return {
        f"append_{level}": appended,
        f"xadd_{level}": rate(count, lambda: [link.batch([*batch, *wait]) for batch in bare]),
    }


def read(settings: Settings, link: Link, lane: str, count: int) -> dict[str, float]:
    """One round of reading a log of `count` events in the ways that there are."""
    keys = StationKeys(settings.station.id).lane(lane)
    decode = msgspec.json.Decoder(Event).decode

    def bare() -> None:
        start = "-"
        while entries := link.call("XRANGE", keys.events, start, "+", "COUNT", 1000):
            for _, fields in entries:
                decode(fields[1])
            start = f"({entries[-1][0].decode()}"

    kept = [raw for raw, _ in stored(link, keys)]
    ways: dict[str, Callable[[], object]] = {
        "xrange_decoded": bare,
        "replay": lambda: sum(1 for _ in replay(link, keys)),
        "verify": lambda: sound(link, keys, lane),
        "sha256": lambda: [hashlib.sha256(raw).hexdigest() for raw in kept],
    }
    taken = dict.fromkeys(ways, 0.0)
    for _ in range(READS):
        for name, way in ways.items():
            taken[name] += seconds(way)
    return {name: READS * count / took for name, took in taken.items()}


def peak_memory(settings: Path, lane: str) -> dict[str, float]:
    """Verify a lane in a process of its own: its peak memory in MiB, and events per second."""
    argv = (sys.executable, "-m", "bench.log", "--verify", str(settings), lane)
    said = subprocess.run(argv, check=True, capture_output=True).stdout
    found: dict[str, float] = json.loads(said)
    return found


def verify_here(settings: Path, lane: str) -> None:
    """The body of that process."""
    found = load(settings, {}).as_role("reader")
    link = connect(found.redis, "bench-verify")
    started = time.perf_counter()
    keys = StationKeys(found.station.id).lane(lane)
    head = head_of(link, keys)
    verdict = verify(lane, stored(link, keys), head)
    took = time.perf_counter() - started
    if verdict.fault:
        raise Wrong(verdict.fault.problem)
    # Not ru_maxrss, which would begin with that of the process we were forked from.
    status = Path("/proc/self/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
    print(json.dumps({"mib": round(peak, 1), "per_second": round(verdict.events / took)}))


def medians(rounds: Sequence[dict[str, float]]) -> dict[str, float]:
    return {key: round(statistics.median(each[key] for each in rounds)) for key in rounds[0]}


def ratios(rounds: Sequence[dict[str, float]]) -> dict[str, float]:
    """Medians of each round's own ratios."""
    wanted = {
        "append_memory ÷ xadd": ("append_memory", "xadd_memory"),
        "append_replica ÷ xadd + WAIT": ("append_replica", "xadd_replica"),
        "replay ÷ xrange decoded": ("replay", "xrange_decoded"),
        "verify ÷ xrange decoded": ("verify", "xrange_decoded"),
        "verify ÷ sha256": ("verify", "sha256"),
    }
    return {
        name: round(statistics.median(each[over] / each[under] for each in rounds), 3)
        for name, (over, under) in wanted.items()
    }


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """All measurements, one after the other."""
    result: dict[str, Any] = {"rounds": options.rounds, "events": options.events}
    with servers(folder / "three") as (place, _):
        settings = load(place.settings, {})
        link = connect(settings.redis, "bench-log")
        load_library(link)
        result["circumstances"] = circumstances(link)
        fill(link, StationKeys(settings.station.id).lane("read"), options.events)
        rounds = []
        for number in range(options.rounds):
            figures = append(settings, link, options.events, "memory")
            figures |= append(settings, link, options.events, "replica")
            figures |= read(settings, link, "read", options.events)
            rounds.append(figures)
            print(f"round {number + 1}", {k: round(v) for k, v in figures.items()}, file=sys.stderr)
        link.close()
    result |= {"per_second": medians(rounds), "ratios": ratios(rounds), "measured": rounds}
    lengths = [n for n in (10_000, 100_000, 1_000_000) if n <= options.longest]
    with servers(folder / "one", replicas=0) as (place, _):
        settings = load(place.settings, {})
        link = connect(settings.redis, "bench-log")
        # Nobody archives or trims here: all of a log stays.
        link.call("CONFIG", "SET", "maxmemory", 0)
        load_library(link)
        for index, length in enumerate(lengths):
            print(f"filling a log with {length:,} events", file=sys.stderr)
            fill(link, StationKeys(settings.station.id).lane(f"p{index + 1}"), length)
        result["verify_memory"] = {
            str(length): peak_memory(place.settings, f"p{index + 1}") for index, length in enumerate(lengths)
        }
        link.close()
        result["growth"] = growth.measure(place, lengths, options.rounds, options.seconds)
    return result


def show(result: dict[str, Any]) -> None:
    console = Console()
    table = Table("", "events per second", title="The log")
    for name, value in result["per_second"].items():
        table.add_row(name, f"{value:,.0f}")
    for name, value in result["ratios"].items():
        table.add_row(name, f"{value:.2f}", style="bold")
    console.print(table)
    table = Table("events", "peak MiB", "events per second", title="Verifying a log, in a process of its own")
    for length, found in result["verify_memory"].items():
        table.add_row(f"{int(length):,}", f"{found['mib']:.0f}", f"{found['per_second']:,.0f}")
    console.print(table)
    table = Table("", "size", "p50 ms", "µs per command", title="A command's cost as a station grows")
    for what, points in result["growth"].items():
        for size, point in points.items():
            table.add_row(what, f"{int(size):,}", f"{point['p50_ms']:.2f}", f"{point['micros']:.0f}")
    console.print(table)
    table = Table("", "found", "", title="What is to be so")
    for row in judgements(result):
        table.add_row(*row)
    console.print(table)


def describe(result: dict[str, Any]) -> None:
    """The tables for docs/performance.md."""
    figures = [[name, f"{value:,.0f}"] for name, value in result["per_second"].items()]
    figures += [[f"**{name}**", f"**{value:.2f}**"] for name, value in result["ratios"].items()]
    document("log", result, ("", "events per second"), figures)
    memory = [
        [f"{int(length):,}", f"{found['mib']:.0f}", f"{found['per_second']:,.0f}"]
        for length, found in result["verify_memory"].items()
    ]
    document("verify", result, ("events in the log", "peak MiB", "events per second"), memory)
    document("judged", result, ("what is to be so", "found", ""), judgements(result))


def judgements(result: dict[str, Any]) -> list[list[str]]:
    """What is to be so and is, or is not, as a table for docs/performance.md."""
    return [[one.what, one.found, one.verdict] for one in judge(result)]


def draw(result: dict[str, Any]) -> None:
    """The curves for docs/performance.md."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    for what, points in result["growth"].items():
        series = {
            "one at a time": [(float(size), point["p50_ms"] * 1000) for size, point in points.items()],
            "many in flight": [(float(size), point["micros"]) for size, point in points.items()],
        }
        drawn = chart(f"Cost of a command by {what}", what, "µs per confirmed command", series)
        (PICTURES / f"cost-by-{what.split()[0]}.svg").write_text(drawn, "utf-8")
    memory = [(float(length), found["mib"]) for length, found in result["verify_memory"].items()]
    drawn = chart("Memory to verify a log", "events in the log", "peak MiB", {"verify": memory})
    (PICTURES / "verify-memory.svg").write_text(drawn, "utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench log", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="per turn of the growth curves")
    parser.add_argument("--events", type=int, default=20_000, help="per round of append, read and verify")
    parser.add_argument("--longest", type=int, default=1_000_000, help="the longest log")
    parser.add_argument("--quick", action="store_true", help="one short round, logs up to 100,000 events")
    parser.add_argument("--pictures", action="store_true", help=f"draw the curves into {PICTURES}")
    parser.add_argument(
        "--reference", action="store_true", help="keep as reference, with pictures and tables"
    )
    parser.add_argument("--verify", nargs=2, metavar=("SETTINGS", "LANE"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.verify:
        verify_here(Path(options.verify[0]), options.verify[1])
        return 0
    if options.quick:
        options.rounds, options.seconds, options.events, options.longest = 1, 0.5, 10_000, 100_000
    with tempfile.TemporaryDirectory(prefix="bench-log-") as scratch:
        try:
            result = measure(Path(scratch), options)
        except Wrong as error:
            print(f"failed: {error}", file=sys.stderr)
            return 1
    show(result)
    print(f"written to {write('log', result, reference=options.reference)}")
    if options.pictures or options.reference:
        draw(result)
    if options.reference:
        describe(result)
    wrong = [one for one in judge(result) if one.passes is False]
    for one in wrong:
        print(f"failed: {one.what}; it is {one.found}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
