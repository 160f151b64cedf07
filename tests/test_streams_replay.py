"""Reading a lane's log from end to end."""

from __future__ import annotations

import pytest

from streams.audit import verify
from streams.replay import replay, stored
from tests.fix_streams import Functions, chain

RAWS = chain(25)


@pytest.fixture
def log(functions: Functions) -> Functions:
    functions.append(functions.acquire(), RAWS)
    return functions


@pytest.mark.parametrize("batch", [1, 5, 24, 25, 26, 1000])
def test_a_replay_gives_every_event_once(log: Functions, batch: int) -> None:
    """All events come in order, with their bytes, whatever the page size."""
    read = list(replay(log.link, log.keys, batch=batch))
    assert [logged.raw for logged in read] == RAWS
    assert [logged.event.seq for logged in read] == list(range(1, 26))


@pytest.mark.parametrize(("after", "upto"), [(0, 25), (3, 7), (7, 7), (24, None), (25, None), (0, 0)])
def test_a_replay_is_of_what_lies_behind_after_and_up_to_upto(
    log: Functions, after: int, upto: int | None
) -> None:
    """The first is left out, the last belongs to it."""
    expected = list(range(after + 1, (25 if upto is None else upto) + 1))
    read = [logged.event.seq for logged in replay(log.link, log.keys, after=after, upto=upto, batch=2)]
    assert read == expected


def test_a_replay_shows_events_beyond_the_watermark(log: Functions) -> None:
    """The owner folds what stands, proven or not: it was fenced, and is about to prove it."""
    assert log.tail()[2] == []
    assert len(list(replay(log.link, log.keys))) == 25


def test_a_lane_that_nobody_used_is_empty(functions: Functions) -> None:
    """No log is no error."""
    assert list(replay(functions.link, functions.keys)) == []


def test_what_is_stored_is_given_as_it_stands(log: Functions) -> None:
    """For an audit nothing is decoded on the way: what does not fit is found by it, and is no error."""
    log.link.call("XADD", log.keys.events, "26-1", "e", b"\xff no event", "h", "ab")
    entries = list(stored(log.link, log.keys, batch=4))
    assert entries[-1] == (b"\xff no event", b"ab")
    verdict = verify("p0", entries)
    assert verdict.fault is not None
    assert verdict.fault.seq == 26
