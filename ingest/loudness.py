"""Loudness by ITU-R BS.1770-5 and EBU R 128, of many sources at once, from their weighted energies.

Momentary is of 400 ms, short-term of 3 s, both moved on by 10 ms. Integrated loudness and range are of all
the audio since the source was opened, kept as histograms: their size does not depend on how long that is.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ingest.kweighting import SLICES, Array

MOMENTARY, SHORT_TERM = 40, 300
"""Slices of 10 ms in 400 ms and in 3 s."""
LOWEST, HIGHEST, STEP = -70.0, 30.0, 0.1
"""Bins of the histograms in LUFS: from the absolute gate up, a tenth apart."""
BINS = round((HIGHEST - LOWEST) / STEP)
OFFSET = -0.691
"""dB; loudness of a mean square of 1."""
RELATIVE, RELATIVE_RANGE = -10.0, -20.0
"""LU below the mean where the second gate is: of integrated loudness, of the range."""
_KEPT = SHORT_TERM + SLICES
_CENTRES = 10 ** ((LOWEST + (np.arange(BINS) + 0.5) * STEP - OFFSET) / 10)

Rows = npt.NDArray[np.intp]


def weights(channels: int) -> Array:
    """By how much each channel counts, in the order of WAV: of 5.1 the surrounds more, LFE not at all."""
    if channels == 5:
        return np.array([1.0, 1.0, 1.0, 1.41, 1.41])
    if channels == 6:
        return np.array([1.0, 1.0, 1.0, 0.0, 1.41, 1.41])
    return np.ones(channels)


class Loudness:
    """The loudness of up to `size` sources, each in a row of its own."""

    def __init__(self, size: int, slice_samples: int) -> None:
        self._slice = slice_samples
        self._energy = np.zeros((size, _KEPT))
        self._count = np.zeros(size, np.int64)
        """Slices that were taken."""
        self._sums = np.zeros((size, BINS))
        self._blocks = np.zeros((size, BINS), np.int32)
        self._terms = np.zeros((size, BINS), np.int32)

    def clear(self, row: int) -> None:
        """Begin anew with another source."""
        for part in (self._energy, self._count, self._sums, self._blocks, self._terms):
            part[row] = 0

    def add(self, rows: Rows, energy: Array) -> tuple[Array, Array]:
        """Take the weighted energies of SLICES slices of these rows.

        Returns the highest momentary loudness since before, and the short-term one now. In LUFS; −∞ where
        there is none, and before there was audio long enough.
        """
        kept = self._energy[rows]
        kept[:, :-SLICES] = kept[:, SLICES:]
        kept[:, -SLICES:] = energy
        self._energy[rows] = kept
        self._count[rows] += SLICES
        count = self._count[rows]
        total = np.concatenate([np.zeros((len(rows), 1)), np.cumsum(kept, axis=1)], axis=1)
        ends = np.arange(_KEPT - SLICES + 1, _KEPT + 1)
        # Sums of running sums lose the last digits: silence would leave a trace.
        momentary = np.maximum(total[:, ends] - total[:, ends - MOMENTARY], 0.0)
        momentary /= MOMENTARY * self._slice
        short = np.maximum(total[:, -1] - total[:, -1 - SHORT_TERM], 0.0) / (SHORT_TERM * self._slice)
        loud = kept[:, -MOMENTARY:].any(axis=1)
        momentary[~loud] = 0.0
        short[~kept[:, -SHORT_TERM:].any(axis=1)] = 0.0
        long_enough = count[:, np.newaxis] - SLICES + np.arange(1, SLICES + 1) >= MOMENTARY
        momentary[~long_enough] = 0.0
        short[count < SHORT_TERM] = 0.0
        self._bin(rows, momentary[:, -1], short)
        return lufs(momentary.max(axis=1)), lufs(short)

    def _bin(self, rows: Rows, block: Array, short: Array) -> None:
        for power, counts in ((block, self._blocks), (short, self._terms)):
            level = lufs(power)
            heard = level >= LOWEST
            which = np.minimum(((level[heard] - LOWEST) / STEP).astype(np.intp), BINS - 1)
            counts[rows[heard], which] += 1
            if counts is self._blocks:
                self._sums[rows[heard], which] += power[heard]

    def integrated(self, rows: Rows) -> Array:
        """Integrated loudness in LUFS; −∞ where nothing was above the gate."""
        sums, counts = self._sums[rows], self._blocks[rows]
        gate = lufs(_ratio(sums.sum(axis=1), counts.sum(axis=1))) + RELATIVE
        above = _at_least(gate)
        return lufs(_ratio((sums * above).sum(axis=1), (counts * above).sum(axis=1)))

    def range(self, rows: Rows) -> Array:
        """Loudness range in LU, EBU Tech 3342; 0 where nothing was above the gate."""
        counts = self._terms[rows]
        mean = _ratio((counts * _CENTRES).sum(axis=1), counts.sum(axis=1))
        counts = counts * _at_least(lufs(mean) + RELATIVE_RANGE)
        running = np.cumsum(counts, axis=1)
        number = running[:, -1]
        low, high = (
            (running > np.round((number - 1) * part)[:, np.newaxis]).argmax(axis=1) for part in (0.10, 0.95)
        )
        return np.where(number > 0, (high - low) * STEP, 0.0)


def lufs(power: Array) -> Array:
    """The loudness of a weighted mean square; −∞ for 0."""
    with np.errstate(divide="ignore"):
        return OFFSET + 10 * np.log10(power)


def _at_least(gate: Array) -> npt.NDArray[np.bool_]:
    """Which bins lie at or above the gate of each row."""
    first = np.where(np.isfinite(gate), np.round((gate - LOWEST) / STEP), 0)
    return np.asarray(np.arange(BINS) >= first[:, np.newaxis])


def _ratio(total: Array, count: Array) -> Array:
    return np.divide(total, count, out=np.zeros(len(total)), where=np.asarray(count) > 0)
