"""`python -m tests.soak [--minutes 60] [--hours-a-minute 6]`: a station whose wall clock hurries.

Each minute libfaketime sets the clock of every process, servers too, some hours on; what lasts is counted by
clocks that do not jump. So midnights, a new month and a new year pass while commands are given. Memory and
descriptors of every process are looked at all the while: after the first third none may grow on. Of Redis and
Postgres it is what they hold that may not, not what their allocator or shared pages make of it.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from control.station import instance
from control.station.folder import Folder
from streams.connection import Unreachable, connect
from streams.settings import load

ROOT = Path(__file__).parents[2]
SLEEPING = ROOT / "tests" / "chaos" / "within"
FAKETIME = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
BEGIN = datetime(2026, 12, 29, 21, 0, tzinfo=UTC)
LOOK = 5.0
GROWTH = 0.10
"""How much more a process may hold in the last third than in the second."""
SLACK = 8 << 20
"""Bytes that do not count."""
DESCRIPTORS = 8
"""Those that do not count; Postgres opens the files of a new month's tables once in each of its processes."""


class Soak:
    """One station, from its start to its end."""

    def __init__(self, out: Path, minutes: float, hours: float) -> None:
        self._out, self._minutes, self._hours = out, minutes, hours
        self._folder = Folder(out / "station")
        self._clock = out / "clock"
        self._began = time.time()
        self.samples: list[dict[str, Any]] = []

    def run(self) -> list[str]:
        """What grew, or did not go on; empty where all is well."""
        self._set_clock(timedelta())
        env = {
            **os.environ,
            "LD_PRELOAD": str(FAKETIME[-1]),
            "PYTHONPATH": f"{SLEEPING}:{ROOT}",
            "FAKETIME_TIMESTAMP_FILE": str(self._clock),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        tocsin = [sys.executable, "-m", "control.composition"]
        path = str(self._folder.path)
        with (self._out / "up.log").open("wb") as log:
            up = subprocess.Popen(
                [*tocsin, "up", "--demo", "--station", path], env=env, stdout=log, stderr=log
            )
        try:
            self._await_ready(up)
            load = subprocess.Popen(
                [sys.executable, "-m", "tests.soak.load", path], env=env, stdout=subprocess.PIPE
            )
            self._watch()
            load.send_signal(signal.SIGTERM)
            told = load.communicate(timeout=60)[0].decode().strip()
            verified = subprocess.run(
                [*tocsin, "audit", "verify", "--json", "--station", path],
                env=env,
                capture_output=True,
                text=True,
            )
        finally:
            up.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                up.wait(60)
            up.kill()
        print(f"commands: {told}")
        wrong = (
            []
            if verified.returncode == 0
            else [f"audit verify: {verified.stdout[-300:]}{verified.stderr[-300:]}"]
        )
        return wrong + self._grown()

    def _await_ready(self, up: subprocess.Popen[bytes]) -> None:
        until = time.monotonic() + 120
        while "Ready after" not in (said := (self._out / "up.log").read_text()):
            if up.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"the station did not start: {said[-500:]}")
            time.sleep(0.2)

    def _watch(self) -> None:
        """Look at every process, and let the clock hurry on once a minute."""
        began, hurried = time.monotonic(), 0
        while (passed := time.monotonic() - began) < self._minutes * 60:
            if passed >= (hurried + 1) * 60:
                hurried += 1
                self._set_clock(timedelta(hours=self._hours * hurried))
            self.samples.append(
                {"t": round(passed, 1), "clock": self._clock.read_text().strip(), **self._look()}
            )
            with (self._out / "samples.jsonl").open("a") as file:
                file.write(json.dumps(self.samples[-1]) + "\n")
            time.sleep(LOOK)

    def _look(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        running = instance.read(self._folder)
        for name, child in running.children.items() if running else ():
            with suppress(psutil.Error):
                family = [psutil.Process(child.pid), *psutil.Process(child.pid).children(recursive=True)]
                found[name] = {
                    "pid": child.pid,
                    "rss": sum(one.memory_info().rss for one in family),
                    "files": sum(one.num_fds() for one in family),
                }
        return {"processes": found, "redis": self._held_by_redis()}

    def _held_by_redis(self) -> int | None:
        """Bytes of data in the primary; None where it does not say."""
        try:
            link = connect(load(self._folder.settings).redis, "soak")
            told = str(link.call("INFO", "memory"), "utf-8")
            link.close()
        except Unreachable:
            return None
        return int(told.partition("used_memory:")[2].split()[0])

    def _grown(self) -> list[str]:
        """The processes that held more in the last third than in the second, or were started again."""
        third = len(self.samples) // 3
        wrong = []
        for name in self.samples[-1]["processes"] if self.samples else ():
            parts = [self.samples[third : 2 * third], self.samples[2 * third :]]
            seen = [[one["processes"][name] for one in part if name in one["processes"]] for part in parts]
            if len({one["pid"] for part in seen for one in part}) > 1:
                wrong.append(f"{name} was started again")
            before, after = (median(one["rss"] for one in part) for part in seen)
            files = [median(one["files"] for one in part) for part in seen]
            held = f"{before / 2**20:7.1f} → {after / 2**20:7.1f} MiB"
            print(f"{name:<12} {held}, {files[0]:.0f} → {files[1]:.0f} files")
            # Postgres' shared pages count once for each of its processes; Redis is asked what it holds.
            if name != "postgres" and not name.startswith("redis") and after > before * (1 + GROWTH) + SLACK:
                wrong.append(f"{name} grew from {before / 2**20:.0f} to {after / 2**20:.0f} MiB")
            if files[1] > files[0] * (1 + GROWTH) + DESCRIPTORS:
                wrong.append(f"{name} has {files[1]:.0f} descriptors, {files[0]:.0f} before")
        held = [
            [one["redis"] for one in part if one["redis"]]
            for part in (self.samples[third : 2 * third], self.samples[2 * third :])
        ]
        before, after = (median(part) for part in held)
        print(f"in Redis     {before / 2**20:7.1f} → {after / 2**20:7.1f} MiB")
        if after > before * (1 + GROWTH) + SLACK / 8:
            wrong.append(f"what is in Redis grew from {before / 2**20:.1f} to {after / 2**20:.1f} MiB")
        return wrong

    def _set_clock(self, on: timedelta) -> None:
        offset = (BEGIN + on).timestamp() - self._began
        fresh = self._clock.with_suffix(".new")
        fresh.write_text(f"{offset:+.0f}\n")
        fresh.replace(self._clock)


def main() -> int:
    """0: flat; 1: something grew or broke; 2: no libfaketime here."""
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--hours-a-minute", type=float, default=6)
    parser.add_argument("--out", default="")
    asked = parser.parse_args()
    if not FAKETIME:
        print("make soak needs libfaketime: apt-get install libfaketime", file=sys.stderr)
        return 2
    out = Path(asked.out or ROOT / "build" / "soak" / time.strftime("%Y%m%d-%H%M%S"))
    out.mkdir(parents=True)
    wrong = Soak(out, asked.minutes, asked.hours_a_minute).run()
    print("\n".join(f"WRONG  {one}" for one in wrong) or "flat")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
