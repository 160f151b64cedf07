"""Attention signals: 853 and 960 Hz together, or 1050 Hz, steady and much louder than all else.

Looked for in the spectra that the filters use anyway, one row for each step of 0.14 s.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from ingest.same.filterbank import HIGH, LOW
from ingest.same.heard import ToneHeard
from ingest.same.line import Complexes, Floats

Kind = Literal["attention", "1050"]
KINDS: dict[Kind, tuple[float, ...]] = {
    "attention": (853.0, 960.0),
    "1050": (1050.0,),
}
TOLERANCE = 0.01
"""By how much of its frequency a tone may be off."""
ALONE, EACH = 0.6, 0.15
"""Share of the power between 300 and 3400 Hz that is theirs together, and each one's."""
SHORTEST = 2.0
"""Seconds: anything shorter is no signal."""
GAP = 3
"""Rows that may be missing in between."""
SILENCE = 1e-9
"""Mean square below which nothing is a tone."""


class ToneSearch:
    """Fed with the spectra of blocks of `block` samples, each beginning `hop` samples after the other."""

    def __init__(self, rate: float, hop: int, block: int) -> None:
        self._rate, self._hop, self._block = rate, hop, block
        self._band = slice(int(LOW * block / rate), int(HIGH * block / rate))
        self._tones = {kind: [_bins(tone, block / rate) for tone in tones] for kind, tones in KINDS.items()}
        bins = [each for kind in self._tones.values() for each in kind]
        self._near = slice(min(each.start for each in bins), max(each.stop for each in bins))
        """Where all of them lie: what has little power there is none."""
        self._row = 0
        self._since: dict[Kind, int] = {}
        """The row in which each kind that is on began."""
        self._powers: dict[Kind, list[float]] = {kind: [] for kind in KINDS}

    def feed(self, spectra: Complexes) -> dict[int, list[ToneHeard]]:
        """The signals that are over now, by the row that says so."""
        whole = _power(spectra, self._band)
        least = SILENCE * self._block**2 / 2
        heard: dict[int, list[ToneHeard]] = {}
        near = _power(spectra, self._near)
        if not self._since and not ((near > ALONE * whole) & (near > least)).any():
            self._row += len(spectra)
            return heard
        for kind, bins in self._tones.items():
            powers = [_power(spectra, each) for each in bins]
            total = sum(powers[1:], powers[0])
            on = (total > ALONE * whole) & (total > least)
            for power in powers:
                on &= power > EACH * whole
            if kind not in self._since and not on.any():
                continue
            for index, (is_on, power) in enumerate(zip(on.tolist(), total.tolist(), strict=True)):
                told = self._step(kind, self._row + index, power if is_on else 0.0)
                if told:
                    heard.setdefault(index, []).extend(told)
        self._row += len(spectra)
        return heard

    def finish(self) -> list[ToneHeard]:
        """The signals that are still on."""
        return [one for kind in KINDS for one in self._over(kind)]

    def _step(self, kind: Kind, row: int, power: float) -> list[ToneHeard]:
        powers = self._powers[kind]
        if kind not in self._since:
            if power:
                self._since[kind] = row
                powers.append(power)
            return []
        powers.append(power)
        return self._over(kind) if not any(powers[-GAP:]) else []

    def _over(self, kind: Kind) -> list[ToneHeard]:
        begun, powers = self._since.pop(kind, None), np.array(self._powers[kind])
        self._powers[kind].clear()
        if begun is None or not powers.any():
            return []
        # A row at either edge is filled in part; how far, its power tells.
        full = float(np.median(powers[powers > 0]))
        seconds = float(np.minimum(powers / full, 1).sum()) * self._hop / self._rate
        if seconds < SHORTEST:
            return []
        filled = min(float(powers[0]) / full, 1.0) * self._block
        at = ((begun + 1) * self._hop - filled) / self._rate
        return [ToneHeard(kind, max(at, 0.0), seconds)]


def _bins(tone: float, per_hertz: float) -> slice:
    reach = tone * TOLERANCE * per_hertz + 1
    return slice(round(tone * per_hertz - reach), round(tone * per_hertz + reach) + 1)


def _power(spectra: Complexes, bins: slice) -> Floats:
    parts = spectra[:, bins].view(np.float32)
    power: Floats = np.einsum("ij,ij->i", parts, parts)
    return power
