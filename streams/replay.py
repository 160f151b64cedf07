"""Reading a lane's log from end to end, as it stands in Redis."""

from __future__ import annotations

from collections.abc import Iterator

from streams.connection import Link
from streams.messages import Logged, decode_event
from streams.names import LaneKeys


def replay(
    link: Link, keys: LaneKeys, after: int = 0, upto: int | None = None, batch: int = 1000
) -> Iterator[Logged]:
    """The events with seq in (after, upto], oldest first; all of them where `upto` is None.

    The bytes are decoded, not verified: see streams.audit. Raises Unreachable.
    """
    for raw, stated in stored(link, keys, after=after, upto=upto, batch=batch):
        yield Logged(decode_event(raw), raw, stated.decode())


def stored(
    link: Link, keys: LaneKeys, after: int = 0, upto: int | None = None, batch: int = 1000
) -> Iterator[tuple[bytes, bytes]]:
    """Bytes and hash of the events with seq in (after, upto], as they stand, decoded by nobody."""
    start, end = str(after + 1), "+" if upto is None else str(upto)
    while True:
        entries = link.call("XRANGE", keys.events, start, end, "COUNT", batch)
        for _, fields in entries:
            yield fields[1], fields[3]
        if len(entries) < batch:
            return
        start = "(" + entries[-1][0].decode()
