"""What the samples of a soak say: what holds more in its last third than in its second, what restarted."""

from __future__ import annotations

from statistics import median
from typing import Any

GROWTH = 0.10
"""How much more may be held in the last third than in the second."""
SLACK = 8 << 20
"""Bytes of a process that do not count."""
DESCRIPTORS = 8
"""Those that do not count; Postgres opens the files of a new month's tables once in each of its processes."""

Sample = dict[str, Any]
"""`processes`: for each name `pid`, `rss` in bytes and `files`; `redis`: bytes of data in it, or None."""


def judged(samples: list[Sample]) -> tuple[list[str], list[str]]:
    """A line for each process with its two medians, and what is wrong; nothing where all is flat.

    Of Redis and Postgres only what they hold is judged: Postgres' shared pages count once for each of its
    processes, and what Redis does not give back to the system is its allocator's.
    """
    third = len(samples) // 3
    if not third:
        return [], [f"only {len(samples)} looks were taken: nothing can be said"]
    parts = samples[third : 2 * third], samples[2 * third :]
    lines, wrong = [], []
    for name in sorted({name for one in samples for name in one["processes"]}):
        seen = [[one["processes"][name] for one in part if name in one["processes"]] for part in parts]
        pids = {one["processes"][name]["pid"] for one in samples if name in one["processes"]}
        if not all(seen) or len(pids) > 1:
            wrong.append(f"{name} was started again, or ended")
            continue
        before, after = (median(one["rss"] for one in part) for part in seen)
        files = [median(one["files"] for one in part) for part in seen]
        lines.append(f"{name:<12} {_mib(before)} → {_mib(after)} MiB, {files[0]:.0f} → {files[1]:.0f} files")
        if name != "postgres" and not name.startswith("redis") and after > before * (1 + GROWTH) + SLACK:
            wrong.append(f"{name} grew from {_mib(before)} to {_mib(after)} MiB")
        if files[1] > files[0] * (1 + GROWTH) + DESCRIPTORS:
            wrong.append(f"{name} has {files[1]:.0f} descriptors, {files[0]:.0f} before")
    held = [[one["redis"] for one in part if one["redis"] is not None] for part in parts]
    if not all(held):
        return lines, [*wrong, "Redis did not say what it holds"]
    before, after = (median(part) for part in held)
    lines.append(f"in Redis     {_mib(before)} → {_mib(after)} MiB")
    if after > before * (1 + GROWTH) + SLACK / 8:
        wrong.append(f"what is in Redis grew from {_mib(before)} to {_mib(after)} MiB")
    return lines, wrong


def _mib(held: float) -> str:
    return f"{held / 2**20:.1f}"
