"""From a likely preamble to the exact first bit behind it, its clock, and what begins there.

Coherent: each tone has the same phase in every bit, so four bytes at a time are added up as they are.
"""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from ingest.same.line import BAUD, END, PREAMBLE, START, Complexes, Floats, bits
from ingest.same.preamble import Candidate
from ingest.same.tape import Tape

FINE = 4
"""Steps in a bit."""
BYTE = 8 * FINE
BEFORE, AFTER = 24, 11
"""Bytes looked at before and behind where the search put the end of the preamble."""
AROUND = 7
"""Bytes by which that may be wrong."""
CLOCKS = (np.arange(-3, 4) * 0.0025).tolist()
SURE, WORD, BARE = 0.33, 0.45, 0.7
"""Share of the energy that must fit preamble and word together, the word, and a preamble without one."""

LIKELY = 0.25
"""The same, byte by byte and at a clock that is only about right, for a closer look."""
NEARLY = 0.8
"""Share of the best fit of a preamble that is still as good."""


class Sync(msgspec.Struct, frozen=True):
    """The first bit of `ZCZC` or `NNNN`, or of something damaged behind a clear preamble."""

    word: Literal["ZCZC", "NNNN", ""]
    at: float
    """Position on the tape."""
    bit: float
    """Tape positions for each bit."""
    score: float


def needed(candidate: Candidate, out_rate: float) -> float:
    """How far the tape must reach before `synchronise` can say all it could ever say."""
    return candidate.end + 8 * AFTER * out_rate / BAUD * 1.05


def synchronise(tape: Tape, candidate: Candidate, out_rate: float) -> Sync | None:
    """Find where the preamble ends and which word follows; None where there is no preamble."""
    if not _worth_it(tape, candidate, out_rate):
        return None
    paces = out_rate / BAUD / (1 + candidate.clock + np.array(CLOCKS))
    steps = np.arange(-BEFORE * BYTE, AFTER * BYTE)
    tones = tape.upright(candidate.end + steps / FINE * paces[:, None])
    energy = (np.abs(tones) ** 2).sum(axis=0)
    octet = _fits(tones, bits(PREAMBLE[:4]))
    count = steps.size - 20 * BYTE
    # Everything is by where the preamble would begin; its sixteen bytes, then the word.
    preamble = sum(octet[:, part * 4 * BYTE : part * 4 * BYTE + count] for part in range(4))
    total = np.cumsum(np.pad(energy, ((0, 0), (FINE, 0))).reshape(len(paces), -1, FINE), axis=1)
    total = total.reshape(len(paces), -1)
    middle = total[:, 128 * FINE : 128 * FINE + count]
    begun = middle - total[:, :count] + 1e-30
    told = total[:, 160 * FINE : 160 * FINE + count] - middle + 1e-30
    behind = steps[:count] + 16.0 * BYTE
    near = np.abs(behind) <= AROUND * BYTE
    alone = preamble / begun
    if np.where(near, alone, 0).max() < SURE:
        return None
    # A word that only happens to be like one stands where the preamble fits badly.
    fits = near & (alone > NEARLY * np.where(near, alone, 0).max())
    best: Sync | None = None
    for word, name in ((START, "ZCZC"), (END, "NNNN")):
        said = _fits(tones[..., 16 * BYTE : 20 * BYTE - FINE + count], bits(word))[:, :count]
        share = (preamble + said) / (begun + told)
        score = np.where(fits & (said / told > WORD) & (share > SURE), share, 0)
        row, column = np.unravel_index(int(score.argmax()), score.shape)
        if score[row, column] > (best.score if best else 0):
            at, pace = _peak(share, int(row), int(column), candidate.end, behind, paces)
            best = Sync("ZCZC" if name == "ZCZC" else "NNNN", at, pace, float(score[row, column]))
    return best or _without_word(alone, tones, near, candidate.end, behind, paces)


def _worth_it(tape: Tape, candidate: Candidate, out_rate: float) -> bool:
    """A cheap look at one clock: bytes that fit by themselves are there, or not."""
    pace = out_rate / BAUD / (1 + candidate.clock)
    steps = np.arange(-17 * BYTE, BYTE)
    tones = tape.upright(candidate.end + steps[None] / FINE * pace)
    fits = _fits(tones, bits(PREAMBLE[:1]))[0, : 17 * BYTE]
    energy = (np.abs(tones[:, 0]) ** 2).sum(axis=0)[: 17 * BYTE]
    share = fits.reshape(-1, BYTE).sum(axis=0) / (energy.sum() / FINE + 1e-30)
    return float(share.max()) > LIKELY


def _without_word(
    share: Floats, tones: Complexes, near: npt.NDArray[np.bool_], origin: float, behind: Floats, paces: Floats
) -> Sync | None:
    """Behind the last byte of a clear preamble, whatever follows it."""
    score = np.where(near, share, 0)
    row, column = np.unravel_index(int(score.argmax()), score.shape)
    if score[row, column] < BARE:
        return None
    energy = (np.abs(tones[:, row]) ** 2).sum(axis=0)
    octet = _fits(tones[:, row : row + 1], bits(PREAMBLE[:1]))[0]
    end = int(column) + 16 * BYTE
    while end + BYTE <= octet.size and octet[end] > 0.75 * energy[end : end + BYTE : FINE].sum():
        end += BYTE
    if end + BYTE > octet.size:
        return None
    while octet[end - BYTE] < 0.5 * energy[end - BYTE : end : FINE].sum() and end > BYTE:
        end -= BYTE
    pace = float(paces[row])
    return Sync(
        "", origin + (int(behind[0]) - 16 * BYTE + end) / FINE * pace, pace, float(score[row, column])
    )


def _fits(tones: Complexes, wanted: npt.NDArray[np.uint8]) -> Floats:
    """Energy that fits these bits less what fits their opposite, by the step at which they begin."""
    count = tones.shape[-1] - (len(wanted) - 1) * FINE
    found = np.zeros((tones.shape[1], count), dtype=np.float32)
    for tone, value, sign in ((0, 1, 1), (1, 0, 1), (0, 0, -1), (1, 1, -1)):
        taps = np.flatnonzero(wanted == value) * FINE
        total = np.zeros((tones.shape[1], count), dtype=np.complex64)
        for tap in taps:
            total += tones[tone, :, tap : tap + count]
        found += sign * np.abs(total) ** 2 / max(len(taps), 1)
    return found


def _peak(
    share: Floats, row: int, column: int, origin: float, behind: Floats, paces: Floats
) -> tuple[float, float]:
    """Time and clock between the steps of the grid, by parabolas."""
    clock = row + _vertex(share[:, column], row)
    pace = float(np.interp(clock, np.arange(len(paces)), paces))
    step = float(behind[column]) + _vertex(share[row], column)
    return origin + step / FINE * pace, pace


def _vertex(values: Floats, index: int) -> float:
    if not 0 < index < len(values) - 1:
        return 0.0
    before, here, after = (float(values[index + shift]) for shift in (-1, 0, 1))
    bend = before - 2 * here + after
    return float(np.clip(0.5 * (before - after) / bend, -0.5, 0.5)) if bend < 0 else 0.0
