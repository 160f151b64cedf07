"""What an ideal receiver makes of the same messages in white noise: the bound that ours is held against.

It is told when each burst begins, its clock, phase and level, how loud the noise is, which burst is missing
and how many locations there are, and knows of headers what our decoder knows. It has matched filters, adds
the bursts up and takes the likeliest header.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bench.same_air import Condition, Sent, deviation
from ingest.same.grammar import HEAD, MOST_LOCATIONS, PLACE, TAIL
from ingest.same.line import BAUD, PREAMBLE
from ingest.same.reading import characters, read

CERTAIN = 100.0
"""Nats beyond which nothing changes but that sums overflow."""


def applies(condition: Condition) -> bool:
    """Whether white noise is all that befalls the messages."""
    others = (condition.text, condition.burst, condition.channel, condition.after)
    return condition.snr is not None and condition.messages == 1 and not any(others)


def ideal(condition: Condition, sent: Sent) -> str:
    """The header that it reads."""
    assert condition.snr is not None
    (text,) = sent.headers
    noise = deviation(sent.rate, condition.level, condition.snr) ** 2
    soft = sum(_soft(condition, sent, begin, len(text)) for begin in sent.begins) / noise
    soft = np.clip(soft, -CERTAIN, CERTAIN)
    lengths = np.full(MOST_LOCATIONS, -np.inf)
    lengths[(len(text) - HEAD - TAIL) // PLACE - 1] = 0.0
    return read(characters(soft.reshape(-1, 8)), lengths, len(sent.begins)).text


def _soft(condition: Condition, sent: Sent, begin: float, characters: int) -> npt.NDArray[np.float64]:
    """For each bit of a burst's header: how much better a mark fits than a space, in squares of amplitude."""
    pace = BAUD * (1 + condition.clock) / sent.rate
    count = 8 * characters
    first = begin + 8 * len(PREAMBLE) / pace
    at = np.arange(int(np.ceil(first)), int(np.ceil(first + count / pace)))
    cycles = (at - first) * pace
    bit = np.clip(np.floor(cycles).astype(int), 0, count - 1)
    mark, space = (condition.level * np.sin(2 * np.pi * tone * (cycles - bit)) for tone in (4, 3))
    heard = sent.samples[at].astype(np.float64)
    return np.bincount(bit, heard * (mark - space) - (mark**2 - space**2) / 2, minlength=count)
