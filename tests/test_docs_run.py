"""What the documents show works: every `tocsin` command in them is run at a whole station."""

from __future__ import annotations

import os
import re
import shlex
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.fix_cli import Prompt
from tests.fix_whole import Whole
from tests.test_docs import DOCUMENTS, ROOT, shown

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

NOT_RUN = {
    r"tocsin (up|down)\b": "it would start another station, or end this one",
    r"tocsin run ": "a process that goes on until it is stopped, for a station in /etc",
    r"tocsin event tail": "it goes on until Ctrl-C",
    r".* /var/backups/": "it writes outside of the test's folder",
    r"tocsin source add (kec83|wire|sdr|desk) ": "no such stream, program or card: each kind has tests",
    r"tocsin drill failover": "it changes the primary under the other tests: tests/test_drill.py has its own",
    r"tocsin midi (learn|run)": "it needs a surface: tests/test_midi_ports.py has one",
}
"""Commands that are not run here, and why."""

ENDS_OTHERWISE = {
    r"tocsin (command|parked|audit) .*01990000-0000-7000-8000-000000000000": (
        {0, 4},
        "an id that is an example",
    ),
    r"tocsin audit state --at node\.local:1234": ({0, 4}, "the lane may not go so far"),
    r"tocsin source stop lobby --expires-in 5m --if-sequence 3": ({0, 4}, "it may have had other commands"),
    r"tocsin --station \./night-shift": ({8}, "there is no such station"),
    r"tocsin alert show 0f3c9a": ({4}, "the id is an example"),
    r"tocsin (alert|condition) acknowledge 17": ({4}, "no such episode is open"),
    r"tocsin projection (retry|drop) sources node\.local:42": ({4}, "nothing is parked"),
    r"tocsin group (create|show|remove) news": ({4}, "its members are examples"),
    r"tocsin source acknowledge lobby 01997e2c": ({4}, "the episode is an example"),
    r"tocsin recording show 01997e2c": ({4}, "the id is an example"),
    r"tocsin source inject lobby /srv/": ({3, 4}, "there is no such recording"),
    r"tocsin midi ports": ({0, 3}, "there may be no MIDI on this machine"),
    r"tocsin doctor": ({0, 1}, "it may find something to say of this machine"),
}
"""Commands that rightly do not end with 0 at this station: their exit codes, and why."""


AGAIN = 45.0
"""Seconds for which a command is tried again whose message says that this may help."""


def commands(document: Path) -> list[str]:
    """The `tocsin` commands of a document that can be run, in its order."""
    lines = [line for line in shown(document) if line.startswith("tocsin ")]
    return [line for line in lines if not any(re.match(pattern, line) for pattern in NOT_RUN)]


def _once() -> dict[Path, list[str]]:
    """What is run of each document: a runbook's commands only where no other document has them."""
    found: dict[Path, list[str]] = {}
    known = set[str]()
    for document in sorted(DOCUMENTS, key=lambda path: "runbooks" in path.parts):
        lines = commands(document)
        if "runbooks" in document.parts:
            lines = [line for line in lines if line not in known]
        known.update(lines)
        if lines:
            found[document] = lines
    return found


ONCE = _once()


@pytest.fixture
def reader(demo_station: Whole, demo_prompt: Prompt, tmp_path: Path) -> Iterator[Prompt]:
    """Somebody who reads in a folder with a recording; afterwards the station is as it was."""
    soundfile.write(tmp_path / "recording.wav", np.zeros(16_000, np.float32), 8_000)
    before = Path.cwd()
    os.chdir(tmp_path)
    yield demo_prompt
    os.chdir(before)
    demo_prompt("source", "remove", "lobby")
    assert demo_prompt("source", "start", "demo").code == 0


@pytest.mark.parametrize("document", ONCE, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_shown_works(document: Path, reader: Prompt, tmp_path: Path) -> None:
    """Run in the document's order, each ends with 0, or as the table says; none is a fault of the tool."""
    lines, there = ONCE[document], False
    went_wrong = {}
    for line in lines:
        adds, removes = (line.startswith(f"tocsin source {verb} lobby") for verb in ("add", "remove"))
        if "lobby" in line and not there and not adds:
            reader("source", "add", "lobby", "--file", str(tmp_path / "recording.wav"), "--loop")
        there = not removes and (there or "lobby" in line)
        codes = next(
            (codes for pattern, (codes, _) in ENDS_OTHERWISE.items() if re.match(pattern, line)), {0}
        )
        until = time.monotonic() + AGAIN
        while (ran := reader(*shlex.split(line)[1:], HOME=str(tmp_path))).code not in codes:
            if "try again" not in ran.err or time.monotonic() > until:
                went_wrong[line] = (ran.code, ran.err or ran.out[-300:])
                break
            time.sleep(0.2)
    assert not went_wrong, "\n".join(f"{line}: {told}" for line, told in went_wrong.items())


def test_the_tables_of_exceptions_are_about_something() -> None:
    """Each exception is of a command that a document shows: a table that has grown old says so."""
    lines = [line for document in DOCUMENTS for line in shown(document)]
    for pattern in (*NOT_RUN, *ENDS_OTHERWISE):
        assert any(re.match(pattern, line) for line in lines), pattern
