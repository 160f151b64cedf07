"""A lane's history: what is trimmed from Redis comes from the archive, the rest from the log."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from streams.durability import replication_id
from streams.history import ArchiveAway, EventsMissing, history, latest, replayed
from streams.messages import GENESIS, digest
from streams.tail import Position, Tail
from tests.fix_streams import Functions, chain

RAWS = chain(25)


class Kept:
    """An archive that holds the first `count` events; `asked` tells of what."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.asked: list[tuple[int, int | None]] = []

    def head(self, lane: str) -> Position | None:
        return Position(self.count, digest(RAWS[self.count - 1])) if self.count else None

    def hash_at(self, lane: str, seq: int) -> str | None:
        return digest(RAWS[seq - 1]) if seq <= self.count else None

    def after(self, lane: str, seq: int, upto: int | None = None) -> Iterator[tuple[bytes, str]]:
        assert lane == "p0"
        self.asked.append((seq, upto))
        for raw in RAWS[seq : self.count if upto is None else min(upto, self.count)]:
            yield raw, digest(raw)

    def before(self, lane: str, seq: int | None) -> Iterator[tuple[bytes, str]]:
        for raw in reversed(RAWS[: self.count if seq is None else seq - 1]):
            yield raw, digest(raw)


class Away(Kept):
    """An archive that cannot be asked."""

    def after(self, lane: str, seq: int, upto: int | None = None) -> Iterator[tuple[bytes, str]]:
        raise ArchiveAway("the archive cannot be asked: it is away")


@pytest.fixture
def log(functions: Functions) -> Functions:
    """A log of 25 events, all durable."""
    functions.append(functions.acquire(), RAWS)
    functions.raise_watermark(25, digest(RAWS[24]), 1, replication_id(functions.link))
    return functions


def trim(log: Functions, upto: int) -> None:
    """Let go of the events up to `upto`."""
    log.link.call("XTRIM", log.keys.events, "MINID", upto + 1)


@pytest.mark.parametrize("batch", [1, 4, 1000])
@pytest.mark.parametrize("trimmed", [0, 7, 24, 25])
@pytest.mark.parametrize(("after", "upto"), [(0, None), (0, 25), (3, 9), (7, 7), (12, None), (25, None)])
def test_a_history_is_whole_however_much_was_trimmed(
    log: Functions, batch: int, trimmed: int, after: int, upto: int | None
) -> None:
    """Each event comes once, in order, with bytes and hash, across archive and log."""
    trim(log, trimmed)
    read = list(history(log.link, log.keys, Kept(25), after, upto, batch))
    assert read == [(raw, digest(raw).encode()) for raw in RAWS[after : 25 if upto is None else upto]]


def test_the_archive_is_asked_only_for_what_is_missing(log: Functions) -> None:
    """A history whose events all stand in Redis needs no archive, and reads what is missing there once."""
    archive = Kept(25)
    assert len(list(history(log.link, log.keys, archive))) == 25
    assert archive.asked == []
    trim(log, 10)
    assert [logged.event.seq for logged in replayed(log.link, log.keys, archive, after=4)] == list(
        range(5, 26)
    )
    assert archive.asked == [(4, 10)]


def test_a_log_that_is_trimmed_meanwhile_is_read_on_from_the_archive(log: Functions) -> None:
    """A reader that was overtaken by the trimming misses nothing."""
    read = history(log.link, log.keys, Kept(25), batch=4)
    first = [next(read) for _ in range(6)]
    trim(log, 20)
    assert [raw for raw, _ in (*first, *read)] == RAWS


def test_a_hole_in_the_log_is_not_mended(log: Functions) -> None:
    """What was deleted from the middle of a log is missing for whoever verifies it."""
    log.link.call("XDEL", log.keys.events, "12-1")
    read = [raw for raw, _ in history(log.link, log.keys, Kept(25), batch=11)]
    assert read == RAWS[:11] + RAWS[12:]


def test_what_is_trimmed_is_not_passed_over_in_silence(log: Functions) -> None:
    """Without an archive, or with one that is away, the reader is told."""
    trim(log, 7)
    with pytest.raises(EventsMissing, match="events 1 to 7 of lane 'p0' are no longer in Redis"):
        list(history(log.link, log.keys, None))
    with pytest.raises(ArchiveAway):
        list(history(log.link, log.keys, Away(25)))
    assert len(list(history(log.link, log.keys, None, after=7))) == 18


@pytest.mark.parametrize("upto", [None, 9])
def test_a_lane_that_nobody_used_is_empty(functions: Functions, upto: int | None) -> None:
    """No log and no archive is no error."""
    assert list(history(functions.link, functions.keys, None, upto=upto)) == []


def test_a_log_that_is_gone_is_read_from_the_archive(log: Functions) -> None:
    """After a total loss of Redis the history still has all that was archived."""
    log.link.call("DEL", log.keys.events)
    assert [raw for raw, _ in history(log.link, log.keys, Kept(20), after=3)] == RAWS[3:20]


@pytest.mark.parametrize("trimmed", [0, 7, 24, 25])
def test_the_latest_come_first_across_log_and_archive(log: Functions, trimmed: int) -> None:
    """Whoever wants the newest reads backwards, each event once, and into the past only on demand."""
    trim(log, trimmed)
    read = [logged.event.seq for logged in latest(log.link, log.keys, Kept(25), batch=4)]
    assert read == list(range(25, 0, -1))
    newest = latest(log.link, log.keys, None, batch=4)
    if 0 < trimmed < 25:
        with pytest.raises(EventsMissing):
            list(newest)


def test_a_tail_behind_the_trim_goes_on_from_the_archive(log: Functions) -> None:
    """A reader that was away for long reads page by page from the archive, then from the log."""
    trim(log, 17)
    archive = Kept(20)
    tail = Tail(log.link, log.keys, Position(2, digest(RAWS[1])), archive)
    pages = []
    while page := tail.read(count=4, block=0):
        pages.append([logged.event.seq for logged in page])
    assert [seq for page in pages for seq in page] == list(range(3, 26))
    assert max(map(len, pages)) == 4
    assert archive.asked == [(2, 17)]


@pytest.mark.parametrize(
    ("archive", "error"), [(None, EventsMissing), (Kept(0), EventsMissing), (Away(9), ArchiveAway)]
)
def test_a_tail_behind_the_trim_never_skips(
    log: Functions, archive: Kept | None, error: type[Exception]
) -> None:
    """Where the archive is missing, empty or away, the tail stays where it is and says so."""
    trim(log, 7)
    tail = Tail(log.link, log.keys, archive=archive)
    with pytest.raises(error):
        tail.read(block=0)
    assert tail.after == Position(0, GENESIS)
    tail = Tail(log.link, log.keys, Position(7, digest(RAWS[6])), archive)
    assert len(tail.read(block=0)) == 18
