"""From soft bits to a header: of one burst, or of several added up."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from ingest.same.grammar import ALPHABET, HEAD, MOST_LOCATIONS, PLACE, TAIL, layout, numbers
from ingest.same.line import Floats, signs

DAMAGED = 0.02
"""How often a character of a burst is something else altogether: then it says nothing."""
FLOOR = float(np.log(DAMAGED))
CONTRADICTED = 9.0
"""Nats by which each burst speaks against a character that the rules ask for: then it is what was heard."""
SOLID = 4.0
"""Nats by which a character of one burst is ahead of all others to be beyond doubt."""
CLOSE = 25.0
"""Nats behind the best at which another length is not looked at more closely."""

FACTORS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)

_SIGNS = np.stack([signs(letter.encode()) for letter in ALPHABET], axis=1)


class Reading(msgspec.Struct, frozen=True):
    """What bursts say."""

    text: str
    confidence: float
    """Probability of the whole header, were the model true."""
    evidence: float
    """Log-probability of the soft bits, over that of random bits."""


def characters(bits: Floats, letters: npt.NDArray[np.intp] | None = None) -> Floats:
    """Log-likelihood of each printable character over random bits, for rows of eight soft bits.

    Of those numbered `letters` only, where they are given.
    """
    table = _SIGNS if letters is None else _SIGNS[:, letters]
    likely: Floats = bits @ (0.5 * table) - np.log(np.cosh(bits / 2)).sum(axis=-1)[..., None]
    return likely


def robust(likely: Floats) -> Floats:
    """The same where a character may be damaged."""
    floored: Floats = np.logaddexp(likely + np.log(1 - DAMAGED), FLOOR)
    return floored


def read(likely: Floats, lengths: Floats, bursts: int) -> Reading:
    """The best header in `likely` (place, character), summed over so many bursts.

    `lengths` are log-probabilities of the number of locations, from 1 on: only likely ones are read.
    """
    cache: dict[tuple[int, int], tuple[str, float, float]] = {}
    most = len(likely) - HEAD - TAIL
    totals, best = [], ("", -np.inf)
    for index in np.argsort(-lengths)[:4]:
        locations = int(index) + 1
        if lengths[index] < lengths.max() - CLOSE or locations * PLACE > most:
            continue
        place, text, score, total = 0, "", 0.0, 0.0
        for words in layout(locations):
            key = (place, id(words))
            if key not in cache:
                cache[key] = words.read(likely[place:])
            word, word_score, word_total = cache[key]
            text, score, total = text + word, score + word_score, total + word_total
            place += words.length
        totals.append(total)
        if score > best[1]:
            best = (text, score)
    if not totals:
        return Reading("", 0.0, 0.0)
    evidence = float(np.logaddexp.reduce(totals)) - np.log(MOST_LOCATIONS)
    confidence = float(np.exp(min(best[1] - np.logaddexp.reduce(totals), 0.0)))
    return Reading(_as_heard(best[0], likely, bursts), confidence, float(evidence))


def _as_heard(text: str, likely: Floats, bursts: int) -> str:
    """The text, but with what was clearly received where that is against the rules."""
    rows, asked = np.arange(len(text)), numbers(text)
    found = likely[: len(text)].argmax(axis=1)
    ahead = likely[rows, found] - likely[rows, asked]
    against = ahead > CONTRADICTED * min(bursts, 2)
    return "".join(ALPHABET[found[row]] if against[row] else letter for row, letter in enumerate(text))


def loose(likely: Floats) -> tuple[str, float]:
    """The characters of one burst whatever the rules say, as far as each is beyond doubt; their evidence."""
    ordered = np.partition(likely, -2, axis=1)
    solid = (ordered[:, -1] - ordered[:, -2] > SOLID) & (ordered[:, -1] > 0)
    count = int(len(solid) if solid.all() else solid.argmin())
    evidence = float(ordered[:count, -1].sum()) - count * float(np.log(len(ALPHABET)))
    return "".join(ALPHABET[one] for one in likely[:count].argmax(axis=1)), evidence


def overrated(text: str, bursts: Sequence[Floats]) -> float:
    """By which factor soft bits say too much, were this the text: 1 where their errors are as expected.

    What codecs leave of a signal is wrong more often than its level suggests, and in each burst alike.
    Characters that were damaged altogether are left out.
    """
    asked = signs(text.encode()).reshape(-1, 8)
    agreeing = [each[: len(text)] * asked[: len(each)] for each in bursts]
    sums = [(0.5 * each - np.log(np.cosh(each / 2))).sum(axis=1) for each in agreeing]
    spared = np.concatenate([each[total > FLOOR] for each, total in zip(agreeing, sums, strict=True)])
    costs = [float(np.logaddexp(0, -factor * spared).sum()) for factor in FACTORS]
    return FACTORS[int(np.argmin(costs))]


def together(rows: Sequence[Floats]) -> Floats:
    """Sums of the bursts' characters; a burst that is shorter says nothing about the rest."""
    length = max(len(each) for each in rows)
    total = np.zeros((length, len(ALPHABET)))
    for each in rows:
        total[: len(each)] += robust(each)
    return total
