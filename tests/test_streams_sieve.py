"""The sieve that finds a key given twice, whatever part of the keys stands in memory."""

from __future__ import annotations

import tempfile
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.sieve import Sieve, SpillFailed

LIMITS = st.integers(1, 40)


def first_repeated(keys: list[str], limit: int) -> str | None:
    with Sieve(limit) as sieve:
        for place, key in enumerate(keys):
            sieve.add(key, f"{place} {key}")
            assert 0 < sieve.held <= limit
        return sieve.first_repeated()


def by_a_set(keys: list[str]) -> str | None:
    """The same, with all keys in memory."""
    seen: set[str] = set()
    for place, key in enumerate(keys):
        if key in seen:
            return f"{place} {key}"
        seen.add(key)
    return None


@given(st.lists(st.text(max_size=3), max_size=60), LIMITS)
def test_it_finds_what_a_set_finds(keys: list[str], limit: int) -> None:
    """Short keys repeat often: within a buffer, between runs and many times over."""
    assert first_repeated(keys, limit) == by_a_set(keys)


@given(st.lists(st.uuids().map(str), min_size=1, max_size=300, unique=True), st.data(), LIMITS)
def test_one_repeated_key_among_many_is_found(keys: list[str], data: st.DataObject, limit: int) -> None:
    """However far the second stands from the first; where none is repeated, none is found."""
    assert first_repeated(keys, limit) is None
    again = data.draw(st.sampled_from(keys))
    at = data.draw(st.integers(keys.index(again) + 1, len(keys)))
    keys.insert(at, again)
    assert first_repeated(keys, limit) == f"{at} {again}"


def test_runs_longer_than_what_is_read_at_once() -> None:
    """Thousands of keys in many runs; of two that are repeated the earlier counts."""
    keys = [f"key-{number}" for number in range(5000)]
    assert first_repeated(keys, 300) is None
    keys[4900], keys[2600] = keys[10], keys[2599]
    assert first_repeated(keys, 300) == "2600 key-2599"
    assert first_repeated(["same"] * 2000, 300) == "1 same"


def test_few_keys_never_touch_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what does not fit into the buffer is written to a file."""

    def refuse(**_: Any) -> None:
        raise OSError("no disk")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    keys = [str(number) for number in range(20)]
    assert first_repeated(keys, 20) is None
    with pytest.raises(SpillFailed, match="no disk"):
        first_repeated(keys, 19)
