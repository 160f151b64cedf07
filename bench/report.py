"""What stands beside every figure: commit, versions, machine; and where results are written."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import structlog

from streams.connection import Link

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parent.parent / "docs" / "performance.md"


def circumstances(link: Link | None = None) -> dict[str, Any]:
    """When, of which commit, with which versions and on what these figures were measured."""
    names = ("redis", "hiredis", "msgspec", "cryptography") if link else ("numpy", "soundfile", "av")
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "cpus": os.cpu_count(),
        "processor": _processor(),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "server": _server(link) if link else f"numpy {version('numpy')}",
        "versions": {name: version(name) for name in names},
        "load_before": round(os.getloadavg()[0], 2),
    }


def tell_only_errors() -> None:
    """Keep what the station logs out of a measurement's own lines; errors go to standard error."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger("error"),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def write(name: str, result: dict[str, Any], *, reference: bool = False) -> Path:
    """Write `result` to bench/results/NAME-DATE.json, or as the reference there; return its path."""
    RESULTS.mkdir(exist_ok=True)
    date = result["circumstances"]["date"].replace(":", "").replace("+0000", "Z")
    stamp = "reference" if reference else date
    path = RESULTS / f"{name}-{stamp}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
    return path


def document(
    name: str, result: dict[str, Any], headings: Sequence[str], rows: Sequence[Sequence[str]]
) -> None:
    """Put a table into docs/performance.md, between the comments that carry `name`."""
    told = result["circumstances"]
    turns = "one run" if result["rounds"] == 1 else f"medians of {result['rounds']} rounds"
    lines = [
        f"{told['date'][:10]}, commit {told['commit']}, {told['server']}, Python {told['python']}, "
        f"{told['cpus']} CPUs ({told['processor']}), load before the run {told['load_before']}; {turns}.",
        "",
        f"| {' | '.join(headings)} |",
        f"|---|{'--:|' * (len(headings) - 1)}",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    text = PAGE.read_text("utf-8")
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    PAGE.write_text(before + begin + "\n".join(lines) + "\n" + end + after, "utf-8")


def _server(link: Link) -> str:
    server = link.call("INFO", "server").decode()
    fields = dict(line.split(":", 1) for line in server.splitlines() if ":" in line)
    name = "valkey" if "valkey_version" in fields else "redis"
    return f"{name} {fields.get('valkey_version', fields['redis_version'])}"


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
