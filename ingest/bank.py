"""The meters of many sources of one rate and number of channels: arrays of sources × channels × samples."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from ingest.alarms import Alarms, Rows
from ingest.kweighting import ORDER, Shape, k_weighting
from ingest.loudness import Loudness, weights
from ingest.spectrum import Spectrum
from ingest.true_peak import REMEMBERED, true_peaks
from streams.alerts import MeasuredKind
from streams.sound import MetersSection

Array = npt.NDArray[np.float64]
Samples = npt.NDArray[np.float32]

ROWS = 64
"""Sources in a bank: as many as the processor's cache holds the audio of."""
FULL_SCALE = 1 - 2**-15
"""From here on a sample counts as full scale: the highest of 16 bits."""
LOUDEST = 1e4
"""What is louder, in files of floats, is measured as this beyond its peak: its square must stay a number."""
SMOOTHED = 0.1
"""How much a tenth of a second counts in what is told of the last second or so."""
SLOWLY = 10
"""Chunks after which integrated loudness and range are computed anew."""


class Outside(msgspec.Struct, frozen=True):
    """What the audio itself does not say of each source, in columns."""

    dropping: npt.NDArray[np.bool_]
    filled: Array
    """How full its buffer is: 0 to 1."""
    drift: Array
    """Millionths; not a number where nobody knows."""


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What one chunk of each source measured, in columns."""

    rms: Array
    peak: Array
    true_peak: Array
    """Amplitudes; so are those before."""
    momentary: Array
    """The highest of each ten milliseconds of the chunk; LUFS, as the next two."""
    short_term: Array
    integrated: Array
    range: Array
    clipped: npt.NDArray[np.int64]
    dc: Array
    flatness: Array
    silent: Array
    spectra: dict[int, list[int]]
    """By the place of those that are looked at."""
    changed: list[int]
    """The places of those whose conditions changed."""


class Bank:
    """ROWS places for sources of `rate` Hz and so many channels."""

    def __init__(self, rate: int, channels: int, thresholds: MetersSection) -> None:
        shape = Shape(rate)
        self.chunk = shape.chunk
        """Samples that are measured at a time: about 100 ms."""
        self.seconds = shape.chunk / rate
        self.channels = channels
        self._thresholds = thresholds
        self._filter = k_weighting(rate)
        self._spectrum = Spectrum(rate, shape.chunk)
        self._weights = weights(channels)
        self._loudness = Loudness(ROWS, shape.slice)
        self.alarms = Alarms(ROWS, thresholds)
        self._state = np.zeros((ROWS, channels, ORDER))
        self._tail = np.zeros((ROWS, channels, REMEMBERED), np.float32)
        self._clipped = np.zeros(ROWS, np.int64)
        self._dc = np.zeros(ROWS)
        self._flat = np.full(ROWS, np.nan)
        self._integrated = np.full(ROWS, -np.inf)
        self._range = np.zeros(ROWS)
        self._chunks = np.zeros(ROWS, np.int64)
        self.free = list(range(ROWS))[::-1]

    def clear(self, row: int) -> None:
        """Begin anew in a place, with another source."""
        self._loudness.clear(row)
        self.alarms.clear(row)
        self._state[row] = self._tail[row] = self._clipped[row] = 0
        self._dc[row] = self._range[row] = self._chunks[row] = 0
        self._flat[row], self._integrated[row] = np.nan, -np.inf

    def open(self, row: int) -> dict[MeasuredKind, str]:
        """The conditions that are open for a place, each with its reason."""
        return self.alarms.open(row)

    def measure(
        self, rows: Rows, audio: Samples, valid: Array, outside: Outside, looked_at: list[int]
    ) -> Measured:
        """Measure a chunk of each of these rows: `audio` is rows × channels × samples.

        `valid` are the samples that are audio, where the rest is filled up with silence; `looked_at`
        the places in `rows` whose spectrum is wanted.
        """
        count, channels = len(rows), self.channels
        peak = _peaks(audio)
        if not np.isfinite(peak).all():
            # Files of floats may hold anything; a level must stay one.
            audio = np.nan_to_num(audio, nan=0.0, posinf=1.0, neginf=-1.0)
            peak = _peaks(audio)
        # Scaled by the peak, so that squaring neither overflows nor loses the very quiet.
        scaled = audio.reshape(count, -1) / np.where(peak > 0, peak, 1.0).astype(np.float32)[:, np.newaxis]
        power = np.einsum("rn,rn->r", scaled, scaled).astype(np.float64) / (channels * valid)
        rms = peak * np.sqrt(power)
        if peak.max() > LOUDEST:
            audio = np.clip(audio, -LOUDEST, LOUDEST)
        momentary, short = self._loud(rows, audio)
        self._chunks[rows] += 1
        # Also at the end of the audio, which seldom is the end of a second.
        due = rows[(self._chunks[rows] % SLOWLY == 0) | (valid < self.chunk)]
        if len(due):
            self._integrated[due] = self._loudness.integrated(due)
            self._range[due] = self._loudness.range(due)
        clipped = self._count_clipped(rows, audio, peak)
        mono = audio[:, 0] if channels == 1 else audio.mean(axis=1, dtype=np.float32)
        powers = self._spectrum.powers(mono)
        flat, before = self._spectrum.flatness(powers), self._flat[rows]
        self._flat[rows] = np.where(np.isnan(before), flat, before + SMOOTHED * (flat - before))
        dc = mono.sum(axis=1, dtype=np.float64) / valid
        self._dc[rows] += SMOOTHED * (dc - self._dc[rows])
        changed = self._alarmed(rows, rms, clipped, outside)
        spectra = self._spectrum.bands(powers[looked_at]) if looked_at else []
        return Measured(
            rms=rms,
            peak=peak,
            true_peak=np.maximum(self._between(rows, audio), peak),
            momentary=momentary,
            short_term=short,
            integrated=self._integrated[rows],
            range=self._range[rows],
            clipped=self._clipped[rows],
            dc=self._dc[rows],
            flatness=self._flat[rows],
            silent=self.alarms.silent[rows],
            spectra=dict(zip(looked_at, spectra, strict=True)),
            changed=changed,
        )

    def _loud(self, rows: Rows, audio: Samples) -> tuple[Array, Array]:
        count, channels = len(rows), self.channels
        state = self._state[rows].reshape(-1, ORDER)
        energy, state = self._filter.energies(audio.reshape(count * channels, -1), state)
        # What dies away must end: numbers next to nothing are the slowest of all to compute with.
        state[np.abs(state) < 1e-18] = 0.0
        self._state[rows] = state.reshape(count, channels, ORDER)
        weighted = np.einsum("rcs,c->rs", energy.reshape(count, channels, -1), self._weights)
        return self._loudness.add(rows, weighted)

    def _between(self, rows: Rows, audio: Samples) -> Array:
        count, channels = len(rows), self.channels
        joined = np.concatenate([self._tail[rows], audio], axis=2)
        self._tail[rows] = audio[:, :, -REMEMBERED:]
        highest: Any = true_peaks(joined.reshape(count * channels, -1)).reshape(count, channels).max(axis=1)
        return np.asarray(highest, np.float64)

    def _count_clipped(self, rows: Rows, audio: Samples, peak: Array) -> npt.NDArray[np.int64]:
        clipped = np.zeros(len(rows), np.int64)
        for place in np.flatnonzero(peak >= FULL_SCALE):
            for sign in (audio[place] >= FULL_SCALE, audio[place] <= -FULL_SCALE):
                clipped[place] += np.count_nonzero(sign[:, 1:] & sign[:, :-1])
        self._clipped[rows] += clipped
        return clipped

    def _alarmed(self, rows: Rows, rms: Array, clipped: npt.NDArray[np.int64], outside: Outside) -> list[int]:
        t, flat, drift = self._thresholds, self._flat[rows], np.abs(outside.drift)
        silence, heard = 10 ** (t.silence_dbfs / 20), 10 ** ((t.silence_dbfs + t.hysteresis_db) / 20)
        hiss = 10 ** (t.hiss_dbfs / 20)
        # Comparisons with what is not a number are false: nobody knows, so nothing is wrong.
        now = (
            rms < silence,
            (rms >= hiss) & (flat >= t.hiss_flatness),
            clipped > 0,
            outside.dropping | (outside.filled > 0.8),
            drift > t.drift_ppm,
        )
        was = (
            rms < heard,
            (rms >= hiss / 2) & (flat >= 0.8 * t.hiss_flatness),
            clipped > 0,
            outside.dropping | (outside.filled > 0.5),
            drift > t.drift_ppm / 2,
        )
        return self.alarms.look(rows, self.seconds, np.stack(now, axis=1), np.stack(was, axis=1))


def _peaks(audio: Samples) -> Array:
    flat = audio.reshape(len(audio), -1)
    return np.asarray(np.maximum(flat.max(axis=1), -flat.min(axis=1)), np.float64)
