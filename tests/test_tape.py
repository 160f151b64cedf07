"""The tape of the alert decoder: what is read from it is what was put on it, wherever it begins anew."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ingest.same.tape import Tape

LENGTH = 50


@given(
    pieces=st.lists(st.integers(0, LENGTH), max_size=12),
    places=st.lists(st.floats(-5, 300, allow_nan=False), min_size=1, max_size=20),
)
def test_it_reads_like_a_tape_without_end(pieces: list[int], places: list[float]) -> None:
    short, endless = Tape(LENGTH), Tape(1_000)
    rng = np.random.default_rng(1)
    for count in pieces:
        mark, space = (rng.normal(size=(2, count)) + 1j * rng.normal(size=(2, count))).astype(np.complex64)
        for tape in (short, endless):
            tape.add(mark, space)
            tape.limit = tape.end
    positions = np.array(places)
    read = short.read(positions)
    assert short.begin == max(0, sum(pieces) - LENGTH)
    # Between the second that is held and the last but two: an interpolation takes four.
    held = (np.floor(positions) > short.begin) & (np.floor(positions) < short.end - 2)
    np.testing.assert_array_equal(read[:, held], endless.read(positions)[:, held])
    assert not read[:, ~held].any()
