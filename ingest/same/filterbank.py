"""Samples in, the two tones out: matched filters one bit long, by overlap-save in blocks of 0.16 s.

One forward transform per block serves everything that is always on: the two matched filters come from
it by short inverse transforms at about 4 kHz, whatever the rate of the input; a resampler is not needed.
"""

from __future__ import annotations

import numpy as np

from ingest.same.line import BAUD, MARK, SPACE, Complexes, Floats

BLOCK, HOP, EDGE = 640, 560, 40
"""Output samples of a block, those of it that are used, and those dropped at either side (filters' edges)."""
BATCH = 32
"""Blocks that are handed on together at most; bounds the memory."""
AT_ONCE = 8
"""Blocks that are transformed together: so many fit into the processor's registers and its cache."""
LOW, HIGH, SKIRT = 300.0, 3400.0, 400.0
"""The band that is let through, Hz, and the width of its slopes."""


class Filterbank:
    """Turns samples at `rate` into the outputs of the mark and space filters at `out_rate`.

    Output sample m belongs to the bit that begins at `time(m)`. The filters' outputs are complex, centred
    at `mark_at` and `space_at` Hz, close to the tones.
    """

    def __init__(self, rate: float) -> None:
        eighth = round(rate / 50)
        self.rate = rate
        self.hop, self.block = 7 * eighth, 8 * eighth
        self.out_rate = rate * (BLOCK // 8) / eighth
        self.spacing = rate / self.block
        """Hz between the bins of a block's spectrum."""
        # A centre that makes whole cycles in a hop keeps the phase from block to block: every eighth bin.
        mark_bin, space_bin = (8 * round(tone / self.spacing / 8) for tone in (MARK, SPACE))
        self.mark_at, self.space_at = mark_bin * self.spacing, space_bin * self.spacing
        self._mark = self._filter(mark_bin, MARK)
        self._space = self._filter(space_bin, SPACE)
        self._held = np.zeros(self.block - self.hop, dtype=np.float32)

    def time(self, sample: float) -> float:
        """Seconds since the first input sample at which output sample `sample` begins its bit."""
        return float((sample - EDGE) / self.out_rate + self._lead)

    @property
    def _lead(self) -> float:
        # The first block starts an eighth of a block before the input, and drops its first EDGE outputs.
        return 2 * EDGE / self.out_rate - (self.block - self.hop) / self.rate

    def feed(self, samples: Floats) -> list[tuple[Complexes, Complexes, Complexes]]:
        """(spectra, mark, space) of what `samples` completes; one row of spectra for each HOP of outputs."""
        held = np.concatenate((self._held, samples), dtype=np.float32)
        out: list[tuple[Complexes, Complexes, Complexes]] = []
        while len(held) >= self.block:
            count = min((len(held) - self.block) // self.hop + 1, BATCH)
            strides = (self.hop * held.itemsize, held.itemsize)
            windows = np.ndarray((count, self.block), np.float32, held, strides=strides)
            spectra = np.empty((count, self._mark[2]), dtype=np.complex64)
            mark, space = (np.empty((count, HOP), dtype=np.complex64) for _ in range(2))
            for row in range(0, count, AT_ONCE):
                few = slice(row, row + AT_ONCE)
                spectra[few] = np.fft.rfft(windows[few])[:, : self._mark[2]]
                mark[few] = self._apply(spectra[few], self._mark)
                space[few] = self._apply(spectra[few], self._space)
            out.append((spectra, mark.reshape(-1), space.reshape(-1)))
            held = held[count * self.hop :]
        self._held = held
        return out

    def _filter(self, centre: int, tone: float) -> tuple[int, int, int, Complexes]:
        """Where the band lies around `centre`, and the matched filter's response there."""
        first = max(centre - BLOCK // 2, 1)
        last = min(centre + BLOCK // 2, self.block // 2)
        hertz = np.arange(first, last) * self.spacing
        off = (hertz - tone) / BAUD
        response = np.sinc(off) * np.exp(1j * np.pi * off)
        slope = np.clip(np.minimum(hertz - LOW + SKIRT, HIGH + SKIRT - hertz) / SKIRT, 0, 1)
        # Half a spectrum carries half the amplitude; the transform divides by the block's length.
        response *= np.sin(slope * np.pi / 2) ** 2 * 2 * BLOCK / self.block
        return first, centre, last, response.astype(np.complex64)

    def _apply(self, spectra: Complexes, band: tuple[int, int, int, Complexes]) -> Complexes:
        first, centre, last, response = band
        product = spectra[:, first:last] * response
        placed = np.zeros((len(spectra), BLOCK), dtype=np.complex64)
        placed[:, : last - centre] = product[:, centre - first :]
        placed[:, BLOCK - (centre - first) :] = product[:, : centre - first]
        return np.fft.ifft(placed)[:, EDGE : EDGE + HOP]
