"""How well alerts are heard, beside other decoders: `python -m bench same`.

A seeded corpus under every condition of `bench/same_conditions.py`, exact headers counted; `--quiet HOURS`
plays what holds no alert and counts what is invented; `--speed` compares the processor time of a long file.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import soundfile
from rich.console import Console
from rich.table import Table

from bench import same_quiet
from bench.report import circumstances, document, write
from bench.same_air import RATE, Condition, Samples, Sent, noise, send
from bench.same_bound import applies, ideal
from bench.same_conditions import CONDITIONS
from bench.same_rivals import headers, multimon, present, write_raw
from ingest.same.decoder import NO_MORE, Decoder
from ingest.same.heard import EndHeard, Heard, MessageHeard
from ingest.same.offline import AT_ONCE

SEEDS = {"scoring": 20_261, "again": 20_262, "tuning": 7}
"""Those scored are not those it was tuned on; "again" is for what was changed after a scored run."""
PIECE = 0.1
"""Seconds that the decoder is given at once."""
LATEST = 0.3
"""Seconds after the end of the deciding burst within which a message is to be told."""
ROUNDS = 5
"""Turns that each has in comparing speed."""
IDEAL = "ideal"
HEADINGS = ("condition", "exact", "confirmed", "asked", "bound", "gap", "samedec")


class Score(msgspec.Struct):
    """What one decoder made of the messages of a condition."""

    exact: int = 0
    """Headers sent that were reported."""
    confirmed: int = 0
    """Those of them that were reported as confirmed."""
    wrong: int = 0
    """Headers reported as confirmed that were never sent."""
    doubtful: int = 0
    """Headers reported as unconfirmed that were never sent."""
    twice: int = 0
    """Headers reported more than once."""
    ends: int = 0
    """Ends of message that were not heard, or heard more than once."""
    latest: float = 0.0
    """Seconds from the end of the deciding burst to the report, at worst."""
    late: int = 0
    """Reports later than is asked."""
    waited: int = 0
    """Those that a burst did not decide, but that no other came."""
    cpu: float = 0.0


def listen(sent: Sent) -> tuple[list[tuple[Heard, float]], float]:
    """What our decoder hears with how long after its end it said so, and the processor seconds taken."""
    began = time.process_time()
    decoder, heard = Decoder(sent.rate), list[tuple[Heard, float]]()
    step = int(PIECE * sent.rate)
    for begin in range(0, len(sent.samples), step):
        for one in decoder.feed(sent.samples[begin : begin + step]):
            end = one.end if isinstance(one, MessageHeard) else 0.0
            heard.append((one, decoder.samples / sent.rate - end))
    heard += [(one, 0.0) for one in decoder.finish()]
    return heard, time.process_time() - began


def judge(job: tuple[str, int, int, list[str]]) -> dict[str, Score]:
    """One message under the named condition, by each decoder."""
    name, seed, number, rivals = job
    condition = next(one for one in CONDITIONS if one.name == name)
    sent = send(condition, seed, number)
    wanted = set(sent.headers)
    heard, cpu = listen(sent)
    told = [(one, late) for one, late in heard if isinstance(one, MessageHeard)]
    reported = [one.header for one, _ in told]
    confirmed = [one.header for one, _ in told if one.confirmed]
    decided = [late for one, late in told if one.confirmed and late < NO_MORE]
    ends = sum(isinstance(one, EndHeard) for one, _ in heard)
    ours = Score(
        exact=len(wanted & set(reported)),
        confirmed=len(wanted & set(confirmed)),
        wrong=sum(text not in wanted for text in confirmed),
        doubtful=sum(one.header not in wanted for one, _ in told if not one.confirmed),
        twice=len(reported) - len(set(reported)),
        ends=int(ends != condition.ends),
        latest=max(decided, default=0.0),
        late=sum(late > LATEST for late in decided),
        waited=len(confirmed) - len(decided),
        cpu=cpu,
    )
    scores = {"tocsin": ours}
    if applies(condition):
        scores[IDEAL] = Score(exact=int(ideal(condition, sent) in wanted))
    for rival in rivals:
        found = headers(rival, sent)
        scores[rival] = Score(exact=len(wanted & set(found)), wrong=sum(text not in wanted for text in found))
    return scores


def corpus(
    conditions: Sequence[Condition], seed: int, count: int, rivals: list[str], jobs: int
) -> dict[str, dict[str, Score]]:
    """Scores by condition and decoder."""
    found: dict[str, dict[str, Score]] = {}
    with multiprocessing.Pool(jobs) as pool:
        for condition in conditions:
            total = found.setdefault(condition.name, {})
            work = [(condition.name, seed, number, rivals) for number in range(count)]
            for scores in pool.imap_unordered(judge, work, chunksize=2):
                for name, score in scores.items():
                    total[name] = _sum(total.get(name, Score()), score)
            print(f"{condition.name}: {total}", file=sys.stderr)
    return found


def speed(seed: int) -> dict[str, float]:
    """Audio seconds per processor second on the same ten minutes: programme, hiss, and a few alerts.

    The medians of rounds in which each has its turn. `tocsin decode` is the whole command, from the start of
    Python on; the others of ours are the decoder alone, in pieces of so many seconds.
    """
    parts = [send(CONDITIONS[index], seed, index).samples for index in range(1)]
    parts += [part for kind, part in same_quiet.pieces(seed, 0.3) if kind in ("speech", "hiss", "music")]
    samples = np.concatenate(parts)[: 600 * RATE]
    samples = samples + noise(np.random.default_rng(seed), len(samples), RATE, 0.02, 20)
    took: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        raw, wav = Path(folder) / "ten.raw", Path(folder) / "ten.wav"
        write_raw(raw, samples, RATE)
        soundfile.write(wav, samples, RATE, subtype="PCM_16")
        for _ in range(ROUNDS):
            for piece in (0.1, 1.0, AT_ONCE):
                took.setdefault(f"tocsin, {piece:g} s at once", []).append(_decoding(samples, piece))
            took.setdefault("tocsin decode", []).append(_command(wav))
            if "multimon-ng" in present():
                took.setdefault("multimon-ng", []).append(multimon(raw)[1])
    return {name: round(len(samples) / RATE / float(np.median(each))) for name, each in took.items()}


def _decoding(samples: Samples, piece: float) -> float:
    decoder, step = Decoder(RATE), int(piece * RATE)
    began = time.process_time()
    for begin in range(0, len(samples), step):
        decoder.feed(samples[begin : begin + step])
    return time.process_time() - began


def _command(wav: Path) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = (sys.executable, "-m", "control.composition", "decode", "--json", str(wav))
    subprocess.run(command, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main(arguments: Sequence[str]) -> int:
    """Run the corpus; 1 where a target was missed."""
    parser = argparse.ArgumentParser(prog="bench same", description=__doc__)
    parser.add_argument("--messages", type=int, default=200, help="messages for each condition")
    parser.add_argument("--only", nargs="*", default=[], help="conditions whose names contain one of these")
    parser.add_argument("--seeds", choices=SEEDS, default="scoring")
    parser.add_argument("--quiet", type=float, metavar="HOURS", help="false messages in so much audio")
    parser.add_argument("--speed", action="store_true", help="processor time of a long file")
    parser.add_argument("--alone", action="store_true", help="without the other decoders")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="five messages for each condition")
    parser.add_argument("--reference", action="store_true", help="write the tables of docs/performance.md")
    options = parser.parse_args(arguments)
    count = 5 if options.quick else options.messages
    seed = SEEDS[options.seeds]
    result: dict[str, Any] = {"circumstances": circumstances(), "rounds": 1, "seeds": options.seeds}
    if options.speed or (options.reference and options.quiet is None):
        result["audio_seconds_per_cpu_second"] = speed(seed)
        print(result["audio_seconds_per_cpu_second"])
    if options.quiet is not None:
        result["quiet"] = same_quiet.run(seed, options.quiet, options.jobs)
        print(msgspec.json.format(msgspec.json.encode(result["quiet"])).decode())
        print(write("same-quiet", result, reference=options.reference))
        return int(any(kind["messages"] for kind in result["quiet"].values()))
    if options.speed and not options.reference:
        return 0
    rivals = [] if options.alone else present()
    chosen = [one for one in CONDITIONS if not options.only or any(part in one.name for part in options.only)]
    scores = corpus(chosen, seed, count, rivals, options.jobs)
    result |= {"messages": count, "conditions": scores}
    missed, rows = table(chosen, scores, count, rivals)
    result["missed"] = missed
    shown = Table(*HEADINGS, *rivals)
    for row in rows:
        shown.add_row(*row)
    Console().print(shown)
    for line in missed:
        print(line)
    print(write("same", result, reference=options.reference))
    if options.reference:
        document("same", result, (*HEADINGS, *rivals), rows)
    return int(bool(missed))


def table(
    chosen: Sequence[Condition], scores: dict[str, dict[str, Score]], count: int, rivals: list[str]
) -> tuple[list[str], list[list[str]]]:
    """What was missed, and the rows: percent exact, with what was wrong beside it."""
    missed, rows = [], []
    for condition in chosen:
        of = count * condition.messages
        ours = scores[condition.name]["tocsin"]
        if ours.exact < condition.target * of:
            missed.append(f"{condition.name}: {ours.exact} of {of} exact, {condition.target:.0%} asked")
        bound, limit = _bound(condition, scores[condition.name].get(IDEAL), of)
        rows.append(
            [
                condition.name,
                _told(ours, of),
                f"{ours.confirmed / of:.1%}",
                f"{condition.target:.0%}" if condition.target else "",
                limit,
                "" if bound is None else f"{ours.exact / of - bound:+.1%}",
                _of_twenty(condition.samedec),
                *(_told(scores[condition.name][name], of) for name in rivals),
            ]
        )
    total = sum(count * condition.messages for condition in chosen)
    wrong = sum(scores[condition.name]["tocsin"].wrong for condition in chosen)
    if wrong * 1000 > total:
        missed.append(f"{wrong} wrong messages confirmed in {total}")
    late = sum(scores[condition.name]["tocsin"].late for condition in chosen)
    if late:
        missed.append(f"{late} messages in {total} told more than {LATEST} s after the deciding burst")
    return missed, rows


def _bound(condition: Condition, ideal: Score | None, of: int) -> tuple[float | None, str]:
    """What an ideal receiver makes of the same messages; else of twenty others, if that is known."""
    if ideal is not None:
        return ideal.exact / of, f"{ideal.exact / of:.1%}"
    if condition.bound:
        return int(condition.bound) / 20, _of_twenty(condition.bound)
    return None, ""


def _of_twenty(text: str) -> str:
    number, _, wrong = text.partition(" ")
    return f"{number}/20 {wrong}".strip() if number else ""


def _told(score: Score, of: int) -> str:
    return f"{score.exact / of:.1%}" + (f" w{score.wrong}" if score.wrong else "")


def _sum(one: Score, other: Score) -> Score:
    summed = {
        name: getattr(one, name) + getattr(other, name) for name in one.__struct_fields__ if name != "latest"
    }
    return Score(**summed, latest=max(one.latest, other.latest))
