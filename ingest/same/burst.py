"""A burst that is being received: is it still there, is it whole, and what are its soft bits?"""

from __future__ import annotations

from itertools import pairwise

import msgspec
import numpy as np
import numpy.typing as npt

from ingest.same.align import FINE, REACH, Path, align
from ingest.same.grammar import HEAD, MOST_LOCATIONS, PLACE, TAIL, numbers
from ingest.same.line import PREAMBLE, Floats, bits
from ingest.same.reading import Reading, characters, loose, read, robust
from ingest.same.soft import soft_bits
from ingest.same.sync import Sync
from ingest.same.tape import Tape

LEAD = 8 * len(PREAMBLE)
SHORTEST = HEAD + PLACE + TAIL
LONGEST = HEAD + PLACE * MOST_LOCATIONS + TAIL
BEHIND = 30
"""Characters behind the end of a header that are kept, were it longer after all."""
SHORT = 10
"""Characters that a text has at least to be told although it is nothing like a header."""
WINDOW = 64
"""Bits by which it is judged whether the burst is still there."""
CHANCE = 0.386
"""Contrast of the tones in noise alone."""
FAINT = 0.4
"""Share of the preamble's contrast over chance below which nothing is there."""
PATIENCE, IN_NOISE = 0.2, 0.6
"""Seconds for which a burst may be away and yet go on; where it hardly stands out, the latter."""
OUTSTANDING = 0.2
"""Contrast over chance from which it does."""
CLEARLY = 6.0
"""Nats by which one way to read it must be ahead."""
DOUBTFUL = 0.5
"""Certainty below which what a burst says by the rules is compared with what it says without them."""
GRAMMATICAL = 30.0
"""Evidence that a burst without `ZCZC` must give of being a header."""


class Burst(msgspec.Struct, frozen=True):
    """A burst received."""

    begin: float
    until: float
    """Tape positions of its preamble and of the end of its last character."""
    ends: Floats
    """Tape positions at which each place ends, also behind its last character."""
    bits: Floats
    """Soft bits, a row of eight for each place."""
    rows: Floats
    """Log-likelihoods by place and character, over random bits."""
    lengths: Floats
    """Log-probability of each number of locations, from 1 on."""
    reading: Reading
    """What it says by itself."""
    text: str
    """Its characters as received."""
    solid: bool
    """Every character is beyond doubt, and then the burst ended."""

    def end_of(self, text: str) -> float:
        """Where it ends if this is what it says, though its own end may be damaged."""
        beyond = len(text) - len(self.ends)
        return float(self.ends[min(len(text), len(self.ends)) - 1]) + max(beyond, 0) * self._place

    @property
    def _place(self) -> float:
        return float(self.ends[-1] - self.ends[-2])


class OpenBurst:
    """A burst from where its word begins."""

    def __init__(self, sync: Sync, tape: Tape, out_rate: float) -> None:
        self.sync = sync
        self._tape = tape
        self._rate = out_rate
        self._contrast = self._contrast_at(sync.at)
        self._patience = PATIENCE if self._contrast > CHANCE + OUTSTANDING else IN_NOISE
        self._present = sync.at
        self._next = sync.at + (8 * SHORTEST + 2) * sync.bit
        """Where it may be whole at the earliest."""
        self.dropped = False
        """It was no burst after all."""

    def advance(self, *, final: bool) -> Burst | None:
        """The burst, once it is over by what is on the tape now."""
        now = float(self._tape.limit - 3)
        gone = self._contrast_at(now) < CHANCE + FAINT * (self._contrast - CHANCE)
        if not gone:
            self._present = now
        over = (
            final
            or now - self._present > self._patience * self._rate
            or now - self.sync.at > 8 * (LONGEST + 4) * self.sync.bit
        )
        if not over and now < self._next:
            return None
        path = self._path(self.sync.at)
        if not over:
            # What is not on the tape yet contradicts no length: the shortest that fits is told.
            until = self.sync.at + (8 * path.places + path.offsets[-1] / FINE + 2) * self.sync.bit
            if now < until or path.score <= 0 or not (gone or path.ahead > CLEARLY):
                self._next = max(until, now + 16 * self.sync.bit)
                return None
        if not self._begins_well(path):
            self._move_begin(path)
            path = self._path(self.sync.at)
        return self._read(path)

    def _begins_well(self, path: Path) -> bool:
        return path.head > 0

    def _move_begin(self, path: Path) -> None:
        """Samples were lost where the word begins, or the preamble seemed to go on: try beside."""
        byte = 8 * self.sync.bit
        starts = [self.sync.at + shift * byte for shift in (-2, -1, 1, 2)]
        scores = [self._path(start).score for start in starts]
        if max(scores) > path.score + CLEARLY:
            self.sync = msgspec.structs.replace(self.sync, at=starts[int(np.argmax(scores))])

    def _contrast_at(self, end: float, window: int = WINDOW) -> float:
        steps = np.arange(-window, 0)[:, None] + np.arange(4) / 4 - 1
        loud, soft = np.abs(self._tape.read(end + steps * self.sync.bit))
        return float((np.abs(loud - soft) / (loud + soft + 1e-30)).mean(axis=0).max())

    def _path(self, at: float) -> Path:
        """How the characters lie when the word begins there, by the bits in steps of a quarter."""
        bit = self.sync.bit
        room = int((self._tape.limit - at) / bit) + 1
        count = LEAD + min(room, 8 * (LONGEST + 2)) + 2 * REACH // FINE
        steps = np.arange(count * FINE).reshape(count, FINE) / FINE - LEAD
        tones = self._tape.upright(at + steps * bit)
        soft = soft_bits(tones[0], tones[1]).reshape(-1)
        return align(soft[LEAD * FINE - REACH :])

    def _read(self, path: Path) -> Burst | None:
        begins, octets = self._octets(*_smooth(path.offsets))
        rows = characters(octets)
        lengths = path.lengths - np.logaddexp.reduce(path.lengths)
        reading = read(robust(rows), lengths, 1)
        if self.sync.word != "ZCZC" and reading.evidence < GRAMMATICAL:
            self.dropped = True
            return None
        text, solid = self._as_heard(reading, begins, rows)
        if not solid and reading.confidence < DOUBTFUL:
            # Perhaps samples seemed to be missing only because characters are.
            even, straight = self._octets(*_smooth(np.full(LONGEST, path.offsets[0])))
            text, solid = self._as_heard(reading, even, characters(straight))
        ends = begins + 8 * self.sync.bit
        until, begin = ends[min(len(text), len(ends)) - 1], begins[0] - LEAD * self.sync.bit
        return Burst(float(begin), float(until), ends, octets, rows, lengths, reading, text, solid)

    def _octets(self, starts: Floats, paces: Floats) -> tuple[Floats, Floats]:
        """Where each character begins, and its soft bits."""
        bit = self.sync.bit
        begins = self.sync.at + bit * (8 * np.arange(len(starts)) + starts / FINE)
        positions = begins[:, None] + bit * paces[:, None] * np.arange(8)
        lead = begins[0] + bit * paces[0] * np.arange(-LEAD, 0)
        tones = self._tape.upright(np.concatenate((lead, positions.reshape(-1))))
        known = np.full((tones.shape[1], 1), np.nan)
        known[:LEAD, 0] = bits(PREAMBLE)
        soft = soft_bits(tones[0][:, None], tones[1][:, None], known)
        return begins, soft[LEAD:, 0].reshape(-1, 8)

    def _as_heard(self, reading: Reading, begins: Floats, rows: Floats) -> tuple[str, bool]:
        """The text; not what the rules make of it where all of it was clear, and then it ended."""
        raw, evidence = loose(rows)
        if len(raw) < SHORT or not self._ended(float(begins[len(raw) - 1]) + 8 * self.sync.bit):
            return reading.text, False
        if reading.text.startswith(raw):
            rest = numbers(reading.text[len(raw) :])
            places = np.arange(len(raw), len(reading.text))
            if robust(rows)[places, rest].sum() > CLEARLY:
                return reading.text, False
        return raw if raw.endswith("-") or evidence > reading.evidence else reading.text, True

    def _ended(self, position: float) -> bool:
        """Nothing is there behind this position."""
        end = min(position + (WINDOW + 2) * self.sync.bit, float(self._tape.limit - 3))
        window = int((end - position) / self.sync.bit) - 2
        if window < SHORT:
            return True
        return self._contrast_at(end, window) < CHANCE + 0.5 * (self._contrast - CHANCE)


def _smooth(steps: npt.NDArray[np.intp]) -> tuple[Floats, Floats]:
    """Offsets in steps, without the rounding of the grid, and how much longer than `bit` each bit is."""
    offsets = steps.astype(np.float64)
    edges = [0, *(np.flatnonzero(np.abs(np.diff(offsets)) > 2) + 1).tolist(), len(offsets)]
    starts, paces = offsets.copy(), np.ones(len(offsets))
    for begin, end in pairwise(edges):
        if end - begin >= 12:
            places = np.arange(begin, end) - (begin + end - 1) / 2
            slope = float(places @ offsets[begin:end] / (places @ places))
            starts[begin:end] = offsets[begin:end].mean() + slope * places
            paces[begin:end] = 1 + slope / FINE / 8
        else:
            starts[begin:end] = np.median(offsets[begin:end])
    slope = (paces[-1] - 1) * 8 * FINE
    beyond = np.arange(1, BEHIND + 1)
    return np.append(starts, starts[-1] + slope * beyond), np.append(paces, np.full(BEHIND, paces[-1]))
