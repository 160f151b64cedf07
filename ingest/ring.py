"""The latest audio of a source, in memory: a recording can begin in the past."""

from __future__ import annotations

import math
import threading

import numpy as np
from numpy.typing import NDArray

from ingest.meters import Block

Samples = NDArray[np.int16]


class Ring:
    """Holds the last `seconds` of audio as 16-bit samples. One thread adds, others read.

    Frames are counted from the first that was ever added. Memory is taken as it fills.
    """

    def __init__(self, rate: int, channels: int, seconds: float) -> None:
        self.rate, self.channels = rate, channels
        self.frames = max(1, round(rate * seconds))
        """As many it holds."""
        self._held = np.zeros((self.frames, channels), np.int16)
        self._lock = threading.Lock()
        self.written = 0
        """Frames that were added so far."""

    @property
    def oldest(self) -> int:
        """The first frame that is still held."""
        return max(0, self.written - self.frames)

    def add(self, block: Block) -> None:
        """Add the newest audio, shape (frames, channels)."""
        frames = block if block.ndim == 2 else block[:, np.newaxis]
        samples = quantised(frames[-self.frames :])
        at = (self.written + len(frames) - len(samples)) % self.frames
        first = min(len(samples), self.frames - at)
        with self._lock:
            self._held[at : at + first] = samples[:first]
            self._held[: len(samples) - first] = samples[first:]
            self.written += len(frames)

    def read(self, start: int, most: int) -> tuple[int, Samples]:
        """Up to `most` frames from `start` on, and where they begin: later, where those are gone."""
        with self._lock:
            begin = max(start, self.oldest)
            count = max(0, min(most, self.written - begin))
            at = begin % self.frames
            first = min(count, self.frames - at)
            return begin, np.concatenate([self._held[at : at + first], self._held[: count - first]])


def quantised(block: Block) -> Samples:
    """Samples of 16 bits: exactly those of a 16-bit recording; what is no number is silence."""
    scaled = np.multiply(block, np.float32(32768), dtype=np.float32)
    if not is_finite(scaled):
        scaled = np.nan_to_num(scaled, nan=0.0, posinf=32767.0, neginf=-32768.0)
    # In place: this is done with all audio of all sources.
    np.rint(scaled, out=scaled)
    np.minimum(scaled, np.float32(32767), out=scaled)
    np.maximum(scaled, np.float32(-32768), out=scaled)
    return scaled.astype(np.int16)


def is_finite(block: Block) -> bool:
    """Whether all its samples are numbers, for sure; of very large ones it says no as well."""
    flat = block.reshape(-1)
    with np.errstate(over="ignore", invalid="ignore"):
        return math.isfinite(np.dot(flat, flat))
