"""One run: the station started, loaded, harmed by a schedule, and its history checked."""

from __future__ import annotations

import json
import os
import platform
import random
import subprocess
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from control.desk import Desk, Wish
from tests.chaos.checker import Violation, check
from tests.chaos.collect import all_rows, collect, settled
from tests.chaos.faults import FIXED, KILL_PRIMARY, Fault, by_chance
from tests.chaos.history import History, Lines, Told, write_lines
from tests.chaos.operator import BUTTONS, NODES, PACE
from tests.chaos.probe import Probe
from tests.chaos.radio import PORT
from tests.chaos.stage import ROOT
from tests.chaos.station import OPERATORS, RADIO, NotReady, Station

FLOWS = 20
"""Answers after a fault before the next."""
CALM = (0.5, 3.0)
"""Seconds between the station being whole and the next fault."""


@dataclass
class Plan:
    """What is to be done: so many faults by chance after the fixed ones, or as many as fit."""

    seed: int
    faults: int = 0
    fixed: bool = False
    kills: int = 0
    only: str = ""
    minutes: float = 0.0
    patience: float = 90.0
    """Seconds that the station gets to be whole again, and to confirm again."""
    pace: float = PACE
    """Seconds between two commands of a hand of an operator."""

    def schedule(self, draw: random.Random) -> Iterator[Fault]:
        """The faults in their order."""
        if self.only:
            named = [one for one in (*FIXED, KILL_PRIMARY) if self.only in one.name]
            yield from named * max(self.faults, 1)
            return
        if self.fixed:
            yield from FIXED
        for _ in range(self.kills):
            yield KILL_PRIMARY
        yield from islice(by_chance(draw), self.faults)


@dataclass
class Outcome:
    """What came of it."""

    records: list[dict[str, Any]] = field(default_factory=list)
    told: list[Told] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)
    complete: bool = False


class Run:
    """A run in `folder`, whose records go to run.jsonl there as they come."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self._folder = folder
        self._plan = plan
        self._draw = random.Random(plan.seed)
        self._station = Station(folder, seed=plan.seed, pace=plan.pace)
        self._probe = Probe(self._station.settings())
        self._desk = Desk(self._station.settings(), folder)
        self._lines, self._told_yet = Lines(self._station.told()), list[Told]()
        self._troubles: list[str] = []
        self._began = time.monotonic()
        self.outcome = Outcome()

    def play(self) -> Outcome:
        """Play the plan to its end, or for as long as it may take."""
        self._note("begin", **self._about())
        try:
            self._start()
            until = self._began + self._plan.minutes * 60 if self._plan.minutes else float("inf")
            self.outcome.complete = True
            for number, fault in enumerate(self._plan.schedule(self._draw), start=1):
                if time.monotonic() > until or self._troubles:
                    self.outcome.complete = False
                    break
                self._suffer(number, fault)
            self._finish()
        except Exception as error:  # whatever it was, there is a report, and it says so
            self.outcome.complete = False
            self._trouble(_told(error))
            self.outcome.violations = [Violation("nobody needed", text) for text in self._troubles]
        finally:
            self._station.close()
        self._note(
            "end",
            complete=self.outcome.complete,
            violations=[f"{one.rule}: {one.detail}" for one in self.outcome.violations],
            seconds=round(time.monotonic() - self._began, 1),
            load=os.getloadavg(),
        )
        self.outcome.told = self._told()
        return self.outcome

    def _start(self) -> None:
        station = self._station
        station.prepare()
        station.start()
        station.whole(self._plan.patience)
        self._probe.start()
        self._add_sources()
        station.stage.start(RADIO, *OPERATORS)
        self._flows(time.monotonic())
        self._note("ready")

    def _add_sources(self) -> None:
        settings = {"kind": "file", "path": "/srv/media/weekly.wav", "loop": True}
        for node in NODES:
            for name in ("radio", *(f"button-{number}" for number in range(BUTTONS))):
                add = Wish(type="source.add", source=f"{name}-{node}", params={"settings": settings})
                self._desk.add(add, kind="file", node=node, timeout=60)
            self._tell("source.start", f"radio-{node}")
        listened = {"kind": "stream", "url": f"http://{RADIO}:{PORT}/live"}
        add = Wish(type="source.add", source=RADIO, params={"settings": listened})
        self._desk.add(add, kind="stream", timeout=60)
        self._tell("source.start", RADIO)

    def _tell(self, type: str, source: str) -> None:
        self._desk.address(Wish(type=type, source=source), timeout=60)

    def _suffer(self, number: int, fault: Fault) -> None:
        station, before = self._station, self._station.primary()
        time.sleep(self._draw.uniform(*CALM))
        began = done = time.monotonic()
        record: dict[str, Any] = {"number": number, "fault": fault.name, "began": self._since(began)}
        try:
            record["detail"] = fault.do(station, self._draw)
            done = time.monotonic()
            record["ended"] = self._since(done)
            station.whole(self._plan.patience)
            self._flows(time.monotonic())
        except Exception as error:
            self._trouble(f"{fault.name}: {_told(error)} ({station.lacks()})")
        whole = time.monotonic()
        record |= {
            "whole": self._since(whole),
            "primary": [before, station.primary()],
            "unwritable_seconds": round(self._probe.unwritable(began, whole), 3),
            "unconfirmed_seconds": self._unconfirmed(began, whole),
        }
        if fault is KILL_PRIMARY and before:
            struck = station.struck
            taken = self._probe.first_after(struck, not_by=before)
            record["writable_again_seconds"] = round(taken - struck, 3) if taken else None
            record["confirmed_again_seconds"] = self._confirmed_again(struck, done)
        self._note("fault", **record)

    def _flows(self, since: float) -> None:
        def flows() -> bool:
            return sum(told.at > since for told in self._told()) >= FLOWS

        self._station.wait("commands are confirmed", flows, self._plan.patience)

    def _told(self) -> list[Told]:
        """What the operators have been told until now."""
        self._told_yet += [Told(**record) for record in self._lines.more()]
        return self._told_yet

    def _confirmed_again(self, at: float, done: float) -> float | None:
        """From `at` until somebody was told of a command that was asked for after it.

        Not what the primary still did before it was dead: that was `done`.
        """
        answers = [
            told.at
            for told in self._told()
            if told.began > at and told.at > done and told.outcome != "expired"
        ]
        return round(min(answers) - at, 3) if answers else None

    def _unconfirmed(self, since: float, until: float) -> float:
        times = [since, *sorted(told.at for told in self._told() if since < told.at < until), until]
        return round(max(b - a for a, b in pairwise(times)), 3)

    def _finish(self) -> None:
        station = self._station
        station.stage.stop(*OPERATORS, within=120)
        self._probe.stop()
        station.whole(self._plan.patience)
        settings = station.settings()
        self._tell("source.stop", RADIO)
        for node in NODES:
            for name in ("radio", *(f"button-{number}" for number in range(BUTTONS))):
                self._tell("source.stop", f"{name}-{node}")
        # Only now: sources that play log on and on.
        try:
            station.wait(
                "everything has a result and is archived", lambda: settled(settings), self._plan.patience
            )
        except NotReady as error:
            self._trouble(str(error))
        code, said = station.cli("projection", "wait", within=100)
        if code:
            self._trouble(f"the projections do not catch up: {said.strip()}")
        history = collect(settings, self._told())
        self._refold(history)
        history.troubles, history.spooled = self._troubles + self._doctor(), station.spooled
        self.outcome.violations = check(history)
        self._note("history", **self._counts(history))

    def _refold(self, history: History) -> None:
        """Have the read models folded afresh, and note which are others then."""
        settings = self._station.settings()
        before = all_rows(settings)
        code, said = self._station.cli("projection", "rebuild", "--all", within=200)
        if code:
            self._trouble(f"the read models cannot be rebuilt: {said.strip()}")
        self._station.cli("projection", "wait", within=100)
        after = all_rows(settings)
        history.tables = [name for name in before if before[name] != after[name]]
        for name in history.tables:
            lost, new = set(before[name]) - set(after[name]), set(after[name]) - set(before[name])
            self._note("table", name=name, only_before=sorted(lost)[:5], only_after=sorted(new)[:5])
        history.rebuilt = collect(settings, []).rows

    def _doctor(self) -> list[str]:
        _, said = self._station.cli("doctor", "--json")
        findings = json.loads(said.splitlines()[-1])["doctor"]["findings"]
        return [f"{one['part']}: {one['told']}" for one in findings if one["verdict"] == "trouble"]

    def _counts(self, history: History) -> dict[str, Any]:
        return {
            "told": len(history.told),
            "events": sum(map(len, history.log.values())),
            "trimmed": history.trimmed,
            "spooled": len(history.spooled),
            "archived": sum(map(len, history.archive.values())),
            "restored": sum(f.type == "log.restored" for facts in history.log.values() for f in facts),
            "forked": sum(f.type == "log.forked" for facts in history.log.values() for f in facts),
            "alerts": sum(history.hearings.values()),
        }

    def _trouble(self, what: str) -> None:
        self._troubles.append(what)
        self._note("trouble", detail=what)

    def _about(self) -> dict[str, Any]:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
        return {
            "seed": self._plan.seed,
            "plan": {key: value for key, value in vars(self._plan).items() if key != "seed"},
            "commit": commit.stdout.strip() or None,
            "monotonic": self._began,
            "load": os.getloadavg(),
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": platform.platform(),
        }

    def _since(self, at: float) -> float:
        return round(at - self._began, 3)

    def _note(self, what: str, /, **more: Any) -> None:
        record = {"what": what, "t": self._since(time.monotonic()), **more}
        self.outcome.records.append(record)
        write_lines(self._folder / "run.jsonl", [record])
        print(f"{record['t']:8.1f} s  {what}  {_brief(more)}", flush=True)


def _told(error: Exception) -> str:
    """The error, and where it came from unless it is one of ours."""
    return str(error) if isinstance(error, NotReady) else "".join(traceback.format_exception(error)).strip()


def _brief(more: dict[str, Any]) -> str:
    shown = {
        key: value for key, value in more.items() if key not in ("machine", "plan", "at", "number", "began")
    }
    return ", ".join(f"{key} {value}" for key, value in shown.items())[:300]
