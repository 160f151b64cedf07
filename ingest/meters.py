"""Levels of audio: RMS and sample peak in dBFS.

0 dBFS is full scale (±1.0), so a full-scale sine has a peak of 0 dBFS and an RMS level of −3.01 dBFS
(AES17 would add 3.01 dB). Digital silence is −∞ in memory.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Block = NDArray[np.float32]
"""Samples, shape (frames, channels), full scale ±1.0."""


def rms_dbfs(block: Block) -> float:
    """RMS level over all channels together, dBFS; −inf for silence and for no samples."""
    if not block.size:
        return -math.inf
    return _decibels(math.sqrt(float(np.mean(np.square(block, dtype=np.float64)))))


def peak_dbfs(block: Block) -> float:
    """Sample peak of the loudest channel, dBFS; −inf for silence and for no samples."""
    if not block.size:
        return -math.inf
    return _decibels(float(np.max(np.abs(block))))


def _decibels(amplitude: float) -> float:
    return 20 * math.log10(amplitude) if amplitude > 0 else -math.inf


def shown(level: float) -> float | None:
    """A level as it travels: two decimals, None for −∞."""
    return round(level, 2) if math.isfinite(level) else None
