"""The recent past of the two tones: a bounded stretch of the filters' outputs."""

from __future__ import annotations

import numpy as np

from ingest.same.line import Complexes, Floats


class Tape:
    """Keeps the last `length` outputs of both filters; positions count from the first ever added."""

    def __init__(self, length: int, mark_at: float = 0.0, space_at: float = 0.0) -> None:
        """`mark_at` and `space_at` are the centres of the filters, in cycles for each position."""
        self._centres = (mark_at, space_at)
        self._store = np.zeros((2, length), dtype=np.complex64)
        """Position p lies at p modulo `length`."""
        self._length = length
        self.end = 0
        """The position behind the last output held."""
        self.limit = 0
        """What lies from here on is not looked at yet."""

    def add(self, mark: Complexes, space: Complexes) -> None:
        """Put further outputs on the tape, `length` at most."""
        at, count = self.end % self._length, len(mark)
        first = min(count, self._length - at)
        for store, tone in zip(self._store, (mark, space), strict=True):
            store[at : at + first] = tone[:first]
            store[: count - first] = tone[first:]
        self.end += count

    @property
    def begin(self) -> int:
        """The first position that is still held."""
        return max(0, self.end - self._length)

    def read(self, positions: Floats) -> Complexes:
        """Both outputs at fractional positions, by cubic interpolation; zero beyond what is held."""
        begin = self.begin
        whole = np.floor(positions).astype(np.int64)
        fraction = (positions - whole).astype(np.float32)
        inside = (whole > begin) & (whole < self.limit - 2)
        whole = np.where(inside, whole, begin + 1)
        before, here, after, beyond = (
            self._store[:, (whole + shift) % self._length] for shift in (-1, 0, 1, 2)
        )
        # Catmull-Rom: exact at the samples, no overshoot that would matter at seven samples a bit.
        value = here + 0.5 * fraction * (
            after
            - before
            + fraction
            * (2 * before - 5 * here + 4 * after - beyond + fraction * (3 * (here - after) + beyond - before))
        )
        return np.where(inside, value, 0).astype(np.complex64)

    def upright(self, positions: Floats) -> Complexes:
        """The same with the phase that each tone has there, as if the filters stood at 0 Hz."""
        tones = self.read(positions)
        for row, centre in enumerate(self._centres):
            tones[row] *= np.exp(2j * np.pi * np.remainder(centre * positions, 1)).astype(np.complex64)
        return tones
