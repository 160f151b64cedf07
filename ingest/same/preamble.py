"""The always-on search: where does something like sixteen bytes of 0xAB end?

The softly limited difference of the two tones is correlated with the preamble at nine clock rates, by
adding delayed copies: first eight bits, then that twice, and so on up to sixteen bytes.
"""

from __future__ import annotations

import msgspec
import numpy as np

from ingest.same.line import BAUD, PREAMBLE, Complexes, Floats, signs

STEP = 2
"""Every which output of the filters is looked at."""
CLOCKS = tuple(percent / 100 for percent in range(-4, 5))
THRESHOLD = 0.5
"""Correlation from which the dear part is woken; white noise alone stays below it for minutes."""
PATIENCE_BITS = 40
"""So much later without a better one, a peak is a peak."""


SPREAD = 512
"""Values from which mean and variance are taken: about a preamble; a power of two."""
SLOPE_BITS = 8 * len(PREAMBLE)


class Candidate(msgspec.Struct, frozen=True):
    """A likely preamble."""

    end: float
    """The filters' output sample at which the first bit after it begins."""
    clock: float
    """How much faster than nominal its clock is, as a share; to about half a percent."""
    score: float
    """Correlation with a preamble, about 1 for a clean one."""


class _Delays(msgspec.Struct, frozen=True):
    """By how many values the parts of a preamble lie apart, at three neighbouring clocks."""

    places: tuple[int, ...]
    """Each bit of a byte: in a byte the three clocks make no difference yet."""
    octet: int
    doubled: tuple[tuple[int, ...], ...]
    """For each clock, one byte from the next, two from the next two, and so on."""

    @classmethod
    def at(cls, bit: float, clocks: tuple[float, ...]) -> _Delays:
        """For bits of that many values at nominal clock."""
        middle = bit / (1 + clocks[1])
        return cls(
            tuple(round(place * middle) for place in range(8)),
            round(8 * middle),
            tuple(tuple(round(count * bit / (1 + clock)) for count in (8, 16, 32, 64)) for clock in clocks),
        )


class PreambleSearch:
    """Finds candidates in the limited difference of the tones, fed in pieces of any length."""

    def __init__(self, out_rate: float) -> None:
        self._bit = out_rate / STEP / BAUD
        pattern = signs(PREAMBLE[:1]) - signs(PREAMBLE[:1]).mean()
        self._taps: list[float] = pattern.tolist()
        count = 8 * len(PREAMBLE)
        self._length = max(int(count * self._bit / (1 + CLOCKS[0])) + 8, SPREAD)
        self._norm = float(np.sqrt(count * len(PREAMBLE) * (pattern**2).sum()))
        self._delays = [_Delays.at(self._bit, clocks) for clocks in zip(*[iter(CLOCKS)] * 3, strict=True)]
        self._held: Floats = np.zeros(self._length, dtype=np.float32)
        self._position = -self._length
        """Index of the first held value."""
        self._best: Candidate | None = None
        self._told: Candidate | None = None

    def feed(self, mark: Complexes, space: Complexes) -> list[Candidate]:
        """Candidates that are certain to be peaks now; the tones continue what was fed before."""
        loud, soft = np.abs(mark[::STEP]), np.abs(space[::STEP])
        held: Floats = np.concatenate((self._held, (loud - soft) / (loud + soft + np.float32(1e-30))))
        count = len(held) - self._length
        scores = self._scores(held, count)
        position = self._position
        self._held = held[count:]
        self._position += count
        return self._peaks(scores, position)

    def _scores(self, held: Floats, count: int) -> Floats:
        """Correlation by clock rate and by the sample at which the preamble begins."""
        mean = _sliding(held)[:count] * np.float32(1 / SPREAD)
        variance = _sliding(held * held)[:count] * np.float32(1 / SPREAD) - mean * mean
        scale = np.float32(1 / self._norm) / np.sqrt(np.maximum(variance, np.float32(1e-4)))
        out = np.empty((len(CLOCKS), count), dtype=np.float32)
        weighted = {tap: held * np.float32(tap) for tap in set(self._taps)}
        rows = iter(out)
        for delays in self._delays:
            taps = zip(self._taps, delays.places, strict=True)
            first = weighted[next(taps)[0]]
            octet = first[: len(held) - delays.octet].copy()
            for tap, delay in taps:
                octet += weighted[tap][delay : delay + len(octet)]
            for doubled in delays.doubled:
                total = octet
                for delay in doubled:
                    total = total[delay:] + total[:-delay]
                np.multiply(total[:count], scale, out=next(rows))
        return out

    def _peaks(self, scores: Floats, position: int) -> list[Candidate]:
        found: list[Candidate] = []
        bit = self._bit * STEP
        best_of = scores.max(axis=0)
        for index in np.flatnonzero(best_of >= THRESHOLD).tolist():
            row = int(scores[:, index].argmax())
            begin = (position + int(index)) * STEP
            end = begin + 8 * len(PREAMBLE) * bit / (1 + CLOCKS[row])
            found += self._settled(end)
            # The slope behind a peak is no peak.
            behind = self._told is not None and end < self._told.end + SLOPE_BITS * bit
            rival = self._best or (self._told if behind else None)
            if rival is None or best_of[index] > rival.score:
                self._best = Candidate(end, CLOCKS[row], float(best_of[index]))
        return found + self._settled((position + scores.shape[1]) * STEP + 8 * len(PREAMBLE) * bit)

    def _settled(self, reached: float) -> list[Candidate]:
        best = self._best
        if best is None or reached <= best.end + PATIENCE_BITS * self._bit * STEP:
            return []
        self._best, self._told = None, best
        return [best]


def _sliding(values: Floats) -> Floats:
    """Sums of SPREAD values in a row; the same whatever stands before and behind them."""
    length = 1
    while length < SPREAD:
        values = values[length:] + values[:-length]
        length *= 2
    return values
