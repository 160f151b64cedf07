"""`make soak` for half a minute, and what it says of samples that are wrong in each way it must see."""

from __future__ import annotations

from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.soak.__main__ import FAKETIME, Soak
from tests.soak.judge import judged

LATE = slice(8, None)
"""The last third of what `flat` gives."""


def flat() -> list[dict[str, Any]]:
    """Twelve looks at a station in which nothing grows."""
    processes = {
        name: {"pid": pid, "rss": 100 << 20, "files": 40}
        for pid, name in enumerate(("ingest", "redis-1", "postgres"))
    }
    return [{"processes": deepcopy(processes), "redis": 4 << 20} for _ in range(12)]


def test_a_flat_station_is_flat() -> None:
    lines, wrong = judged(flat())
    assert wrong == []
    assert "ingest       100.0 → 100.0 MiB, 40 → 40 files" in lines
    assert "in Redis     4.0 → 4.0 MiB" in lines


@pytest.mark.parametrize(
    ("name", "field", "value", "said"),
    [
        ("ingest", "rss", 119 << 20, "ingest grew from 100.0 to 119.0 MiB"),
        ("ingest", "rss", 117 << 20, ""),
        ("postgres", "rss", 300 << 20, ""),
        ("redis-1", "rss", 300 << 20, ""),
        ("redis-1", "files", 53, "redis-1 has 53 descriptors, 40 before"),
        ("postgres", "files", 52, ""),
        ("ingest", "pid", 99, "ingest was started again, or ended"),
    ],
)
def test_what_grows_or_is_started_again_is_named(name: str, field: str, value: int, said: str) -> None:
    samples = flat()
    for one in samples[LATE]:
        one["processes"][name][field] = value
    assert judged(samples)[1] == ([said] if said else [])


def test_what_was_started_again_early_is_named() -> None:
    samples = flat()
    for one in samples[:2]:
        one["processes"]["ingest"]["pid"] = 99
    assert judged(samples)[1] == ["ingest was started again, or ended"]


def test_a_process_that_ended_is_named() -> None:
    samples = flat()
    for one in samples[LATE]:
        del one["processes"]["ingest"]
    assert judged(samples)[1] == ["ingest was started again, or ended"]


@pytest.mark.parametrize(
    ("held", "said"),
    [
        (6 << 20, "what is in Redis grew from 4.0 to 6.0 MiB"),
        (None, "Redis did not say what it holds"),
    ],
)
def test_what_redis_holds_is_judged(held: int | None, said: str) -> None:
    samples = flat()
    for one in samples[LATE]:
        one["redis"] = held
    assert judged(samples)[1] == [said]


def test_too_few_looks_say_nothing() -> None:
    assert judged(flat()[:2]) == ([], ["only 2 looks were taken: nothing can be said"])


@pytest.mark.timeout(600)
@pytest.mark.skipif(not FAKETIME, reason="real part missing: libfaketime")
def test_a_station_goes_on_over_midnights(tmp_path: Path) -> None:
    """From the 29th to the 31st in half a minute: commands go on, the log verifies, nothing starts again."""
    soak = Soak(tmp_path, minutes=0.5, hours=120)
    assert soak.run() == []
    last = soak.samples[-1]
    clock = datetime.fromtimestamp(soak.began + float(last["clock"]), UTC)
    assert clock > datetime(2026, 12, 31, tzinfo=UTC)
    wrong = judged(soak.samples)[1]
    assert not [one for one in wrong if "again" in one or "did not say" in one]
    assert {"ingest", "control", "projections", "web", "postgres", "redis-1", "sentinel-3"} <= set(
        last["processes"]
    )
