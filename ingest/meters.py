"""How loud audio is, in dBFS: RMS and sample peak.

0 dBFS is full scale, a sample of ±1.0; a full-scale sine therefore has an RMS level of −3.01 dBFS
(the convention of ITU-T P.56 and of most recorders, not that of AES17, which adds 3.01 dB).
Several channels are measured as one signal: the RMS is that of all samples of all channels
together (the mean of the channels' powers), the peak is that of the loudest channel.
Digital silence has the level −∞.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Block = NDArray[np.float32] | NDArray[np.float64]
"""Samples, full scale ±1.0: one row a frame, one column a channel (or one dimension for mono)."""


class Meter:
    """Adds blocks up until it is read. A block's size and number of channels may change."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self._peak = 0.0
        self._power = 0.0
        self._samples = 0

    def add(self, block: Block) -> None:
        """Take a block in. What is no number counts as silence, what is infinite as full scale."""
        if not block.size:
            return
        peak = float(np.max(np.abs(block)))
        if not math.isfinite(peak):
            # Files of floats may hold anything; a level must stay one.
            block = np.nan_to_num(block, nan=0.0, posinf=1.0, neginf=-1.0).astype(np.float64)
            peak = float(np.max(np.abs(block)))
        # Scaled by the peak, so that squaring neither overflows nor loses the very quiet.
        scaled = block.astype(np.float64).ravel() / peak if peak else np.zeros(1)
        self._peak = max(self._peak, peak)
        self._power += peak * peak * float(np.dot(scaled, scaled))
        self._samples += block.size

    @property
    def measured(self) -> int:
        """How many samples were added since the last reading."""
        return self._samples

    def read(self) -> tuple[float, float]:
        """RMS and peak level in dBFS of what was added since the last reading; −∞ where that is nothing."""
        mean = self._power / self._samples if self._samples else 0.0
        levels = decibels(math.sqrt(mean)), decibels(self._peak)
        self._clear()
        return levels


def decibels(amplitude: float) -> float:
    """20·log10 of an amplitude; −∞ for 0."""
    return 20.0 * math.log10(amplitude) if amplitude > 0 else -math.inf


def stated(level: float) -> float | None:
    """A level as it leaves the process: two decimals, None for −∞ (JSON has no infinity)."""
    return None if level == -math.inf else round(level, 2)
