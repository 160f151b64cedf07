"""A lane's history from end to end: what is trimmed from Redis comes from the archive, the rest from the log.

The hall knows no database: whoever puts a process together says what its `Archive` is. Only the
front of a log is ever trimmed, so only what is missing there is asked for; a hole further on is left
as it stands, for whoever verifies.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from streams.connection import Link
from streams.messages import Logged, decode_event
from streams.names import LaneKeys

if TYPE_CHECKING:
    # Tails read the archive too.
    from streams.tail import Position

BATCH = 1000
"""Events read from Redis at once."""

Entry = tuple[bytes, str]
"""An event's bytes and their hash (hex)."""


class Archive(Protocol):
    """What keeps a lane's events outside Redis."""

    def head(self, lane: str) -> Position | None:
        """The last event kept of the lane; None where there is none. Raises ArchiveAway."""

    def after(self, lane: str, seq: int, upto: int | None = None) -> Iterable[Entry]:
        """The events kept with seq in (seq, upto], oldest first; all where None. Raises ArchiveAway."""

    def before(self, lane: str, seq: int | None) -> Iterable[Entry]:
        """The events kept with a lower seq (None: all), newest first. Raises ArchiveAway."""

    def hash_at(self, lane: str, seq: int) -> str | None:
        """The hash kept of the event with this seq; None where it is not kept. Raises ArchiveAway."""


class Catalogue(Archive, Protocol):
    """An archive that also tells what lanes and sources it has something of."""

    def lanes(self) -> Sequence[str]:
        """The lanes of which events are kept. Raises ArchiveAway."""

    def sources(self, lane: str) -> Sequence[str]:
        """The ids of the sources that the lane has, by the events that are kept. Raises ArchiveAway."""


class ArchiveAway(Exception):
    """Raised when the archive cannot be asked now."""


class EventsMissing(Exception):
    """Raised when events are no longer in Redis, and are not to be had from an archive either."""

    def __init__(self, lane: str, first: int, last: int, *, archive: bool) -> None:
        where = (
            "the archive does not have them"
            if archive
            else "this process has no archive to read them from (postgres.url)"
        )
        super().__init__(f"events {first} to {last} of lane {lane!r} are no longer in Redis, and {where}")


def history(
    link: Link,
    keys: LaneKeys,
    archive: Archive | None,
    after: int = 0,
    upto: int | None = None,
    batch: int = BATCH,
) -> Iterator[tuple[bytes, bytes]]:
    """Bytes and hash of the events with seq in (after, upto], oldest first, as they stand, decoded by nobody.

    Raises EventsMissing (trimmed, and no archive), ArchiveAway, Unreachable. What the archive lacks is
    left out.
    """
    for raw, stated in _standing(link, keys, archive, after, upto, batch):
        yield raw, stated if type(stated) is bytes else stated.encode()


def replayed(
    link: Link, keys: LaneKeys, archive: Archive | None, after: int = 0, upto: int | None = None
) -> Iterator[Logged]:
    """The same, decoded and not verified."""
    for raw, stated in _standing(link, keys, archive, after, upto, BATCH):
        yield Logged(decode_event(raw), raw, stated if type(stated) is str else stated.decode())


def _standing(
    link: Link, keys: LaneKeys, archive: Archive | None, after: int, upto: int | None, batch: int
) -> Iterator[tuple[bytes, Any]]:
    """As `history`; the hash is text where it comes from the archive, and bytes where from Redis."""
    start, end = str(after + 1), "+" if upto is None else str(upto)
    while upto is None or after < upto:
        entries = link.call("XRANGE", keys.events, start, end, "COUNT", batch)
        if not entries or _seq(entries[0]) != after + 1:
            stands = link.call("XRANGE", keys.events, "-", "+", "COUNT", 1)
            first = _seq(stands[0]) if stands else None
            # Where something stands before it, what is missing is a hole and was not trimmed.
            if first is None or first > after + 1:
                last = min((seq for seq in (upto, first and first - 1) if seq is not None), default=None)
                if archive is not None:
                    yield from archive.after(keys.lane, after, last)
                elif first is not None:
                    raise EventsMissing(keys.lane, after + 1, first - 1, archive=False)
                if last is None:
                    return
                # Meanwhile the log may have been trimmed further.
                after, start = last, str(last + 1)
                continue
        for _, fields in entries:
            yield fields[1], fields[3]
        if len(entries) < batch:
            return
        after, start = _seq(entries[-1]), "(" + entries[-1][0].decode()


def latest(link: Link, keys: LaneKeys, archive: Archive | None, batch: int = BATCH) -> Iterator[Logged]:
    """The events from the newest back to the first, decoded and not verified; raises what `history` does."""
    end, first = "+", None
    while entries := link.call("XREVRANGE", keys.events, end, "-", "COUNT", batch):
        for _, (_, raw, _, stated) in entries:
            yield Logged(decode_event(raw), raw, stated.decode())
        end, first = "(" + entries[-1][0].decode(), _seq(entries[-1])
    if first == 1 or (first is None and archive is None):
        return
    if archive is None:
        raise EventsMissing(keys.lane, 1, (first or 1) - 1, archive=False)
    for raw, told in archive.before(keys.lane, first):
        yield Logged(decode_event(raw), raw, told)


def _seq(entry: Any) -> int:
    return int(entry[0].partition(b"-")[0])
