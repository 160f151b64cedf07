"""True peak by ITU-R BS.1770-5, Annex 2: what lies between the samples, at four times the rate."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float32]

_PHASE = (
    (
        0.0017089843750, 0.0109863281250, -0.0196533203125, 0.0332031250000, -0.0594482421875,
        0.1373291015625, 0.9721679687500, -0.1022949218750, 0.0476074218750, -0.0266113281250,
        0.0148925781250, -0.0083007812500,
    ),
    (
        -0.0291748046875, 0.0292968750000, -0.0517578125000, 0.0891113281250, -0.1665039062500,
        0.4650878906250, 0.7797851562500, -0.2003173828125, 0.1015625000000, -0.0582275390625,
        0.0330810546875, -0.0189208984375,
    ),
)  # fmt: skip
PHASES = (*_PHASE, _PHASE[1][::-1], _PHASE[0][::-1])
"""The filter of the recommendation: four phases of twelve taps."""
TAPS = len(PHASES[0])
REMEMBERED = TAPS - 1
"""Samples before a chunk that the filter still sees."""


def _products(block: int) -> Samples:
    """The filter as a matrix: from `block` samples and those before them to all points between."""
    matrix = np.zeros((block + REMEMBERED, 4 * block), np.float32)
    for at in range(block):
        for phase, taps in enumerate(PHASES):
            matrix[at : at + TAPS, 4 * at + phase] = taps[::-1]
    return matrix


_MATRICES: dict[int, Samples] = {}


def true_peaks(signals: Samples) -> npt.NDArray[np.float32]:
    """The highest amplitude at four times the rate of each row.

    A row begins with the REMEMBERED samples before the chunk.
    """
    chunk = signals.shape[1] - REMEMBERED
    # Sixteen is what takes least time; a chunk is a multiple of ten at any rate.
    block = next(size for size in (16, 20, 24, 12, 10, 8, 5, 2, 1) if chunk % size == 0)
    if block not in _MATRICES:
        _MATRICES[block] = _products(block)
    views = np.lib.stride_tricks.sliding_window_view(signals, block + REMEMBERED, axis=1)[:, ::block]
    points = np.ascontiguousarray(views).reshape(-1, block + REMEMBERED) @ _MATRICES[block]
    rows = points.reshape(len(signals), -1)
    highest: Samples = np.maximum(rows.max(axis=1), -rows.min(axis=1))
    return highest
