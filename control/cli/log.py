"""The log as auditors read it: each lane from its first event on, be it in Redis or in the archive."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import cached_property
from pathlib import Path

import click
import msgspec

from control.cli import session
from control.desk import Desk
from streams.audit import head_of
from streams.connection import Link, connect
from streams.history import ArchiveAway, Catalogue, EventsMissing, history
from streams.keybook import ever
from streams.keywatch import read_book
from streams.messages import decode_event
from streams.names import StationKeys
from streams.settings import Settings
from streams.signing import Keyring, load_keyring
from streams.tail import START, Position, PositionAhead


class Pending(msgspec.Struct, frozen=True, kw_only=True):
    """A command without a result, as it stands in its lane's stream."""

    entry: str
    raw: bytes
    sequence: int
    deliveries: int


MARGIN = 1000
"""Events that are read before a moment, lest a clock that was set back hides some."""


class Log:
    """All lanes of one station, to be read."""

    def __init__(self, desk: Desk, link: Link) -> None:
        self.settings: Settings = desk.settings
        self.link = link
        self.archive: Catalogue | None = session.archive(desk.settings)
        self._desk = desk
        self._keys = StationKeys(desk.settings.station.id)

    @cached_property
    def keyring(self) -> Keyring:
        """The keys that are here, and all that the log ever made known. Raises InvalidKey, Unreachable."""
        files = load_keyring(Path(self.settings.keys.directory))
        try:
            return ever(read_book(self.link, self.settings.station.id, self.archive), files)
        except (msgspec.MsgspecError, PositionAhead, EventsMissing, ArchiveAway) as error:
            click.echo(f"Note: the keys in the log cannot be read ({error}).", err=True)
            return files

    def lanes(self, named: str | None = None) -> list[str]:
        """The lane named, else all there are: also those that only the archive still knows."""
        found = session.lanes(self._desk, named)
        if named or self.archive is None:
            return found
        try:
            return [*found, *(lane for lane in self.archive.lanes() if lane not in found)]
        except ArchiveAway as error:
            click.echo(f"Note: {error}; lanes that only it knows are left out.", err=True)
            return found

    def head(self, lane: str) -> Position:
        """The last event of the lane, by Redis; by the archive where Redis knows none."""
        head = head_of(self.link, self._keys.lane(lane))
        if head.seq or self.archive is None:
            return head
        return self.archive.head(lane) or START

    def durable(self, lane: str) -> int:
        """The seq of the last event that is known to be durable; all that is archived is."""
        keys = self._keys.lane(lane)
        mark, stands = self.link.call("HMGET", keys.head, "wm_seq", "seq")
        if stands is None:
            return self.head(lane).seq
        archived = self.link.call("HGET", keys.archived, "seq")
        return max(int(mark or 0), int(archived or 0))

    def archived(self, lane: str) -> Position:
        """The last event that the archive has told the lane it holds for good. Raises ArchiveAway."""
        if self.archive is None:
            return START
        last = self.archive.head(lane) or START
        told = self.link.call("HGET", self._keys.lane(lane).archived, "seq")
        if told is None or int(told) >= last.seq:
            return last
        return Position(int(told), self.archive.hash_at(lane, int(told)) or "")

    def hash_at(self, lane: str, seq: int) -> str | None:
        """The hash of the event as Redis has it; None where it is not there any more."""
        found = self.link.call("XRANGE", self._keys.lane(lane).events, seq, seq)
        return found[0][1][3].decode() if found else None

    def first_in_redis(self, lane: str) -> int | None:
        """The seq from which on the lane's events are in Redis; None where none is."""
        found = self.link.call("XRANGE", self._keys.lane(lane).events, "-", "+", "COUNT", 1)
        return int(found[0][0].partition(b"-")[0]) if found else None

    def pending(self, lane: str, id: str) -> Pending | None:
        """The command `id` of the lane, where it has no result yet."""
        keys = self._keys.lane(lane)
        mark = self.link.call("HGET", keys.ids, id)
        _, sequence, entry, answer = [*(mark or b"").decode().split(" ", 3), "", "", "", ""][:4]
        if not entry or answer:
            return None
        found = self.link.call("XRANGE", keys.commands, entry, entry)
        if not found:
            return None
        fields = dict(zip(found[0][1][::2], found[0][1][1::2], strict=False))
        # A lane that no node ever owned has no group to ask.
        (taken,) = self.link.batch([("XPENDING", keys.commands, "ingest", entry, entry, 1)])
        deliveries = int(taken[0][3]) if isinstance(taken, list) and taken else 0
        return Pending(entry=entry, raw=fields.get(b"c", b""), sequence=int(sequence), deliveries=deliveries)

    def before(self, lane: str, moment: datetime) -> int:
        """A seq before which the lane holds nothing that was logged at `moment` or later.

        Events are logged in the order of their owner's clock; where that was set back, by up to MARGIN
        events, nothing is missed either.
        """
        low, high = 0, self.head(lane).seq
        while low < high:
            middle = (low + high + 1) // 2
            (raw, _), *_ = [*self.entries(lane, middle - 1, middle), (b"", b"")]
            if raw and decode_event(raw).logged_at < moment:
                low = middle
            else:
                high = middle - 1
        return max(low - MARGIN, 0)

    def entries(self, lane: str, after: int = 0, upto: int | None = None) -> Iterator[tuple[bytes, bytes]]:
        """Bytes and hash of the events with seq in (after, upto], oldest first."""
        return history(self.link, self._keys.lane(lane), self.archive, after, upto)


@contextmanager
def opened() -> Iterator[Log]:
    """The log of the station that is meant on this command line."""
    with session.desk() as desk:
        link = connect(desk.settings.as_role("reader").redis, "audit")
        try:
            yield Log(desk, link)
        finally:
            link.close()
