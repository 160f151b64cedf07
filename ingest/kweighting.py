"""The K-weighting of ITU-R BS.1770-5 for any sample rate, over many signals at once.

A recursive filter goes from sample to sample, which numpy cannot do for many. So a signal is cut into
short blocks: what a block gives by itself, and what it leaves behind for the next one, are matrix
products over all blocks of all signals; what is left behind is then carried through the blocks by one more.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Samples = npt.NDArray[np.float32]

SHELF = (1681.974450955533, 3.999843853973347, 0.7071752369554196)
"""Hz, dB and Q of the first stage, the head: they give the coefficients of BS.1770 at 48 kHz."""
HIGH_PASS = (38.13547087602444, 0.5003270373238773)
"""Hz and Q of the second stage."""
ORDER = 4
"""Values that the filter remembers: two for each stage."""
SLICES = 10
"""Energies are told for tenths of a chunk: 10 ms where a chunk is 100 ms."""


class Shape:
    """How a chunk of about 100 ms is cut at a rate in Hz: `slices` of `slice` samples, of `block` each."""

    def __init__(self, rate: int) -> None:
        self.slice, self.block = _cut(rate)
        self.chunk = SLICES * self.slice


class KWeighting:
    """The filter at one rate. It has no state of its own: what it remembers is handed in and out."""

    def __init__(self, rate: int) -> None:
        shape = Shape(rate)
        a, b, c, d = state_space(rate)
        block, count = shape.block, shape.chunk // shape.block
        powers = [np.linalg.matrix_power(a, n) for n in range(block + 1)]
        pulse = [d] + [float(c @ powers[n] @ b) for n in range(block - 1)]
        # Each for row vectors: y = x @ own + state @ after, next state = state @ carry + x @ left.
        self._own = np.array(
            [[pulse[n - m] if n >= m else 0.0 for n in range(block)] for m in range(block)], np.float32
        )
        self._left = np.array([powers[block - 1 - m] @ b for m in range(block)], np.float32)
        self._after = np.array([c @ powers[n] for n in range(block)]).T.astype(np.float32)
        carry = [np.linalg.matrix_power(powers[block], n).T for n in range(count + 1)]
        # From the state before all and what each block leaves, to the state after each: one product.
        through = np.zeros((count + 1, ORDER, count + 1, ORDER))
        for to in range(count + 1):
            for start in range(to + 1):
                through[start, :, to, :] = carry[to - start]
        self._through = through.reshape((count + 1) * ORDER, (count + 1) * ORDER)
        self._block, self._count = block, count

    def energies(self, signals: Samples, state: Array) -> tuple[Array, Array]:
        """The weighted energy of each slice, and what is remembered after it.

        `signals` has one chunk a row, `state` what was remembered of each (ORDER values).
        """
        rows = len(signals)
        blocks = signals.reshape(-1, self._block)
        left = (blocks @ self._left).astype(np.float64).reshape(rows, self._count, ORDER)
        chain = np.concatenate([state[:, np.newaxis], left], axis=1).reshape(rows, -1)
        states = (chain @ self._through).reshape(rows, self._count + 1, ORDER)
        before = states[:, :-1].reshape(-1, ORDER).astype(np.float32)
        weighted = blocks @ self._own
        weighted += before @ self._after
        slices = weighted.reshape(rows, SLICES, -1)
        energy = np.einsum("rsn,rsn->rs", slices, slices).astype(np.float64)
        return energy, states[:, -1]


@lru_cache(maxsize=64)
def k_weighting(rate: int) -> KWeighting:
    """The filter at `rate` Hz, made once."""
    return KWeighting(rate)


def state_space(rate: int) -> tuple[Array, Array, Array, float]:
    """The filter at `rate` Hz as matrices: next = A·now + B·x, y = C·now + D·x (two stages in series)."""
    shelf, high = biquads(rate)
    a1, b1, c1, d1 = _matrices(*shelf)
    a2, b2, c2, d2 = _matrices(*high)
    a = np.block([[a1, np.zeros((2, 2))], [np.outer(b2, c1), a2]])
    return a, np.concatenate([b1, b2 * d1]), np.concatenate([d2 * c1, c2]), d1 * d2


def biquads(rate: int) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """The two stages at `rate` Hz: numerator and denominator of each, the latter beginning with 1."""
    hertz, gain, q = SHELF
    # Where half the rate lies below the head's corner, there is nothing above it to lift.
    k = math.tan(math.pi * min(hertz / rate, 0.45))
    high, band = 10 ** (gain / 20), 10 ** (gain / 20 * 0.4996667741545416)
    norm = 1 + k / q + k * k
    shelf = (
        np.array([high + band * k / q + k * k, 2 * (k * k - high), high - band * k / q + k * k]) / norm,
        np.array([norm, 2 * (k * k - 1), 1 - k / q + k * k]) / norm,
    )
    hertz, q = HIGH_PASS
    k = math.tan(math.pi * hertz / rate)
    norm = 1 + k / q + k * k
    return shelf, (np.array([1.0, -2.0, 1.0]), np.array([norm, 2 * (k * k - 1), 1 - k / q + k * k]) / norm)


def _matrices(b: Array, a: Array) -> tuple[Array, Array, Array, float]:
    return (
        np.array([[-a[1], 1.0], [-a[2], 0.0]]),
        np.array([b[1] - a[1] * b[0], b[2] - a[2] * b[0]]),
        np.array([1.0, 0.0]),
        float(b[0]),
    )


@lru_cache(maxsize=64)
def _cut(rate: int) -> tuple[int, int]:
    """Samples in a slice of about 10 ms and in a block: the slice is a whole number of blocks."""
    exact = rate / 100
    best = (math.inf, max(1, round(exact)), 1)
    for size in range(max(1, math.floor(exact) - 2), math.ceil(exact) + 3):
        divisors = [n for n in range(1, min(size, 64) + 1) if size % n == 0]
        block = min(divisors, key=lambda n: abs(n - 50))
        # A slice too long or short by one in a thousand is nothing; blocks of a few samples are slow, and
        # what relates a great many of them fills the memory.
        cost = abs(size - exact) / exact * 1000 + abs(block - 50) / 10 + (100 if block < 8 else 0)
        best = min(best, (cost, size, block))
    return best[1], best[2]
