"""Which facts of which spools stand in a lane's log: part of its folded state, so that each is there once.

A spool counts its facts of a lane from 1 on; what was entered is kept as ranges of these numbers, which
are one range nearly always.
"""

from __future__ import annotations

from collections.abc import Mapping

Ranges = tuple[tuple[int, int], ...]
Entered = Mapping[str, Ranges]
"""By node and boot, as `node/boot`, the numbers that stand in the log: first and last of each range."""

MOST = 1000
"""Boots that are kept of a lane; of those before nothing is in any spool any more."""
FIELD = "spool"
"""The field of an event's data that has the id: `node/boot/counter`."""


def stands(entered: Entered, id: str) -> bool:
    """Whether the fact with this id is in the log."""
    boot, counter = _parts(id)
    return any(first <= counter <= last for first, last in entered.get(boot, ()))


def with_id(entered: Entered, id: object) -> Entered:
    """What is entered once this id is, too; an id that is none changes nothing."""
    if not isinstance(id, str) or stands(entered, id):
        return entered
    boot, counter = _parts(id)
    if not counter:
        return entered
    ranges: list[tuple[int, int]] = []
    for first, last in sorted((*entered.get(boot, ()), (counter, counter))):
        if ranges and first == ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], last)
        else:
            ranges.append((first, last))
    after = {**entered, boot: tuple(ranges)}
    while len(after) > MOST:
        del after[next(iter(after))]
    return after


def _parts(id: str) -> tuple[str, int]:
    boot, _, counter = id.rpartition("/")
    return boot, int(counter) if counter.isdecimal() else 0
