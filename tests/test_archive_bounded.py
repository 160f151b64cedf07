"""A log longer than Redis has memory for: everything stays, and everything is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.archive import measure


@pytest.mark.chaos
@pytest.mark.timeout(600)
def test_a_log_far_longer_than_memory_is_kept_verified_and_given_back(tmp_path: Path) -> None:
    """20,000 events through a Redis of 16 MiB: all archived and folded, verified, replayed, given back.

    The same at full length is `python -m bench archive`.
    """
    result = measure(tmp_path / "station", 20_000, 16)
    assert result["fill"]["peak_mib"] < 16
    assert result["verify"]["events"] >= 20_000
    assert result["replay"]["events"] >= 20_000
    assert result["restore"]["events"] >= 20_000
    assert result["restore"]["stands"] < 1000
