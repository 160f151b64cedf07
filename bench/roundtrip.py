"""What a confirmed command costs, beside Pub/Sub and five task queues: `python -m bench roundtrip`.

Rounds are interleaved: in each, every contestant has one turn of one command at a time and one
with many in flight. Afterwards each lane used must verify and hold one result per command, each on a
good signature.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.contestants import BASELINE, CONTESTANTS, Contestant, Failed, Running
from bench.report import circumstances, document, write
from bench.stage import Stage, bare, whole
from streams.audit import head_of, verify
from streams.authorship import Authors
from streams.messages import decode_event
from streams.replay import stored
from streams.signing import load_keyring

PEERS_PYTHON = Path(".venv-bench/bin/python")
WARM_UP = 0.3
"""Seconds of each contestant's two turns before the first round, not counted."""
HEADINGS = ("", "p50 ms", "p99 ms", "per second", "p50 ÷ Pub/Sub", "rate ÷ Pub/Sub", "rate ÷ best queue")
Measured = dict[str, list[dict[str, float]]]
"""By contestant: what each round gave (p50_ms, p99_ms, per_second)."""


def percentile(sorted_values: Sequence[float], share: float) -> float:
    """The value below which `share` of them lie (nearest rank)."""
    return sorted_values[min(len(sorted_values) - 1, int(share * len(sorted_values)))]


def summary(measured: Measured) -> dict[str, dict[str, float]]:
    """Medians over the rounds, and medians of each round's ratios to Pub/Sub and to the best queue."""
    queues = [measured[one.name] for one in CONTESTANTS if one.group == "queue" and one.name in measured]
    best_rates = [max(each["per_second"] for each in together) for together in zip(*queues, strict=True)]
    base = measured.get(BASELINE, [])
    found: dict[str, dict[str, float]] = {}
    for name, rounds in measured.items():
        row = {key: _median(each[key] for each in rounds) for key in ("p50_ms", "p99_ms", "per_second")}
        if base:
            pairs = list(zip(rounds, base, strict=True))
            row["p50_to_pubsub"] = _median(mine["p50_ms"] / other["p50_ms"] for mine, other in pairs)
            row["rate_to_pubsub"] = _median(mine["per_second"] / other["per_second"] for mine, other in pairs)
        if best_rates:
            row["rate_to_best_queue"] = _median(
                mine["per_second"] / best for mine, best in zip(rounds, best_rates, strict=True)
            )
        found[name] = row
    return found


def _median(values: Iterable[float]) -> float:
    return round(statistics.median(values), 4)


def chosen(only: Sequence[str]) -> list[Contestant]:
    """The contestants whose name holds one of the words; all where there is none."""
    return [one for one in CONTESTANTS if not only or any(word in one.name for word in only)]


def turn(running: Running, seconds: float, in_flight: int) -> tuple[dict[str, float], int]:
    """One contestant's turn: its figures, and how many commands it had confirmed."""
    single = running.latency(seconds)
    many = running.throughput(seconds, in_flight)
    micros = sorted(single["micros"])
    figures = {
        "p50_ms": round(percentile(micros, 0.50) / 1000, 4),
        "p99_ms": round(percentile(micros, 0.99) / 1000, 4),
        "per_second": round(many["count"] / many["seconds"], 1),
    }
    return figures, single["count"] + many["count"]


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def heads(stage: Stage) -> dict[str, int]:
    """The seq of each lane's last event."""
    link = stage.link()
    found = {lane: int(link.call("HGET", stage.keys.lane(lane).head, "seq") or 0) for lane in stage.lanes}
    link.close()
    return found


def audit(stage: Stage, before: dict[str, int], confirmed: int) -> list[str]:
    """What is wrong with the log after the run: nothing, or the bench has failed.

    Of every result since `before` the signature is checked, as by `tocsin audit verify`.
    """
    link = stage.link()
    authors = Authors(load_keyring(Path(stage.settings.keys.directory)))
    faults: list[str] = []
    results: Counter[str] = Counter()
    for lane, seq in before.items():
        keys = stage.keys.lane(lane)
        # Asked for first, so that what is cut off at the end is missed.
        head = head_of(link, keys)
        verdict = verify(lane, stored(link, keys), head)
        if verdict.fault:
            faults.append(f"lane {lane}: event {verdict.fault.seq}: {verdict.fault.problem}")
        forged: str | None = None
        for raw, _ in stored(link, keys, after=seq):
            event = decode_event(raw)
            if event.type.startswith("command."):
                results[event.type] += 1
                if forged is None and (problem := authors.problem(lane, event)):
                    forged = f"lane {lane}: event {event.seq}: {problem}"
        faults += [forged] if forged else []
    link.close()
    if elsewhere := authors.counted().elsewhere:
        faults.append(f"signed by keys that are not here: {dict(elsewhere)}")
    if results != ({"command.completed": confirmed} if confirmed else {}):
        faults.append(f"{confirmed} commands were confirmed, but the log holds {dict(results)}")
    return faults


def run(stage: Stage, options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """Measure; returns what the JSON holds, and what is wrong."""
    taking_part = chosen(options.only)
    before, confirmed = heads(stage), 0
    link = stage.link()
    told = circumstances(link)
    versions: dict[str, dict[str, str]] = {}
    measured: Measured = {}
    with ExitStack() as stack:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-logs-")))
        running = []
        for index, contestant in enumerate(taking_part):
            say(f"starting {contestant.name}")
            one = Running(contestant, stage, index + 1, str(options.peers_python), logs)
            stack.callback(one.close)
            confirmed += contestant.group == "tocsin"
            versions[contestant.name] = one.versions
            running.append(one)
        for one in running:
            _, count = turn(one, WARM_UP, options.in_flight)
            confirmed += count if one.contestant.group == "tocsin" else 0
        for number in range(options.rounds):
            for one in running[number % len(running) :] + running[: number % len(running)]:
                stage.settle()
                figures, count = turn(one, options.seconds, options.in_flight)
                name = one.contestant.name
                measured.setdefault(name, []).append(figures)
                confirmed += count if one.contestant.group == "tocsin" else 0
                say(f"round {number + 1}  {name:24} {figures}")
    faults = audit(stage, before, confirmed)
    for index in range(len(taking_part)):
        link.batch([("SELECT", index + 1), ("FLUSHDB",)])
    link.close()
    result = {
        "circumstances": told,
        "contestants": versions,
        "stage": "worker alone" if options.bare else "tocsin up",
        "rounds": options.rounds,
        "seconds": options.seconds,
        "in_flight": options.in_flight,
        "lanes": stage.lanes,
        "sources": stage.sources,
        "commands": confirmed,
        "verified": not faults,
        "medians": summary(measured),
        "measured": measured,
    }
    return result, faults


def rows(result: dict[str, Any]) -> list[list[str]]:
    """The medians as people read them."""
    ratios = ("p50_to_pubsub", "rate_to_pubsub", "rate_to_best_queue")
    return [
        [
            name,
            f"{row['p50_ms']:.2f}",
            f"{row['p99_ms']:.2f}",
            f"{row['per_second']:,.0f}",
            *(f"{row[key]:.2f}" if key in row else "–" for key in ratios),
        ]
        for name, row in result["medians"].items()
    ]


def table(result: dict[str, Any]) -> Table:
    shown = Table(
        title=f"Confirmed no-op commands, medians of {result['rounds']} interleaved rounds",
        caption=f"÷: ratio to {BASELINE} and to the best of the queues, in the same round",
    )
    shown.add_column("", no_wrap=True)
    for heading in ("p50 ms", "p99 ms", "per second", "p50\n÷ P/S", "rate\n÷ P/S", "rate\n÷ best"):
        shown.add_column(heading, justify="right")
    for row in rows(result):
        shown.add_row(*row)
    return shown


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench roundtrip", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=2.0, help="per turn (two turns a round)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--in-flight", type=int, default=256)
    parser.add_argument(
        "--only", nargs="*", default=[], metavar="NAME", help="contestants whose name holds this"
    )
    parser.add_argument("--quick", action="store_true", help="one round of short turns, under a minute")
    parser.add_argument("--bare", action="store_true", help="a worker alone instead of a whole station")
    parser.add_argument(
        "--reference", action="store_true", help="keep as reference, and in docs/performance.md"
    )
    parser.add_argument("--peers-python", type=Path, default=PEERS_PYTHON)
    parser.add_argument("--station", type=Path, help="folder of the station (default: one for this run only)")
    options = parser.parse_args(arguments)
    if options.quick:
        options.seconds, options.rounds = 1.0, 1
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    if any(one.group == "queue" for one in chosen(options.only)) and not options.peers_python.exists():
        say(f"{options.peers_python} is missing: `make bench` makes it")
        return 2
    with tempfile.TemporaryDirectory(prefix="bench-station-") as scratch:
        folder = options.station or Path(scratch) / "station"
        try:
            with (bare if options.bare else whole)(folder) as stage:
                result, faults = run(stage, options)
        except Failed as error:
            say(f"failed: {error}")
            return 1
    path = write("roundtrip", result, reference=options.reference)
    Console().print(table(result))
    print(f"written to {path}")
    if options.reference:
        document("roundtrip", result, HEADINGS, rows(result))
    for fault in faults:
        say(f"failed: {fault}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
