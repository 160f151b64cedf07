"""Soft bits: how much more likely a mark than a space is, from the outputs of the two filters.

Each tone has the same phase in every bit, so that of a bit's neighbours tells what to expect of it: with
many of them this is coherent detection, and where they contradict each other (a slip, an echo, an encoder
that breaks the phase) it falls back to comparing energies by itself. Level and noise are those around the
bit: what fades, drops out or is drowned counts little.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ingest.same.line import Complexes, Floats

LEVEL_BITS, PHASE_BITS, NOISE_BITS = 12, 20, 28
"""How many bits on either side tell level, phase and noise."""
ERASED = 0.01
"""How often a bit is simply not there."""
MOST = 8.0
"""No bit is surer than this, in nats: rarely is what goes wrong what the model knows."""
TRUST = 0.8
"""How much of the neighbours' phase is believed."""
ROUNDS = 2


def soft_bits(mark: Complexes, space: Complexes, known: Floats | None = None) -> Floats:
    """Log-likelihood ratios, one for each row; columns are separate receivers of the same bits.

    `known` says of each row that it is a mark (1) or a space (0), or is unknown (NaN).
    """
    scale = np.sqrt(np.mean(np.abs(mark) ** 2 + np.abs(space) ** 2)) + 1e-30
    mark, space = mark / scale, space / scale
    loud, soft = np.abs(mark) ** 2, np.abs(space) ** 2
    share = loud / (loud + soft + 1e-12)
    ratio = share
    for _ in range(ROUNDS):
        if known is not None:
            share = np.where(np.isnan(known), share, known)
        rest = 1 - share
        noise = _around(rest * loud + share * soft, NOISE_BITS) / _around(np.ones_like(share), NOISE_BITS)
        levels = [
            np.maximum(_around(w * power, LEVEL_BITS) / (_around(w, LEVEL_BITS) + 0.5) - noise, 0)
            for w, power in ((share, loud), (rest, soft))
        ]
        noise = np.maximum(noise, 0.01 * (levels[0] + levels[1])) + 1e-9
        likely = [
            _likelihood(tone, weight, np.maximum(level, 0.05 * noise), noise)
            for tone, weight, level in ((mark, share, levels[0]), (space, rest, levels[1]))
        ]
        ratio = np.clip(_or_erased(likely[0]) - _or_erased(likely[1]), -MOST, MOST)
        share = 1 / (1 + np.exp(-ratio))
    found: Floats = ratio.astype(np.float32)
    return found


def _likelihood(tone: Complexes, weight: Floats, level: Floats, noise: Floats) -> Floats:
    """Of this tone being there, relative to noise alone, given the phase that its neighbours have."""
    weighted = weight * tone
    expected = _around(weighted, PHASE_BITS) - weighted
    gain = 2 * np.sqrt(level) / noise
    before = TRUST * gain * expected
    likely: Floats = _log_i0(np.abs(before + gain * tone)) - _log_i0(np.abs(before)) - level / noise
    return likely


def _or_erased(likely: Floats) -> Floats:
    floored: Floats = np.logaddexp(likely + np.log(1 - ERASED), np.log(ERASED))
    return floored


def _log_i0(x: Floats) -> Floats:
    """ln I0, within 0.24: the integral of Amos' bound of I1 / I0."""
    root = np.sqrt(x * x + 2.25)
    value: Floats = root - 0.5 * np.log(0.5 + root) - (1.5 - 0.5 * np.log(2.0))
    return value


def _around(values: Any, reach: int) -> Any:
    """The sum of each row and `reach` rows on either side of it."""
    total = np.cumsum(values, axis=0, dtype=np.complex128 if np.iscomplexobj(values) else np.float64)
    total = np.concatenate((np.zeros_like(total[:1]), total))
    rows = np.arange(len(values))
    return total[np.minimum(rows + reach + 1, len(values))] - total[np.maximum(rows - reach, 0)]
