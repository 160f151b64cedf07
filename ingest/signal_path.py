"""What is done to the audio of every source: a channel chosen or all mixed, gain, and resampling."""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np
import soxr
from msgspec import UNSET, UnsetType
from numpy.typing import NDArray

from ingest.meters import Block

Samples = NDArray[np.float32]


class Wanted(Protocol):
    """The part of any settings that says what is to be done; what is unset stays as it is."""

    @property
    def gain_db(self) -> float | UnsetType: ...

    @property
    def channel(self) -> int | Literal["mix"] | UnsetType: ...

    @property
    def rate(self) -> int | UnsetType: ...


QUALITY = "HQ"
"""soxr's recipe: 20 bits of precision, a pass band up to 91 % of the lower Nyquist frequency."""


class SignalPath:
    """Takes blocks of any rate and number of channels and gives blocks of one: those of the first block,
    unless the settings wish others. What is resampled keeps its state from block to block.

    `rate` in Hz and `channels` are those of what it gives; 0 before the first block.
    """

    def __init__(self, wanted: Wanted) -> None:
        gain = 0.0 if wanted.gain_db is UNSET else wanted.gain_db
        self._gain = np.float32(10.0 ** (gain / 20.0))
        self._channel = wanted.channel
        self._wished = None if wanted.rate is UNSET else wanted.rate
        self.rate = 0
        self.channels = 0
        self._given = 0
        self._resampler: soxr.ResampleStream | None = None

    def feed(self, block: Block, rate: int) -> Samples:
        """The block of `rate` Hz, shape (frames, channels), as it leaves; what is resampled lags a little."""
        mixed = self._mixed(np.asarray(block, dtype=np.float32))
        if not self.channels:
            self.rate, self.channels = self._wished or rate, mixed.shape[1]
        fitted = _fitted(mixed, self.channels)
        if self._gain != 1.0:
            fitted = fitted * self._gain
        rest = None
        if rate != self._given:
            rest = self._end()
            self._given = rate
            if rate != self.rate:
                self._resampler = soxr.ResampleStream(
                    rate, self.rate, self.channels, dtype="float32", quality=QUALITY
                )
        resampled = self._resampled(fitted)
        return resampled if rest is None or not len(rest) else np.concatenate([rest, resampled])

    def flush(self) -> Samples:
        """What it still holds back, at the end of the audio."""
        rest = self._end()
        self._given = 0
        return rest if rest is not None else np.zeros((0, self.channels or 1), np.float32)

    def _mixed(self, block: Samples) -> Samples:
        if block.ndim == 1:
            block = block[:, np.newaxis]
        if block.shape[1] == 1:
            return block
        if self._channel == "mix":
            return np.asarray(block.mean(axis=1, keepdims=True), np.float32)
        if self._channel is not UNSET:
            # What asks for the second channel of a mono programme gets that programme.
            chosen = min(self._channel, block.shape[1]) - 1
            return block[:, chosen : chosen + 1]
        return block

    def _resampled(self, block: Samples) -> Samples:
        if self._resampler is None:
            return block
        if not np.isfinite(block).all():
            # One sample that is no number would spread over all that its filter touches.
            block = np.nan_to_num(block, nan=0.0, posinf=1.0, neginf=-1.0)
        return _shaped(self._resampler.resample_chunk(np.ascontiguousarray(block)), self.channels)

    def _end(self) -> Samples | None:
        if self._resampler is None:
            return None
        last = self._resampler.resample_chunk(np.zeros((0, self.channels), np.float32), last=True)
        self._resampler = None
        return _shaped(last, self.channels)


def is_neutral(wanted: Wanted) -> bool:
    """Whether by these settings audio leaves as it comes."""
    return (wanted.gain_db or UNSET) is wanted.channel is wanted.rate is UNSET


def _fitted(block: Samples, channels: int) -> Samples:
    """The block with that many channels: where a source changes theirs, its listeners do not notice."""
    has = block.shape[1]
    if has == channels:
        return block
    if channels == 1:
        return np.asarray(block.mean(axis=1, keepdims=True), np.float32)
    if has == 1:
        return np.asarray(np.repeat(block, channels, axis=1), np.float32)
    missing = np.zeros((len(block), max(channels - has, 0)), np.float32)
    return np.concatenate([block[:, :channels], missing], axis=1)


def _shaped(samples: Samples, channels: int) -> Samples:
    return samples.reshape(-1, channels)
