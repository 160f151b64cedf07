"""When what is measured becomes a condition: after it was so for a time, and until it was not for a time."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from streams.alerts import MeasuredKind
from streams.sound import MetersSection

Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.intp]

KINDS: Final[tuple[MeasuredKind, ...]] = ("silence", "hiss", "clipping", "buffer", "drift")


class Alarms:
    """The alarms of up to `size` sources, each in a row of its own."""

    def __init__(self, size: int, thresholds: MetersSection) -> None:
        self._thresholds = t = thresholds
        self._opens = np.array([t.silence_seconds, t.hiss_seconds, 1.0, 1.0, 60.0])
        self._resets = np.array([0.0, 1.0, 5.0, 5.0, 10.0])
        """Seconds without it after which the time before counts no more."""
        self._closes = np.array([2.0, 5.0, 10.0, 30.0, 60.0])
        self._so = np.zeros((size, len(KINDS)))
        self._not = np.zeros((size, len(KINDS)))
        self._open = np.zeros((size, len(KINDS)), np.bool_)
        self.silent = np.zeros(size)
        """Seconds that it has been silent."""

    def clear(self, row: int) -> None:
        """Begin anew with another source."""
        self._so[row] = self._not[row] = self._open[row] = self.silent[row] = 0

    def look(self, rows: Rows, seconds: float, now: Array, was: Array) -> list[int]:
        """Take `seconds` in which these rows were as `now` and `was` say; which of them changed.

        `now` and `was` have a column for each of KINDS: whether it is so enough to open, and whether
        it is so enough to stay open. Between the two nothing is counted.
        """
        so, no = self._so[rows], self._not[rows]
        surely, surely_not = now > 0, was == 0
        no = np.where(surely_not, no + seconds, np.where(surely, 0.0, no))
        so = np.where(surely, so + seconds, so)
        # A hair less, for sums of tenths.
        so[(no > self._resets + 1e-6)] = 0.0
        before = self._open[rows]
        after = (before | (so >= self._opens - 1e-6)) & (no < self._closes - 1e-6)
        self._so[rows], self._not[rows], self._open[rows] = so, no, after
        self.silent[rows] = np.where(surely[:, 0], self.silent[rows] + seconds, 0.0)
        return np.flatnonzero((before != after).any(axis=1)).tolist()

    def open(self, row: int) -> dict[MeasuredKind, str]:
        """The conditions that are open, each with its reason."""
        return {kind: self._reason(kind) for kind, open in zip(KINDS, self._open[row], strict=True) if open}

    def _reason(self, kind: MeasuredKind) -> str:
        t = self._thresholds
        match kind:
            case "silence":
                return f"below {t.silence_dbfs:g} dBFS for {t.silence_seconds:g} s"
            case "hiss":
                return (
                    f"noise and no programme: above {t.hiss_dbfs:g} dBFS with a spectrum as flat as "
                    f"{t.hiss_flatness:g} for {t.hiss_seconds:g} s"
                )
            case "clipping":
                return "samples stand at full scale, again and again"
            case "buffer":
                return "audio was thrown away, or most of the buffer is used: it is not read fast enough"
            case "drift":
                return f"its clock is off by more than {t.drift_ppm:g} ppm"
