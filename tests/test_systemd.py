"""The units for machines without containers: what systemd itself says of them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from control.deployment.folder import Made
from tests.fix_deployment import ROOT

UNITS = ROOT / "deploy" / "systemd"
NAMES = (
    "tocsin-up", "tocsin-redis", "tocsin-sentinel",
    "tocsin@ingest", "tocsin@control", "tocsin@projections", "tocsin@web",
)  # fmt: skip
EXPOSED = 20
"""Tenths of systemd's own measure of exposure, from 0 (nothing) to 100 (an ordinary service has 96)."""


@pytest.fixture(scope="module")
def units(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The units as an administrator installs them, with this machine's Python in place of /opt/tocsin's."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("real part missing: systemd-analyze")
    folder = tmp_path_factory.mktemp("units") / "system"
    shutil.copytree(UNITS, folder)
    for path in folder.glob("*.service"):
        path.write_text(path.read_text("utf-8").replace("/opt/tocsin/bin/tocsin", sys.executable))
    for name in NAMES:
        template, at, _ = name.partition("@")
        if at:
            (folder / f"{name}.service").symlink_to(f"{template}@.service")
    return folder


def analysed(units: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """What `systemd-analyze` says."""
    env = {**os.environ, "SYSTEMD_UNIT_PATH": f"{units}:", "SYSTEMD_COLORS": "0"}
    return subprocess.run(["systemd-analyze", *words], env=env, capture_output=True, text=True)


@pytest.mark.parametrize("name", NAMES)
def test_systemd_finds_no_fault_in_a_unit(units: Path, name: str) -> None:
    """`systemd-analyze verify` has nothing to say."""
    done = analysed(units, "verify", "--man=no", str(units / f"{name}.service"))
    assert done.returncode == 0, done.stderr
    # What it says of the machine's own units is none of ours.
    assert [line for line in done.stderr.splitlines() if "tocsin" in line] == []


@pytest.mark.parametrize("name", NAMES)
def test_a_unit_is_hardened(units: Path, name: str) -> None:
    """`systemd-analyze security` rates it as hardly exposed."""
    how = ("--offline=true", f"--threshold={EXPOSED}")
    done = analysed(units, "security", *how, str(units / f"{name}.service"))
    assert done.returncode == 0, done.stdout[-400:]


def test_units_show_what_init_deploy_makes(deployment: Made) -> None:
    """Each file that a unit is shown is made by `init-deploy`, or shipped in deploy/."""
    made = deployment.settings.parent
    shipped = {path.name for path in (ROOT / "deploy").rglob("*")} | {"redis.pem", "redis.key"}
    for path in (one for one in UNITS.rglob("*") if one.is_file()):
        for name in re.findall(r"/etc/tocsin/([\w./-]+)", path.read_text("utf-8")):
            assert (made / name).exists() or Path(name).name in shipped, f"{path.name}: {name}"
