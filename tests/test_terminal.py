"""What a terminal shows: the live view, tables of 80 columns, completion by Tab."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from control.cli.screen import CELLS, Seen, bar, drawn
from control.cli.watch import again
from control.composition import tocsin as command_line
from control.readapi import ReadApi
from tests.fix_cli import Prompt
from tests.fix_servers import eventually
from tests.fix_whole import Whole

NOW = datetime(2026, 11, 26, 1, 2, 3, tzinfo=UTC)
WORD = st.text(st.characters(codec="utf-8", exclude_categories=["C"]), max_size=90)


def a_source(id: str = "lobby", **more: Any) -> dict[str, Any]:
    level = {"rms_dbfs": -18.24, "peak_dbfs": -6.0}
    told = {"id": id, "name": "", "state": "running", "desired": "running", "score": 100, "reasons": []}
    return {**told, "level": level, **more}


def seen(*sources: dict[str, Any], stale: bool = False, **more: Any) -> Seen:
    lane = {"lane": "p0", "owner": "local", "waiting": 0, "parked": 0, "behind": 3, "unarchived": 0}
    data = {
        "service": {"status": "healthy"},
        "sources": list(sources),
        "lanes": [{**lane, "trouble": None}],
        "troubles": [],
    }
    envelope = {"data": data, "stale": stale, "age_seconds": 21.0, "source": "database"}
    return Seen(url="http://127.0.0.1:1", at=NOW, dashboard=envelope, **more)


def lines(seen: Seen, *, width: int = 80, height: int = 24, now: datetime = NOW) -> list[str]:
    console = Console(file=StringIO(), width=width, height=height)
    console.print(drawn(seen, now, height))
    assert isinstance(console.file, StringIO)
    return console.file.getvalue().splitlines()


def test_a_screen_tells_states_levels_and_lags() -> None:
    """A source's state, level and peak stand in its row; lanes say how far behind they are."""
    shown = "\n".join(lines(seen(a_source())))
    assert re.search(r"lobby +running +running +█+·+ -18\.2 +-6\.0", shown)
    assert "1; 0 waiting, 0 parked, 3 behind, 0 unarchived" in shown
    assert "STALE" not in shown


def test_a_screen_says_that_it_is_stale() -> None:
    """What is read stale, and what could not be read again, is said in a line of its own, with its age."""
    assert "STALE: this is 21 s old (from the database)" in "\n".join(lines(seen(a_source(), stale=True)))
    with ReadApi("http://127.0.0.1:1", patience=1.0) as api:
        lost = again(api, seen(a_source()))
    shown = "\n".join(lines(lost, now=NOW + timedelta(seconds=40)))
    assert "STALE: what follows is 40 s old" in shown
    assert "lobby" in shown


@given(st.lists(st.tuples(WORD, WORD, WORD), max_size=40), st.integers(10, 60))
def test_a_screen_fits_80_columns_and_its_height(rows: list[tuple[str, str, str]], height: int) -> None:
    """However many sources there are and whatever they are called, no line is longer, and none is lost."""
    sources = [a_source(id, name=name, state=state, score=0) for id, name, state in rows]
    console = Console(file=StringIO(), width=80, height=height)
    screen = console.render_lines(drawn(seen(*sources), NOW, height))
    assert all(sum(segment.cell_length for segment in line) <= 80 for line in screen)
    assert len(screen) <= max(height, 15)


def test_what_is_not_well_comes_first() -> None:
    """Where not all sources fit, those with trouble do, with the worst reason, and the rest is counted."""
    bad = a_source("z", score=20, reasons=[{"message": "it failed"}], state="failed", level=None)
    shown = lines(seen(*(a_source(f"s{n}") for n in range(40)), bad), height=20)
    assert "it failed" in shown[3]
    assert any("and 35 more" in line for line in shown)


@given(st.none() | st.floats(-200, 20))
def test_a_bar_has_its_width(level: float | None) -> None:
    """Any level, digital silence too, is a bar of the same width; louder is never shorter."""
    assert len(bar(level)) == CELLS
    assert bar(None) == "·" * CELLS
    assert level is None or bar(level).count("█") <= bar(level + 1).count("█")


@pytest.fixture
def tmux(tmp_path: Path, demo_station: Whole) -> Iterator[Callable[..., str]]:
    """A terminal of 80 × 24 whose shell has the demo station."""
    if shutil.which("tmux") is None:
        pytest.skip("real part missing: tmux")
    base = ["tmux", "-S", str(tmp_path / "tmux"), "-f", "/dev/null"]
    env = {
        **os.environ,
        "TOCSIN_STATION": str(demo_station.folder.path),
        "PS1": "$ ",
        "TERM": "xterm-256color",
    }

    def run(*words: str) -> str:
        return subprocess.run([*base, *words], env=env, capture_output=True, text=True, check=True).stdout

    run("new-session", "-d", "-x", "80", "-y", "24", "bash --norc --noprofile")
    yield run
    run("kill-server")


@pytest.mark.slow
def test_watch_in_a_real_terminal(tmux: Callable[..., str]) -> None:
    """`tocsin watch` shows the demo's level as it changes, and Ctrl-C gives the terminal back as it was."""

    def screen() -> str:
        return tmux("capture-pane", "-p")

    watch = f"{sys.executable} -m control.composition watch --every 0.2"
    tmux("send-keys", f"echo before; {watch}; echo end $?", "Enter")
    eventually(lambda: "Ctrl-C ends this." in screen(), "the view", 20)
    first = screen()
    assert "before" not in first, "it has a screen of its own"
    assert re.search(r"demo +running", first)
    eventually(lambda: screen() != first, "it is live")
    tmux("send-keys", "C-c")
    eventually(lambda: "end 0" in screen(), "the prompt is back")
    assert "before" in screen()
    assert "Traceback" not in screen()
    assert "Ctrl-C" not in screen()


def _listing() -> list[tuple[str, ...]]:
    """Every verb that prints a table and needs no argument."""
    context, found = click.Context(command_line), [("status",), ("watch", "--once"), ("doctor",)]
    for name in command_line.list_commands(context):
        group = command_line.get_command(context, name)
        if isinstance(group, click.Group) and name != "run":
            verbs = (verb for verb in group.list_commands(context) if verb in ("list", "status", "state"))
            found += [(name, verb) for verb in verbs]
    return found


@pytest.mark.slow
def test_every_table_fits_80_columns(demo_prompt: Prompt, demo_station: Whole) -> None:
    """Every verb that lists, and those that look around, print no line longer than 80 signs."""
    recording = demo_station.source("demo")["settings"]["path"]
    long = "a-source-whose-id-is-as-long-as-it-may-be-which-is-64-characters"
    added = demo_prompt("source", "add", long, "--file", recording, "--name", "A very long name " * 5)
    assert added.code == 0, added.err
    try:
        eventually(lambda: demo_station.source(long) != {}, "the source is in the read model")
        verbs = _listing()
        assert {("source", "list"), ("command", "list"), ("alert", "list"), ("parked", "list")} <= set(verbs)
        wide = {}
        for verb in verbs:
            ran = demo_prompt(*verb)
            assert ran.code in (0, 1), ran.err
            wide |= {" ".join(verb): line for line in ran.out.splitlines() if len(line.rstrip()) > 80}
        assert wide == {}
    finally:
        demo_prompt("source", "remove", long)


COMPLETED = """
source <(tocsin completion bash)
complete_line() {
    COMP_WORDS=($1 "$2"); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMPREPLY=()
    _tocsin_completion tocsin; echo "${COMPREPLY[@]}"
}
complete_line tocsin so
complete_line "tocsin source" st
complete_line "tocsin source start" --al
complete_line "tocsin source stop" de
"""


@pytest.mark.slow
def test_bash_completes_verbs_options_and_sources(demo_station: Whole, tmp_path: Path) -> None:
    """What `tocsin completion bash` prints makes a real bash complete verbs, options and ids of sources."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "TOCSIN_STATION": str(demo_station.folder.path)}
    ran = subprocess.run(
        ["bash", "-c", COMPLETED], env=env, capture_output=True, text=True, timeout=60, check=True
    )
    assert ran.stdout.split("\n")[:4] == ["source", "start stop", "--all", "demo"], ran.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_installed_where_the_shell_looks(shell: str, tmp_path: Path) -> None:
    """--install writes it below the home folder and says where, and what is left to do."""
    ran = Prompt(tmp_path)("completion", shell, "--install", HOME=str(tmp_path))
    assert ran.code == 0
    (file,) = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert str(file) in ran.out
    assert "_TOCSIN_COMPLETE" in file.read_text()
