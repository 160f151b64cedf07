"""Where each character of a burst lies: its own clock may wander, and samples may be lost.

A dynamic programme over the places of a header and the time at which each lies, in quarters of a bit from
where an even clock has it. A small step of the clock costs little, a jump costs much; what stands in each
place is left open, but for its kind.
"""

from __future__ import annotations

import msgspec
import numpy as np

from ingest.same.grammar import BODY, END, HEAD, KINDS, MOST_LOCATIONS, PLACE, WORDS_OF, numbers
from ingest.same.line import Floats
from ingest.same.reading import DAMAGED, characters

FINE = 4
"""Steps in a bit."""
REACH = 18
"""Steps on either side of where an even clock has a character."""
STEP, LEAP, JUMP = 4.0, 9.0, 14.0
"""What it costs, in nats, that the clock moves by one step, by two, or to anywhere."""
CHARACTER = 8 * FINE

_WIDTH = 2 * REACH + 1
_LETTERS = np.unique([number for words in WORDS_OF.values() for number in numbers(words)])
_CLASSES = np.zeros((len(_LETTERS), len(KINDS)), dtype=np.float32)
for _column, _kind in enumerate(KINDS):
    _CLASSES[np.isin(_LETTERS, numbers(WORDS_OF[_kind])), _column] = 1 / len(WORDS_OF[_kind])


class Path(msgspec.Struct, frozen=True):
    """A way through a burst."""

    offsets: np.ndarray[tuple[int], np.dtype[np.intp]]
    """Steps by which each character lies later than an even clock has it."""
    locations: int
    score: float
    lengths: np.ndarray[tuple[int], np.dtype[np.float64]]
    """The score of the best way for each number of locations."""

    head: float
    """The score of the places before the locations."""

    @property
    def ahead(self) -> float:
        """By how much this number of locations is likelier than the next best."""
        others = np.delete(self.lengths, self.locations - 1)
        return float(self.lengths[self.locations - 1] - others.max())

    @property
    def places(self) -> int:
        """How many characters the header has."""
        return len(self.offsets)


def align(bits: Floats, locations: int | None = None) -> Path:
    """The best way through soft bits in steps of 1 / FINE bit, the first REACH of them before the header.

    Where the bits end, what follows is unknown. With `locations`, of so many.
    """
    emission = _emission(bits)
    body = _Walk(np.zeros(_WIDTH))
    body.scores[0] -= np.where(np.arange(_WIDTH) == REACH, 0, JUMP)
    wanted = range(1, MOST_LOCATIONS + 1) if locations is None else (locations,)
    length = min(HEAD + PLACE * max(wanted), len(emission) // CHARACTER + 1)
    for place in range(length):
        body.step(emission[:, BODY[place]], place)
    ends = [min(HEAD + PLACE * each, length) for each in wanted]
    tail = _Walk(np.stack([body.scores[0] if end == 0 else body.at(end) for end in ends]))
    starts = np.array([HEAD + PLACE * each for each in wanted])
    for index, kind in enumerate(END):
        tail.step_many(emission[:, kind], starts + index)
    final = tail.scores[-1].max(axis=1)
    lengths = np.full(MOST_LOCATIONS, -np.inf)
    lengths[[each - 1 for each in wanted]] = final
    row = int(final.argmax())
    last, offsets = tail.back(row, int(tail.scores[-1][row].argmax()))
    first = body.back_from(ends[row], last)
    whole = np.array([*first, *[last] * (starts[row] - len(first)), *offsets]) - REACH
    head = float(body.at(min(HEAD, length)).max())
    return Path(whole, int(starts[row] - HEAD) // PLACE, float(final[row]), lengths, head)


def _emission(bits: Floats) -> Floats:
    """Log-likelihood of each kind for a character that begins at each step; zero beyond the bits."""
    count = len(bits) - 7 * FINE
    octets = np.stack([bits[place * FINE : place * FINE + count] for place in range(8)], axis=1)
    likely = np.exp(characters(octets, _LETTERS)) @ _CLASSES
    out = np.zeros((count + CHARACTER, len(KINDS)))
    out[:count] = np.log((1 - DAMAGED) * likely + DAMAGED)
    return out


class _Walk:
    """Scores by offset, place after place, and where each came from. Rows are independent."""

    def __init__(self, scores: Floats) -> None:
        self.scores: list[Floats] = [scores]
        self._from: list[np.ndarray[tuple[int, ...], np.dtype[np.intp]]] = []

    def at(self, place: int) -> Floats:
        return self.scores[place]

    def step(self, emission: Floats, place: int) -> None:
        """All rows stand in the same place."""
        begin = place * CHARACTER
        here = emission[begin : begin + _WIDTH]
        if len(here) < _WIDTH:
            here = np.concatenate((here, np.zeros(_WIDTH - len(here))))
        self._move(here)

    def step_many(self, emission: Floats, places: np.ndarray[tuple[int], np.dtype[np.intp]]) -> None:
        """Each row stands in a place of its own."""
        index = places[:, None] * CHARACTER + np.arange(_WIDTH)
        inside = index < len(emission)
        self._move(np.where(inside, emission[np.where(inside, index, 0)], 0))

    def _move(self, here: Floats) -> None:
        before = self.scores[-1]
        if not self._from:
            moved, source = before, np.broadcast_to(_STAY, before.shape)
        else:
            options = np.full((6, *before.shape), -np.inf)
            options[0] = before
            for row, shift, cost in ((1, 1, STEP), (2, -1, STEP), (3, 2, LEAP), (4, -2, LEAP)):
                if shift > 0:
                    options[row, ..., shift:] = before[..., :-shift] - cost
                else:
                    options[row, ..., :shift] = before[..., -shift:] - cost
            top = before.argmax(axis=-1)
            options[5] = before.max(axis=-1, keepdims=True) - JUMP
            choice = options.argmax(axis=0)
            moved = options.max(axis=0)
            source = _STAY - _SHIFTS[choice]
            source = np.where(choice == 5, top[..., None], source)
        self._from.append(source)
        self.scores.append(moved + here)

    def back(self, row: int, offset: int) -> tuple[int, list[int]]:
        """The offsets that lead to `offset` at the end of a row, and the one before the first place."""
        offsets = []
        for source in reversed(self._from):
            offsets.append(offset)
            offset = int(source[row, offset])
        return offset, offsets[::-1]

    def back_from(self, place: int, offset: int) -> list[int]:
        """The offsets of the places before `place`, the last of which ended in `offset`."""
        offsets = []
        for source in reversed(self._from[:place]):
            offsets.append(offset)
            offset = int(source[offset])
        return offsets[::-1]


_STAY = np.arange(_WIDTH)
_SHIFTS = np.array([0, 1, -1, 2, -2, 0])
