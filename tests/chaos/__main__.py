"""`python -m tests.chaos`: plays a schedule against a whole station and checks what came of it."""

from __future__ import annotations

import argparse
import secrets
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

from control.deployment.folder import init_deploy
from tests.chaos import namespace
from tests.chaos.operator import PACE
from tests.chaos.report import write_report
from tests.chaos.run import Plan, Run
from tests.chaos.stage import ROOT, Missing

PROXIED = ("-m", "slow or chaos", "tests/test_failover_scenarios.py", "tests/test_cluster_island.py")
"""The schedules of a second by real servers, guards and Sentinels, as anybody may start them."""


def main() -> int:
    """0: no violation; 1: there is one; 2: a program is missing.

    Where there may be no network namespaces, what `PROXIED` plays takes its place, without a report.
    """
    asked = _arguments()
    if not namespace.is_inside():
        lacking = namespace.missing()
        if lacking and asked.or_skip:
            print(f"no {lacking} here: chaos is not played", file=sys.stderr)
            return 0
        if lacking:
            print(
                f"no {lacking} here: the schedules that need none are played, cut by a TCP proxy",
                file=sys.stderr,
            )
            return subprocess.run((sys.executable, "-m", "pytest", "-n", "0", *PROXIED), cwd=ROOT).returncode
        # Where it is made, not in there: in a user namespace nothing could be given to another user.
        folder = Path(asked.out or ROOT / "build" / "chaos" / time.strftime("%Y%m%d-%H%M%S")).absolute()
        init_deploy(folder / "deployment")
        seed = asked.seed if asked.seed is not None else secrets.randbelow(1_000_000)
        return namespace.enter("tests.chaos", *sys.argv[1:], "--out", str(folder), "--seed", str(seed))
    namespace.settle()
    folder = Path(asked.out)
    plan = Plan(**{field.name: getattr(asked, field.name) for field in fields(Plan)})
    try:
        outcome = Run(folder, plan).play()
    except Missing as missing:
        print(f"make chaos needs {missing}, which is not on this machine", file=sys.stderr)
        return 0 if asked.or_skip else 2
    write_report(folder / "report.html", outcome.records, outcome.violations, outcome.told)
    for violation in outcome.violations[:50]:
        print(f"VIOLATION  {violation.rule}: {violation.detail}")
    print(f"{len(outcome.violations)} violations; {folder}/report.html, run.jsonl")
    return 1 if outcome.violations or (not outcome.complete and not asked.minutes) else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--seed", type=int, help="of the schedule and the load (else by chance; it is told)")
    parser.add_argument("--faults", type=int, default=0, help="how many faults by chance")
    parser.add_argument("--kills", type=int, default=0, help="how often the primary is killed, to measure it")
    parser.add_argument("--fixed", action="store_true", help="the fixed schedules first, each once")
    parser.add_argument("--only", default="", help="one of the fixed ones, by a part of its name")
    parser.add_argument("--minutes", type=float, default=0, help="begin no fault after so many minutes")
    how = "seconds that the station gets to be well again by itself"
    paced = "seconds between two commands of a hand (default %(default)s): more, where the machine is small"
    parser.add_argument("--pace", type=float, default=PACE, help=paced)
    parser.add_argument("--patience", type=float, default=90, help=how)
    parser.add_argument(
        "--or-skip", action="store_true", help="end well where something that it needs is missing"
    )
    parser.add_argument("--out", default="", help="folder of the run (else build/chaos/DATE)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
