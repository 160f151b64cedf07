"""Which keys are good now: followed in the `station` lane by whoever has to verify and does not own it.

What is not known is waited for and never guessed: a verifier that has not read the lane for longer than
FRESH takes no commands until it has. So a revocation that somebody was told of is known to all within that.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterator, Mapping

import msgspec
import structlog
from redis.exceptions import ResponseError

from streams import keybook, memberships
from streams.backoff import Backoff, Waits
from streams.connection import Link, Unreachable, connect
from streams.handler import Summary
from streams.history import Archive, ArchiveAway, EventsMissing
from streams.keybook import Keybook
from streams.latest import Latest, with_latest
from streams.memberships import Members, Memberships
from streams.messages import Logged
from streams.names import STATION_LANE, LaneKeys, StationKeys
from streams.settings import Settings
from streams.signing import Keyring
from streams.tail import START, Position, PositionAhead, Tail
from streams.trimming import recall

FRESH = 1.0
"""Seconds after which what is known may no longer be what is so."""
BLOCK = 0.25
"""Seconds that a read waits for news."""
AGAIN = Waits(first=0.05, longest=0.3)
"""Between attempts to read: commands wait for it."""
STATION_SUMMARY = "station/3"
"""The kind of the summary that the owner of the `station` lane keeps of what was trimmed."""
INTERRUPTIONS = (
    Unreachable, ResponseError, PositionAhead, EventsMissing, ArchiveAway, msgspec.MsgspecError
)  # fmt: skip

log = structlog.get_logger(__name__)


class StationSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What of that summary concerns keys and whom they are limited to."""

    keys: dict[str, keybook.Registered] = {}
    groups: tuple[Members, ...] = ()


def _nothing(known: bytes, events: Iterator[Logged]) -> bytes:
    raise NotImplementedError("only the owner of a lane sums its past up")


_SUMMARY = with_latest(Summary(STATION_SUMMARY, _nothing))


def recalled(link: Link, keys: LaneKeys) -> tuple[Position, StationSummary]:
    """What the summary of what was trimmed says, and where it ends; raises INTERRUPTIONS."""
    known = recall(link, keys, _SUMMARY)
    if known.at == START:
        return START, StationSummary()
    _, data = Latest.known(known.data)
    return known.at, msgspec.json.decode(data, type=StationSummary)


def read_book(link: Link, station: str, archive: Archive | None = None) -> Keybook:
    """The keys by all that is durable now; raises INTERRUPTIONS."""
    keys = StationKeys(station).lane(STATION_LANE)
    at, known = recalled(link, keys)
    book: Keybook = known.keys
    tail = Tail(link, keys, at, archive)
    while batch := tail.read(block=0.0):
        for logged in batch:
            book = keybook.fold(book, logged.event)
    return book


class KeyWatch:
    """Follows the keys for one process; `run` is the body of a thread."""

    def __init__(self, settings: Settings, name: str, files: Keyring, archive: Archive | None = None) -> None:
        self._keys = StationKeys(settings.station.id).lane(STATION_LANE)
        self._link = connect(settings.redis, f"{name}-keys", slot_of=self._keys.events)
        self._archive = archive
        self._files = files
        self._keyring = files
        self._book: Keybook = {}
        self._members: Memberships = {}
        self._groups: Mapping[str, Collection[str]] = {}
        self._read_at = float("-inf")
        self._said = ""

    @property
    def book(self) -> Keybook:
        """What the log says of keys, as far as it was read."""
        return self._book

    def keyring(self) -> Keyring:
        """The keys that may sign, as far as is known."""
        return self._keyring

    def groups(self, source: str) -> Collection[str]:
        """The groups that the source is in, as far as is known."""
        return self._groups.get(source, ())

    def fresh(self) -> bool:
        """Whether that is no older than FRESH."""
        return time.monotonic() - self._read_at < FRESH

    def was_read(self) -> bool:
        """Whether the lane was ever read to its end."""
        return self._read_at > float("-inf")

    def run(self, stop: threading.Event) -> None:
        """Follow until `stop` is set, coming back by itself from whatever fails."""
        backoff = Backoff(stop, AGAIN)
        while not stop.is_set():
            try:
                self._follow(stop, backoff)
            except Exception as error:
                if str(error) != self._said:
                    trace = None if isinstance(error, INTERRUPTIONS) else error
                    log.warning("keys not followed", detail=str(error), exc_info=trace)
                self._said = str(error)
                self._link.close()
                backoff.wait()
        self._link.close()

    def _follow(self, stop: threading.Event, backoff: Backoff) -> None:
        at, known = recalled(self._link, self._keys)
        book: Keybook = known.keys
        members: Memberships = {group.id: group for group in known.groups}
        tail = Tail(self._link, self._keys, at, self._archive)
        caught_up = False
        while not stop.is_set():
            begun = time.monotonic()
            batch = tail.read(block=BLOCK if caught_up else 0.0)
            for logged in batch:
                book = keybook.fold(book, logged.event)
                members = memberships.fold(members, logged.event)
            caught_up = caught_up or not batch
            if caught_up:
                if book is not self._book:
                    self._book, self._keyring = book, keybook.usable(book, self._files)
                if members is not self._members:
                    self._members, self._groups = members, memberships.by_source(members)
                # What was asked then was answered now: nothing that stood then is unknown.
                self._read_at = begun
                self._said = ""
                backoff.reset()
