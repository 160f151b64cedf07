"""Parameters that several reads take, with what they may be."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

from litestar.params import PathParameter, QueryParameter

from projections.after import LONGEST_WAIT, PATTERN, After, parse
from projections.reads import Away

AT_ONCE = 16
"""Reads that wait for a fold at the same time: more are told to come back, lest none is left to answer."""
MOST = 2**63 - 1
"""The largest seq that Postgres can hold."""
NAME = r"^[^\x00-\x1f]{1,200}$"
SOURCE = r"^[a-z0-9][a-z0-9._-]{0,63}$"
LANE = r"^(station|p[0-9]{1,2}|node\.[a-z0-9][a-z0-9-]{0,31})$"
TYPE = r"^[a-z]+\.[a-z_]*$"

Source = Annotated[str | None, QueryParameter(pattern=SOURCE, description="Only of this source.")]
Command = Annotated[str | None, QueryParameter(pattern=NAME, description="Only what this command caused.")]
Type = Annotated[
    str | None,
    QueryParameter(pattern=TYPE, description="Only of this type; `source.` means all that begin so."),
]
Lane = Annotated[str, QueryParameter(pattern=LANE, description="The lane's name.")]
AfterSeq = Annotated[int, QueryParameter(ge=0, le=MOST, description="Begin after this seq.")]
CommandId = Annotated[str, PathParameter(pattern=NAME, description="The command's id.")]
AlertId = Annotated[str, PathParameter(pattern=NAME, description="The alert's id, as the list has it.")]
AlertEvent = Annotated[
    str | None, QueryParameter(pattern=r"^[A-Z]{3}$", description="Only of this event, as RWT or TOR.")
]
County = Annotated[
    str | None,
    QueryParameter(pattern=r"^[0-9]{5}$", description="Only what concerns this county: SSCCC, as 20103."),
]
Active = Annotated[bool, QueryParameter(description="Only while the purge time has not come.")]
SourceId = Annotated[str, PathParameter(pattern=SOURCE, description="The source's id.")]
AfterEvent = Annotated[
    str | None,
    QueryParameter(
        pattern=PATTERN, description="LANE:SEQ. Wait until the read model has folded that event, then read."
    ),
]
Wait = Annotated[
    float, QueryParameter(ge=0, le=LONGEST_WAIT, description="Seconds to wait at most for `after`.")
]


class Waiters:
    """Counts who waits, for one process."""

    def __init__(self, most: int = AT_ONCE) -> None:
        self._places = threading.BoundedSemaphore(most)

    @contextmanager
    def asked(self, text: str | None, within: float) -> Iterator[After | None]:
        """What `after` and `wait` ask for, and a place to wait in. Raises Malformed, Away."""
        if text is None:
            yield None
            return
        after = parse(text, within)
        if not self._places.acquire(blocking=False):
            raise Away("too many reads wait for events to be folded; ask again")
        try:
            yield after
        finally:
            self._places.release()
