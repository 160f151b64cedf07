"""What stands beside every figure: commit, versions, machine; and where results are written."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from streams.connection import Link

RESULTS = Path(__file__).parent / "results"


def circumstances(link: Link) -> dict[str, Any]:
    """When, of which commit, with which versions and on what these figures were measured."""
    server = link.call("INFO", "server").decode()
    fields = dict(line.split(":", 1) for line in server.splitlines() if ":" in line)
    name = "valkey" if "valkey_version" in fields else "redis"
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "cpus": os.cpu_count(),
        "processor": _processor(),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "server": f"{name} {fields.get('valkey_version', fields['redis_version'])}",
        "versions": {name: version(name) for name in ("redis", "hiredis", "msgspec", "cryptography")},
        "load_before": round(os.getloadavg()[0], 2),
    }


def write(name: str, result: dict[str, Any]) -> Path:
    """Write `result` to bench/results/NAME-DATE.json and return its path."""
    RESULTS.mkdir(exist_ok=True)
    stamp = result["circumstances"]["date"].replace(":", "").replace("+0000", "Z")
    path = RESULTS / f"{name}-{stamp}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
    return path


def _commit() -> str:
    def git(*words: str) -> str:
        return subprocess.run(("git", *words), capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = "+changes" if git("status", "--porcelain", "--untracked-files=no") else ""
        return git("rev-parse", "--short", "HEAD") + changed
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
