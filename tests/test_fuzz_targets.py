"""What `make fuzz` gives a million inputs takes the odd ones that we could think of."""

from __future__ import annotations

import random

import pytest

from tests.fuzz.targets import SEEDS, TARGETS
from tests.test_fuzz import ODD, altered


def test_the_parts_make_a_million() -> None:
    """Every target has its part, and something to begin from."""
    assert sum(runs for _, runs in TARGETS.values()) == 1_000_000
    assert SEEDS.keys() == TARGETS.keys()


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_takes_odd_inputs(name: str) -> None:
    """Nothing but what its decoder says that it raises comes out of it."""
    chance, (target, _) = random.Random(name), TARGETS[name]
    for data in (*ODD, *SEEDS[name], *(altered(chance, seed) for seed in SEEDS[name] for _ in range(150))):
        target(data)
