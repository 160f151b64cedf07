"""Reading what one has just caused: `after=LANE:SEQ` waits until the read model has folded that event.

The wait and the read are one question to one server: a standby that is behind is never believed.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from threading import Event
from typing import TypeVar

import msgspec
from sqlalchemy import Connection, func, select

from projections.standby import NotThereYet
from projections.tables import ARCHIVE, positions

WAIT = 5.0
"""Seconds to wait where the reader does not say."""
LONGEST_WAIT = 30.0
"""Seconds."""
PATTERN = r"^(station|p[0-9]{1,2}|node\.[a-z0-9][a-z0-9-]{0,31}):[0-9]{1,18}$"
LOOKS = (0.01, 0.1)
"""Seconds between two looks: at first, and in the end."""

Found = TypeVar("Found")


class Malformed(Exception):
    """Raised when what is asked for cannot be understood; `field` is the parameter."""

    def __init__(self, field: str, detail: str) -> None:
        super().__init__(detail)
        self.field = field


class NotFolded(NotThereYet):
    """Raised when the read model has not folded what it should contain, though it was waited for."""

    def __init__(self, after: After, seq: int | None) -> None:
        so_far = "is not followed" if seq is None else f"is folded up to {seq}"
        super().__init__(f"the lane {after.lane} {so_far}, not yet up to {after.seq}: ask again")


class After(msgspec.Struct, frozen=True):
    """What a read must contain: the lane's event `seq`; `within` so many seconds."""

    lane: str
    seq: int
    within: float = WAIT


def parse(text: str, within: float = WAIT) -> After:
    """`LANE:SEQ`, as in `node.local:42`. Raises Malformed."""
    if not re.fullmatch(PATTERN.rstrip("$"), text):
        raise Malformed("after", f"{text[:80]!r} is not LANE:SEQ, as node.local:42 is")
    lane, _, seq = text.partition(":")
    return After(lane, int(seq), within)


def folded(connection: Connection, lane: str) -> int | None:
    """The last event of the lane that all projections have folded; None where nobody follows it."""
    wanted = select(func.min(positions.c.seq)).where(
        positions.c.lane == lane, positions.c.projection != ARCHIVE
    )
    seq: int | None = connection.execute(wanted).scalar_one()
    return seq


def waiting(
    read: Callable[[Callable[[Connection], Found]], Found],
    ask: Callable[[Connection], Found],
    after: After,
    stopping: Event,
) -> Found:
    """What `ask` finds once `after` is folded where it is asked; nobody waits once `stopping` is set.

    Raises NotFolded, and what `read` raises.
    """

    def once(connection: Connection) -> Found:
        seq = folded(connection, after.lane)
        if seq is None or seq < after.seq:
            raise NotFolded(after, seq)
        return ask(connection)

    deadline, pause = time.monotonic() + after.within, LOOKS[0]
    while True:
        try:
            return read(once)
        except NotFolded:
            # Written so that a span which is no number ends it.
            if not time.monotonic() + pause < deadline:
                raise
            if stopping.wait(pause):
                raise
        pause = min(LOOKS[1], pause * 1.5)
