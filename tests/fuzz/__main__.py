"""`python -m tests.fuzz [--runs N] [TARGET…]`: inputs by atheris, a process for each target.

Without --runs, a million in all. Prints how many were tried; ends with 1 where one raised, whose input is
then in build/fuzz/.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path

OUT = Path(__file__).parents[2] / "build" / "fuzz"
COVERED = re.compile(r"\bcov: (\d+)")
DONE = re.compile(r"Done (\d+) runs|stat::number_of_executed_units:\s*(\d+)")


def one(name: str, runs: int, seed: int) -> None:
    """In a process of its own: fuzz one target; atheris ends the process."""
    import atheris

    with atheris.instrument_imports(include=["streams", "control", "ingest", "projections"]):
        from tests.fuzz.targets import SEEDS, TARGETS
    corpus = OUT / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, text in enumerate(SEEDS[name]):
        (corpus / f"seed-{number}").write_bytes(text)
    options = [
        f"-runs={runs}",
        f"-seed={seed}",
        "-max_len=4096",
        f"-artifact_prefix={OUT}/{name}-",
        "-timeout=20",
    ]
    atheris.Setup([sys.argv[0], *options, "-print_final_stats=1", str(corpus)], TARGETS[name][0])
    atheris.Fuzz()


def main() -> int:
    """All targets asked for, one after the other."""
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    parser.add_argument("--runs", type=int, default=0, help="inputs for each target")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.alone:
        # Before anything of ours is imported: only what is imported then tells where an input went.
        one(asked.targets[0], asked.runs, asked.seed)
        return 0
    from tests.fuzz.targets import TARGETS

    tried, failed = 0, []
    for name in asked.targets or TARGETS:
        runs, began = asked.runs or TARGETS[name][1], time.monotonic()
        words = ("--alone", name, "--runs", str(runs), "--seed", str(asked.seed))
        command = [sys.executable, "-m", "tests.fuzz", *words]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        count = max((int(a or b) for a, b in DONE.findall(done.stdout)), default=0)
        covered = COVERED.findall(done.stdout)
        tried += count
        shown = f"{name:<18} {count:>9,} inputs in {time.monotonic() - began:6.1f} s"
        print(f"{shown}, {covered[-1] if covered else '?'} places reached", flush=True)
        if done.returncode:
            failed.append(name)
            print(done.stdout[-3000:])
    print(f"{tried:,} inputs; {'raised: ' + ', '.join(failed) if failed else 'nothing raised'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
