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
from typing import Any

import psutil

from control.station import instance
from control.station.folder import Folder
from streams.connection import Unreachable, connect
from streams.settings import load
from tests.soak.judge import judged

ROOT = Path(__file__).parents[2]
SLEEPING = ROOT / "tests" / "chaos" / "within"
FAKETIME = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
BEGIN = datetime(2026, 12, 29, 21, 0, tzinfo=UTC)
LOOK = 5.0
HOP = 60.0
"""Seconds after which the clock is set on; less where the whole soak is shorter than three of them."""


class Soak:
    """One station, from its start to its end."""

    def __init__(self, out: Path, minutes: float, hours: float) -> None:
        self._out, self._minutes, self._hours = out, minutes, hours
        self._folder = Folder(out / "station")
        self._clock = out / "clock"
        self.began = time.time()
        self.samples: list[dict[str, Any]] = []

    def run(self) -> list[str]:
        """What did not go on; empty where all is well."""
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
        load = None
        try:
            self._await_ready(up)
            load = subprocess.Popen(
                [sys.executable, "-m", "tests.soak.load", path], env=env, stdout=subprocess.PIPE
            )
            self._watch()
            load.send_signal(signal.SIGTERM)
            told = load.communicate(timeout=60)[0].decode().strip()
            wrong = _asked([*tocsin, "source", "start", "demo", "--station", path], env)
            wrong += _asked([*tocsin, "audit", "verify", "--json", "--station", path], env)
        finally:
            if load is not None:
                load.kill()
                load.wait()
            up.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                up.wait(60)
            up.kill()
            up.wait()
        print(f"commands: {told}")
        return wrong if "completed=" in told else [*wrong, "no command was completed"]

    def _await_ready(self, up: subprocess.Popen[bytes]) -> None:
        until = time.monotonic() + 120
        while "Ready after" not in (said := (self._out / "up.log").read_text()):
            if up.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"the station did not start: {said[-500:]}")
            time.sleep(0.2)

    def _watch(self) -> None:
        """Look at every process, let the clock hurry on, and say how far it is."""
        began, hurried, seconds = time.monotonic(), 0, self._minutes * 60
        hop = min(HOP, seconds / 3)
        while (passed := time.monotonic() - began) < seconds:
            if passed >= (hurried + 1) * hop:
                hurried += 1
                self._tell(passed)
                self._set_clock(timedelta(hours=self._hours * hurried * hop / 60))
            self.samples.append(
                {"t": round(passed, 1), "clock": self._clock.read_text().strip(), **self._look()}
            )
            with (self._out / "samples.jsonl").open("a") as file:
                file.write(json.dumps(self.samples[-1]) + "\n")
            time.sleep(LOOK)

    def _tell(self, passed: float) -> None:
        last = self.samples[-1]
        there = datetime.fromtimestamp(time.time() + float(last["clock"]), UTC)
        resident = sum(one["rss"] for one in last["processes"].values()) >> 20
        print(
            f"{passed / 60:5.1f} of {self._minutes:g} min, {there:%Y-%m-%d %H:%M}, {resident} MiB in all",
            flush=True,
        )

    def _look(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        running = instance.read(self._folder)
        for name, child in running.children.items() if running else ():
            held = {"pid": child.pid, "rss": 0, "files": 0}
            with suppress(psutil.Error):
                first = psutil.Process(child.pid)
                for one in (first, *first.children(recursive=True)):
                    # A connection's process may end while it is looked at.
                    with suppress(psutil.Error):
                        files = one.num_fds()
                        held["rss"] += one.memory_info().rss
                        held["files"] += files
                found[name] = held
        return {"processes": found, "redis": self._held_by_redis()}

    def _held_by_redis(self) -> int | None:
        """Bytes of data in the primary; None where it does not say."""
        try:
            link = connect(load(self._folder.settings).as_role("reader").redis, "soak")
            told = str(link.call("INFO", "memory"), "utf-8")
            link.close()
        except Unreachable:
            return None
        return int(told.partition("used_memory:")[2].split()[0])

    def _set_clock(self, on: timedelta) -> None:
        offset = (BEGIN + on).timestamp() - self.began
        fresh = self._clock.with_suffix(".new")
        fresh.write_text(f"{offset:+.0f}\n")
        fresh.replace(self._clock)


def _asked(command: list[str], env: dict[str, str]) -> list[str]:
    """What is wrong with a command that is to end well, by the clock as it is in the end."""
    ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
    if not ended.returncode:
        return []
    return [f"{' '.join(command[3:5])}: {ended.stdout[-300:]}{ended.stderr[-300:]}"]


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
    soak = Soak(out, asked.minutes, asked.hours_a_minute)
    broken = soak.run()
    lines, grown = judged(soak.samples)
    wrong = broken + grown
    print("\n".join(lines))
    print("\n".join(f"WRONG  {one}" for one in wrong) or "flat")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
