"""The test session's own promises: it tells what was skipped, and fails on what was left running."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.conftest import parts_that_may_be_missing

ROOT = Path(__file__).parent.parent
HOOKS = "from tests.conftest import pytest_configure, pytest_sessionstart, pytest_terminal_summary\n"


def session(folder: Path, test: str, *, workers: int, ci: bool) -> subprocess.CompletedProcess[str]:
    """Run one test module under this suite's session hooks."""
    (folder / "conftest.py").write_text(HOOKS)
    (folder / "test_one.py").write_text(test)
    (folder / "pytest.ini").write_text("[pytest]\n")
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", str(workers), "."],
        cwd=folder,
        env={**env, "PYTHONPATH": str(ROOT), "CI": "true" if ci else "false"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


MISSING = """
import pytest
def test_needs_it():
    pytest.skip("real part missing: frobnicator")
"""


@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.chaos), 2])
def test_a_skipped_real_part_is_told_and_fails_ci(tmp_path: Path, workers: int) -> None:
    """A part that docs/testing.md does not list stands in the table, and fails the run in CI alone."""
    at_home = session(tmp_path, MISSING, workers=workers, ci=False)
    in_ci = session(tmp_path, MISSING, workers=workers, ci=True)
    assert at_home.returncode == 0, at_home.stdout
    assert "frobnicator" in at_home.stdout
    assert in_ci.returncode == 1, in_ci.stdout
    assert "not listed in docs/testing.md: frobnicator" in in_ci.stdout


LEAK = """
import subprocess, pathlib
def test_leaks():
    process = subprocess.Popen(["sleep", "300"], start_new_session=True)
    pathlib.Path("pid").write_text(str(process.pid))
    process.returncode = 0  # so that Python does not warn
"""


@pytest.mark.chaos
@pytest.mark.parametrize("workers", [0, 2])
def test_a_process_left_running_fails_the_run_and_is_ended(tmp_path: Path, workers: int) -> None:
    """A process that a test detached and left is named, ended, and fails the run."""
    ran = session(tmp_path, LEAK, workers=workers, ci=False)
    assert ran.returncode == 1, ran.stdout
    assert "left running by the tests (ended now)" in ran.stdout
    assert "sleep 300" in ran.stdout
    pid = int((tmp_path / "pid").read_text())
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


SHORT_AND_LONG = """
import subprocess, time
def test_short():
    pass
def test_long():
    process = subprocess.Popen(["sleep", "8"])
    assert process.wait() == 0
"""


@pytest.mark.chaos
def test_a_worker_that_ends_early_leaves_the_others_processes_alone(tmp_path: Path) -> None:
    """Only the whole run's end is the time to look for what was left: one worker ends before another."""
    ran = session(tmp_path, SHORT_AND_LONG, workers=2, ci=False)
    assert ran.returncode == 0, ran.stdout


def test_only_the_named_section_lists_parts() -> None:
    """Parts are read from the table under their heading, and from nowhere else."""
    table = "| part | why |\n|---|---|\n| `browser` | none here |\n"
    text = f"# A\n| `x` | no |\n## Parts that may be missing\n{table}## B\n| `y` | no |\n"
    assert parts_that_may_be_missing(text) == {"browser"}
