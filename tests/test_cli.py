"""The command line: help at once, clear errors, CONTRACT's exit codes."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from control.composition import PROCESSES, VERBS, tocsin
from tests.fix_cli import Terminal

HEAVY = {"redis", "rich", "sqlalchemy", "msgspec", "httpx", "litestar", "numpy", "structlog", "psycopg"}


@pytest.fixture
def nowhere(tmp_path: Path) -> Terminal:
    """A prompt where no station is."""
    return Terminal(tmp_path / "nothing")


def test_help_imports_nothing_but_click() -> None:
    """`tocsin --help` costs no import of a server's client, a table printer or a database."""
    program = (
        "import sys\nfrom control.composition import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    imported = set(eval(done.stdout.splitlines()[-1]))
    assert "click" in imported
    assert not imported & HEAVY


def test_help_is_there_within_two_tenths_of_a_second() -> None:
    """The median of nine runs of `tocsin --help` takes at most 0.2 s of processor time."""
    spent = []
    for _ in range(9):
        before = os.times()
        subprocess.run(
            [sys.executable, "-m", "control.composition", "--help"], stdout=subprocess.DEVNULL, check=True
        )
        after = os.times()
        user = after.children_user - before.children_user
        spent.append(user + after.children_system - before.children_system)
    assert statistics.median(spent) <= 0.2


def _paths() -> list[tuple[str, ...]]:
    import click

    paths: list[tuple[str, ...]] = []
    context = click.Context(tocsin)
    for name in VERBS:
        paths.append((name,))
        if name in ("up", "down"):
            continue
        found = tocsin.get_command(context, name)
        if name == "run":
            paths += [(name, process) for process in PROCESSES]
        elif isinstance(found, click.Group):
            paths += [(name, verb) for verb in found.commands]
    return paths


@pytest.mark.parametrize("path", _paths(), ids=" ".join)
def test_every_verb_explains_itself(path: tuple[str, ...], nowhere: Terminal) -> None:
    """Each verb prints its usage with --help and exits with 0, station or no station."""
    ran = nowhere(*path, "--help")
    assert ran.code == 0, ran.err
    assert f"Usage: tocsin {' '.join(path)}" in ran.out


def test_an_unknown_verb_is_wrong_usage(nowhere: Terminal) -> None:
    """A verb that does not exist ends with exit code 2 and says which it was."""
    ran = nowhere("source", "explode", "demo")
    assert ran.code == 2
    assert "explode" in ran.err


def test_no_station_says_how_to_start_one(nowhere: Terminal) -> None:
    """Where there is no station the exit code is 8, and the message names the folder and the next step."""
    ran = nowhere("source", "start", "demo")
    assert ran.code == 8
    assert str(nowhere.folder) in ran.err
    assert "tocsin up" in ran.err
    assert "Traceback" not in ran.err


def test_a_fault_of_the_tool_shows_its_traceback_only_on_demand(tmp_path: Path) -> None:
    """An unforeseen error is told in one line with exit code 1; TOCSIN_DEBUG=1 shows where it happened."""
    folder = tmp_path / "station"
    (folder / "station.toml").mkdir(parents=True)
    (folder / "run").mkdir()
    (folder / "run" / "station.json").mkdir()
    broken = Terminal(folder)
    quiet, loud = broken("status"), broken("status", TOCSIN_DEBUG="1")
    assert quiet.code == loud.code
    assert quiet.code in (1, 2)
    assert "Traceback" not in quiet.err
    assert "Traceback" in loud.err


def test_an_invalid_setting_is_named(tmp_path: Path) -> None:
    """A wrong key in station.toml ends with exit code 2, naming the key."""
    folder = tmp_path / "station"
    folder.mkdir()
    (folder / "station.toml").write_text("[redis]\nurrl = 'redis://127.0.0.1'\n")
    ran = Terminal(folder)("source", "start", "demo")
    assert ran.code == 2
    assert "urrl" in ran.err


def test_an_invalid_name_is_wrong_usage(tocsin: Terminal) -> None:
    """A source id that breaks its pattern is refused before anything is sent, with exit code 2."""
    ran = tocsin("source", "start", "Not A Name")
    assert ran.code == 2
    assert "Not A Name" in ran.err


def test_an_unreachable_station_says_that_nothing_was_submitted(tocsin: Terminal) -> None:
    """Where Redis does not answer the exit code is 8, at once, and the message says what was submitted."""
    began = time.monotonic()
    ran = tocsin("source", "start", "demo", "--json", TOCSIN_REDIS_URL="redis://127.0.0.1:1/0")
    assert ran.code == 8
    assert time.monotonic() - began < 5
    assert "nothing was submitted" in ran.err
    assert ran.json["error"]["exit_code"] == 8


def test_reading_without_a_web_process_says_so(tocsin: Terminal) -> None:
    """`source list` where the web process is away ends with exit code 8 and never with an empty list."""
    ran = tocsin("source", "list")
    assert ran.code == 8
    assert "web process" in ran.err
    assert ran.out == ""
