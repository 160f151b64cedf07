"""Waiting between attempts: doubling, with full jitter, bounded, and ended by a stop or by good news."""

from __future__ import annotations

import threading
import time

from hypothesis import given
from hypothesis import strategies as st

from streams.backoff import Backoff, Waits, switched


def drawn_from(backoff: Backoff, times: int) -> None:
    for _ in range(times):
        backoff.wait()


def test_waits_double_up_to_the_longest_and_are_drawn_from_zero() -> None:
    """Full jitter: each wait is drawn between nothing and twice the ceiling of the one before."""
    ranges: list[tuple[float, float]] = []

    def draw(low: float, high: float) -> float:
        ranges.append((low, high))
        return 0.0

    backoff = Backoff(waits=Waits(first=0.1, longest=1.0), draw=draw)
    drawn_from(backoff, 6)
    assert ranges == [(0.0, high) for high in (0.1, 0.2, 0.4, 0.8, 1.0, 1.0)]
    assert backoff.failures == 6
    backoff.reset()
    backoff.wait(Waits(first=3.0, longest=5.0))
    assert ranges[-1] == (0.0, 3.0)
    assert backoff.failures == 1


@given(st.integers(min_value=1, max_value=10**6))
def test_no_wait_is_longer_than_the_longest(failures: int) -> None:
    """However long a server is away, it is tried again within the bound."""
    assert 0 < Waits(first=0.1, longest=1.0).ceiling(failures) <= 1.0


def waited(backoff: Backoff, *, within: float = 30.0) -> float:
    began = time.monotonic()
    backoff.wait(within=within)
    return time.monotonic() - began


LONG = Waits(first=30.0, longest=30.0)


def test_a_stop_ends_the_wait() -> None:
    """A process that is asked to end does not wait for its next attempt."""
    stopping = threading.Event()
    threading.Timer(0.1, stopping.set).start()
    assert waited(Backoff(stopping, LONG, draw=lambda low, high: high)) < 5


def test_another_primary_ends_the_wait_and_begins_with_short_ones() -> None:
    """Whoever waits goes on as soon as there is a primary to go on at; if that fails, it tries soon again."""
    ceilings: list[float] = []

    def draw(low: float, high: float) -> float:
        ceilings.append(high)
        return high if high > 1 else 0.0

    backoff = Backoff(waits=Waits(first=0.5, longest=30.0), draw=draw)
    drawn_from(backoff, 2)
    threading.Timer(0.1, switched).start()
    assert waited(backoff) < 1.5
    backoff.wait()
    assert ceilings == [0.5, 1.0, 2.0, 0.5]
    assert backoff.failures == 4


def test_a_wait_ends_with_the_time_that_is_left() -> None:
    """Somebody who waits for an answer is told in time that there is none."""
    assert waited(Backoff(waits=LONG, draw=lambda low, high: high), within=0.05) < 5


def test_it_is_said_once_that_it_goes_on() -> None:
    """After as many attempts as are set, and not with each that follows."""
    backoff = Backoff(waits=Waits(retries=3), draw=lambda low, high: 0.0)
    said = []
    for _ in range(6):
        backoff.wait()
        said.append(backoff.exhausted)
    assert said == [False, False, True, False, False, False]
