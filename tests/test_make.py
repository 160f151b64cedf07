"""`make run` from a fresh clone: set-up, a station that plays, and Ctrl-C."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from tests.fix_servers import eventually

ROOT = Path(__file__).parent.parent
NOBODY = 65534
INSTALL = 480.0
"""Seconds that installing everything may take on a slow network."""
PYTHONS = (sys.executable, "/usr/bin/python3")
USABLE = "import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))"


def clone(folder: Path) -> None:
    """A fresh clone of what is committed."""
    cloned = subprocess.run(
        ["git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(folder)], capture_output=True
    )
    if cloned.returncode:
        pytest.skip("not a git checkout")


def python_for(prefix: Sequence[str]) -> str | None:
    """A Python that can make virtual environments for whoever `prefix` runs as."""
    for python in PYTHONS:
        # By a shell, because setpriv itself may still enter folders that whoever it becomes may not.
        probe = subprocess.run(
            [*prefix, "sh", "-c", 'exec "$0" -c "$1"', os.path.realpath(python), USABLE], capture_output=True
        )
        if probe.returncode == 0:
            return os.path.realpath(python)
    return None


def family(mark: str) -> list[psutil.Process]:
    """Every process with `mark` in its environment or command line."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and mark in " ".join(
                (*process.cmdline(), *process.environ().values())
            ):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, OSError):
            continue
    return found


# What runs these tests was set up in the same way, and `make run` in a checkout that is set up is below.
@pytest.mark.chaos
@pytest.mark.timeout(900)
@pytest.mark.parametrize("ordinary", [False, True], ids=["whoever-tests", "ordinary-user"])
def test_make_run_from_a_fresh_clone(tmp_path_factory: pytest.TempPathFactory, ordinary: bool) -> None:
    """Nothing but `make run`: it installs, starts and plays the demo; Ctrl-C leaves no process."""
    prefix: tuple[str, ...] = ()
    if ordinary:
        if os.geteuid() != 0:
            pytest.skip("the other run is that of an ordinary user already")
        prefix = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
    python = python_for(prefix)
    if python is None:
        pytest.skip("real part missing: a Python that an ordinary user can run")
    # Not below pytest's own folder, which is closed to others.
    base = Path(tmp_path_factory.mktemp("make")) if not ordinary else Path("/tmp") / f"tocsin-{os.getpid()}"
    base.mkdir(exist_ok=True)
    home, checkout = base / "home", base / "tocsin"
    home.mkdir()
    clone(checkout)
    if ordinary:
        subprocess.run(["chown", "-R", f"{NOBODY}:{NOBODY}", str(base)], check=True)
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTEST", "XDG_", "TOCSIN_STATION", "VIRTUAL_ENV", "MAKE", "MFLAGS", "ARGS"))
    }
    env |= {"HOME": str(home), "PYTHON": python}
    log = base / "output"
    with log.open("wb") as output:
        make = subprocess.Popen(
            [*prefix, "make", "run"],
            cwd=checkout,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:

        def ready() -> bool:
            assert make.poll() is None, log.read_text()
            return "Dashboard" in log.read_text()

        eventually(ready, f"ready; {log}", INSTALL)
        tocsin = [*prefix, str(checkout / ".venv/bin/tocsin")]
        show = [*tocsin, "source", "show", "demo", "--json"]

        def plays() -> bool:
            return b'"state": "running"' in subprocess.run(show, env=env, capture_output=True).stdout

        eventually(plays, f"the demo plays; {log}", 30)

        os.killpg(make.pid, signal.SIGINT)
        make.wait(30)
        told = log.read_text()
        assert "The data are kept." in told
        assert "Traceback" not in told
        eventually(lambda: not family(str(checkout)), "no process left", 10)

        # Set up already: the second time costs next to nothing.
        began = time.monotonic()
        subprocess.run([*prefix, "make", "setup"], cwd=checkout, env=env, check=True, capture_output=True)
        assert time.monotonic() - began < 2
    finally:
        if make.poll() is None:
            os.killpg(make.pid, signal.SIGTERM)
            make.wait(30)
        shutil.rmtree(base, ignore_errors=True)


def test_make_run_plays_until_ctrl_c(tmp_path: Path) -> None:
    """Where all is installed: a station of one's own, the demo, the page's address; Ctrl-C leaves nothing."""
    if not (ROOT / ".venv/.ready").exists():
        pytest.skip("this checkout was not set up by make")
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTEST", "MAKE", "MFLAGS", "ARGS"))
    }
    env |= {"TOCSIN_STATION": str(tmp_path / "station")}
    log = tmp_path / "output"
    with log.open("wb") as output:
        make = subprocess.Popen(
            ["make", "run"], cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=output,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        eventually(lambda: "Dashboard" in log.read_text(), f"ready; {log}", 150)
        os.killpg(make.pid, signal.SIGINT)
        make.wait(30)
        assert "The data are kept." in log.read_text()
        assert "Traceback" not in log.read_text()
        eventually(lambda: not family(str(tmp_path / "station")), "no process left", 10)
    finally:
        if make.poll() is None:
            os.killpg(make.pid, signal.SIGTERM)
            make.wait(30)


def test_a_python_that_is_too_old_is_named(tmp_path: Path) -> None:
    """`make setup` with an old Python stops at once and says what to install."""
    old = tmp_path / "python3"
    old.write_text('#!/bin/sh\ncase "$1" in --version) echo Python 3.9.2;; *) exit 1;; esac\n')
    old.chmod(0o755)
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("requirements.lock", "pyproject.toml"):
        (tmp_path / name).touch()
    ran = subprocess.run(
        ["make", "setup", f"PYTHON={old}"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode != 0
    assert "Python 3.9.2 is too old" in ran.stderr
    assert "3.11" in ran.stderr
    missing = subprocess.run(
        ["make", "setup", "PYTHON=no-such-python"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "'no-such-python' was not found" in missing.stderr
