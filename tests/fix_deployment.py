"""A deployment as it is shipped: its folder, its compose files, and all of its containers once started."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from control.deployment.folder import Made, init_deploy
from tests.chaos import namespace

ROOT = Path(__file__).parent.parent
SENTINEL = "docker-compose.sentinel.yml"
CLUSTER = "deploy/docker-compose.cluster.yml"


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """What `tocsin init-deploy` made, for a module's tests, which change nothing in it."""
    return init_deploy(
        tmp_path_factory.mktemp("deployment") / "deployment", hosts=("radio.example", "10.0.0.9")
    )


def composed(made: Made, files: Sequence[str]) -> dict[str, Any]:
    """What Docker Compose itself makes of the files; skipped where there is none."""
    options = ["--env-file", str(made.settings), "--project-directory", str(ROOT)]
    options += [word for name in files for word in ("-f", str(ROOT / name))]
    done = subprocess.run(
        [*_compose(), *options, "--profile", "cli", "config", "--format", "json"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def _compose() -> list[str]:
    fetched = Path(sys.executable).parent.parent / "docker-compose"
    if fetched.exists():
        return [str(fetched)]
    if named := shutil.which("docker-compose"):
        return [named]
    if (
        shutil.which("docker")
        and not subprocess.run(["docker", "compose", "version"], capture_output=True).returncode
    ):
        return ["docker", "compose"]
    pytest.skip("real part missing: docker compose")


def paraded(folder: Path, *more: Path) -> dict[str, Any]:
    """What came of starting all containers as processes; skipped where this machine has no room for them."""
    if lacking := namespace.missing():
        pytest.skip(f"real part missing: {lacking}")
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos.parade", str(folder), *map(str, more)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=dict(os.environ),
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if "missing" in told:
        pytest.skip(f"real part missing: {told['missing']}")
    return told
