"""Following a lane's log, no further than what is durable."""

from __future__ import annotations

import threading
import time

import pytest

from streams.durability import replication_id
from streams.messages import GENESIS, digest
from streams.tail import START, Position, PositionAhead, Tail
from tests.fix_streams import Functions, Hall, chain

RAWS = chain(7)


@pytest.fixture
def log(functions: Functions) -> Functions:
    """A log of seven events, four of them durable."""
    functions.append(functions.acquire(), RAWS)
    functions.raise_watermark(4, digest(RAWS[3]), 1, replication_id(functions.link))
    return functions


def seqs(tail: Tail, **options: float) -> list[int]:
    return [logged.event.seq for logged in tail.read(block=0, **options)]


def test_a_tail_reads_up_to_the_watermark_and_not_twice(log: Functions) -> None:
    """Events come once, in order, in pages, with the bytes and hashes that stand in the log."""
    tail = Tail(log.link, log.keys)
    read = tail.read(count=3)
    assert [(one.event.seq, one.raw, one.hash) for one in read] == [
        (seq, raw, digest(raw)) for seq, raw in enumerate(RAWS[:3], 1)
    ]
    assert tail.after == Position(3, digest(RAWS[2]))
    assert seqs(tail) == [4]
    assert seqs(tail) == []
    assert tail.head_seq == 7


def test_a_tail_goes_on_from_a_position(log: Functions) -> None:
    """A reader that kept its position, by seq and hash, goes on behind it."""
    assert seqs(Tail(log.link, log.keys, Position(2, digest(RAWS[1])))) == [3, 4]


@pytest.mark.parametrize("position", [Position(8, "ab"), Position(2, "ab"), Position(7, digest(RAWS[0]))])
def test_a_position_that_is_not_in_the_log_is_raised(log: Functions, position: Position) -> None:
    """A log that was rolled back or rewritten is told with both heads, and not simply read on."""
    with pytest.raises(PositionAhead) as caught:
        Tail(log.link, log.keys, position).read(block=0)
    assert caught.value.position == position
    assert caught.value.head == Position(7, digest(RAWS[6]))


def test_a_log_that_vanished_is_raised(hall: Hall, log: Functions) -> None:
    """A reader never takes an empty log for one with nothing new."""
    tail = Tail(log.link, log.keys)
    assert seqs(tail) == [1, 2, 3, 4]
    hall.link.call("UNLINK", *hall.own_keys())
    with pytest.raises(PositionAhead):
        tail.read(block=0)
    assert Tail(log.link, log.keys).after == START == Position(0, GENESIS)


def test_a_waiting_tail_wakes_as_soon_as_an_event_is_durable(hall: Hall, log: Functions) -> None:
    """It does not wait its time out: neither for the event, nor for the watermark that comes after it."""
    tail = Tail(hall.new_link("tail"), hall.keys, Position(4, digest(RAWS[3])))
    read: list[int] = []
    reader = threading.Thread(target=lambda: read.extend(one.event.seq for one in tail.read(block=30)))
    began = time.monotonic()
    reader.start()
    log.raise_watermark(7, digest(RAWS[6]), 1, replication_id(log.link))
    reader.join(10)
    assert read == [5, 6, 7]
    assert time.monotonic() - began < 5


def test_a_tail_at_the_head_wakes_by_the_next_event(hall: Hall, functions: Functions) -> None:
    """A reader with nothing to read blocks on the server and is woken by the append."""
    lease = functions.acquire()
    functions.append(lease, RAWS[:1], at_once=True)
    tail = Tail(hall.new_link("tail"), hall.keys, Position(1, digest(RAWS[0])))
    read: list[int] = []
    reader = threading.Thread(target=lambda: read.extend(one.event.seq for one in tail.read(block=30)))
    began = time.monotonic()
    reader.start()
    while b"blocked_clients:0" in hall.link.call("INFO", "clients"):
        time.sleep(0.005)
    functions.append(lease, RAWS[1:2], seq=1, hash=digest(RAWS[0]), at_once=True)
    reader.join(10)
    assert read == [2]
    assert time.monotonic() - began < 5


def test_a_tail_without_news_returns_after_its_time(log: Functions) -> None:
    """`block` seconds without news end in an empty list, also while events wait beyond the watermark."""
    behind = Tail(log.link, log.keys, Position(4, digest(RAWS[3])))
    at_head = Tail(log.link, log.keys, Position(7, digest(RAWS[6])))
    for tail in (behind, at_head):
        began = time.monotonic()
        assert tail.read(block=0.2) == []
        assert 0.15 < time.monotonic() - began < 2
