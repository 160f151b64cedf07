"""The spectrum of what is heard: how flat it is, which tells hiss from programme, and bands to look at."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Samples = npt.NDArray[np.float32]

LONGEST = 1024
"""Samples in a transform, at most."""
FLAT_FROM, FLAT_TO = 200.0, 6000.0
"""Hz between which flatness is measured: what is outside, a codec or a filter may have taken away."""
BANDS = 128
"""Bands of a spectrum that somebody looks at, all of the same width, from 0 Hz to half the rate."""
FLOOR = -140
"""dBFS; nothing is said to be quieter in a band."""


class Spectrum:
    """Spectra at one rate, of the end of chunks of so many samples."""

    def __init__(self, rate: int, chunk: int) -> None:
        self._size = min(LONGEST, 1 << (chunk.bit_length() - 1))
        window = np.hanning(self._size).astype(np.float32)
        # So that a full-scale sine is at 0 dBFS in its band.
        self._window = window * np.float32(2.0 / window.sum())
        step = rate / self._size
        first = max(1, round(FLAT_FROM / step))
        self._flat = slice(first, max(first + 2, round(min(FLAT_TO, 0.4 * rate) / step)))

    def powers(self, mono: Samples) -> Samples:
        """The power in each line of the spectrum of each row, from the end of its chunk."""
        lines = np.fft.rfft(mono[:, -self._size :] * self._window)
        return np.asarray(lines.real**2 + lines.imag**2, np.float32)

    def flatness(self, powers: Samples) -> Array:
        """Geometric by arithmetic mean of the lines of each row; not a number where there is nothing."""
        lines = powers[:, self._flat]
        mean = lines.mean(axis=1, dtype=np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            # What a single precision transform leaves of silence is no noise.
            flat = np.exp(np.log(lines + 1e-30).mean(axis=1, dtype=np.float64)) / mean
        return np.where(mean > 1e-20, flat, np.nan)

    def bands(self, powers: Samples) -> list[list[int]]:
        """The highest line in each of BANDS, or in each line where there are fewer, in dBFS."""
        lines = powers[:, 1:]
        if lines.shape[1] > BANDS:
            lines = lines[:, : lines.shape[1] // BANDS * BANDS].reshape(len(lines), BANDS, -1).max(axis=2)
        with np.errstate(divide="ignore"):
            levels = np.maximum(10 * np.log10(lines), FLOOR)
        bands: list[list[int]] = np.round(levels).astype(int).tolist()
        return bands
