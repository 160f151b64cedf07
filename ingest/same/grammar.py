"""What a header may contain, by place: the words, digits and letters, and how likely each is.

A header of L locations has 35 + 7 L characters, each in its place; so for given L it is a row of words
that have nothing to do with each other, and the best and all readings of it are found word by word.
"""

from __future__ import annotations

from functools import cache

import msgspec
import numpy as np

from ingest.same.line import Floats
from ingest.same.names import tables

FIRST, LAST = 32, 126
"""The printable characters."""
ALPHABET = "".join(map(chr, range(FIRST, LAST + 1)))
MOST_LOCATIONS = 31
HEAD, PLACE, TAIL = 12, 7, 23
"""Characters of `ZCZC-ORG-EEE`, of `-PSSCCC`, and of `+TTTT-JJJHHMM-LLLLLLLL-`."""
ORIGINATORS = ("EAS", "CIV", "WXR", "PEP", "EAN")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
DIGITS = "0123456789"
STATION = LETTERS + DIGITS + "/ "
WORDS_OF = {"letter": LETTERS, "digit": DIGITS, "station": STATION, "Z": "Z", "C": "C", "-": "-", "+": "+"}
"""The kinds of places, and what stands there."""
KINDS = tuple(WORDS_OF)

_BODY = [*"ZCZC-", *["letter"] * 3, "-", *["letter"] * 3, *["-", *["digit"] * 6] * MOST_LOCATIONS]
_TAIL = ["+", *["digit"] * 4, "-", *["digit"] * 7, "-", *["station"] * 8, "-"]
BODY = np.array([KINDS.index(kind) for kind in _BODY])
"""The kind of each place before the +, were there all locations."""
END = np.array([KINDS.index(kind) for kind in _TAIL])
"""The kind of each place from the + on."""


class Words(msgspec.Struct, frozen=True):
    """What may stand in the places from some place on: listed words, or rarely any of some characters."""

    length: int
    listed: np.ndarray[tuple[int, int], np.dtype[np.intp]]
    """One row of character numbers for each word."""
    priors: np.ndarray[tuple[int], np.dtype[np.float64]]
    """Log-probability of each word."""
    others: tuple[int, ...] = ()
    rarely: float = 0.0
    """How often it is none of the listed, but so many of the characters `others`."""

    def read(self, likely: Floats) -> tuple[str, float, float]:
        """The best word, its score, and the score of all together, in `likely` (place, character)."""
        scores = self.priors.copy()
        for place in range(self.length):
            scores += likely[place, self.listed[:, place]]
        row = int(scores.argmax())
        best, word, total = float(scores[row]), self.listed[row].tolist(), _sum(scores)
        if self.others:
            part = likely[: self.length, list(self.others)]
            choice = part.argmax(axis=1)
            each = float(np.log(self.rarely) - self.length * np.log(len(self.others)))
            any_best = float(part.max(axis=1).sum()) + each
            total = float(np.logaddexp(total, sum(_sum(row) for row in part) + each))
            if any_best > best:
                best, word = any_best, [self.others[int(one)] for one in choice]
            elif all(one in self.others for one in word):
                same = float(likely[np.arange(self.length), word].sum()) + each
                best = float(np.logaddexp(best, same))
        return "".join(ALPHABET[one] for one in word), best, total


def layout(locations: int) -> list[Words]:
    """The words of a header of so many locations, in their order."""
    before, after = _ends()
    return [*before, *_place() * locations, *after]


def numbers(text: str) -> list[int]:
    """The numbers of characters in ALPHABET."""
    return [ord(one) - FIRST for one in text]


@cache
def _ends() -> tuple[list[Words], list[Words]]:
    known = tables()
    events = sorted(code for code in known.events if len(code) == 3 and code.isascii() and code.isupper())
    hours = [15, 30, 45, 60, *range(90, 100 * 60, 30)]
    weights = [20.0 if minutes <= 720 else 1.0 for minutes in hours]
    before = [
        _words(["ZCZC-"]),
        _words(ORIGINATORS, LETTERS, 0.001),
        _words(["-"]),
        _words(events or ["RWT"], LETTERS, 0.02),
    ]
    after = [
        _words(["+"]),
        _words([f"{each // 60:02}{each % 60:02}" for each in hours], DIGITS, 0.001, weights),
        _words(["-"]),
        _words([f"{day:03}" for day in range(1, 367)], DIGITS, 0.0001),
        _words([f"{hour:02}" for hour in range(24)], DIGITS, 0.0001),
        _words([f"{minute:02}" for minute in range(60)], DIGITS, 0.0001),
        _words(["-"]),
        *[_words(list(STATION), ALPHABET, 0.01)] * 8,
        _words(["-"]),
    ]
    return before, after


@cache
def _place() -> list[Words]:
    codes = {code for code in tables().places if len(code) == 5 and code.isascii() and code.isdigit()}
    codes |= {f"{state:02}000" for state in range(100)}
    return [_words(["-"]), _words(list(DIGITS)), _words(sorted(codes), DIGITS, 0.05)]


def _words(
    words: list[str] | tuple[str, ...],
    others: str | None = None,
    rarely: float = 0.0,
    weights: list[float] | None = None,
) -> Words:
    weight = np.ones(len(words)) if weights is None else np.array(weights)
    listed = np.frombuffer("".join(words).encode("ascii"), np.uint8).astype(np.intp) - FIRST
    listed = listed.reshape(len(words), -1)
    return Words(
        listed.shape[1],
        listed,
        np.log(weight / weight.sum() * (1 - rarely)),
        tuple(numbers(others)) if others else (),
        rarely,
    )


def _sum(scores: Floats) -> float:
    top = float(scores.max())
    return top + float(np.log(np.exp(scores - top).sum()))
