"""Breakers by themselves: when they open, who may try, what closes them, and who is told."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from streams.breaker import Breaker, BreakerOpen, Breakers, is_unreachable
from streams.breaker_notes import STALE, heed, noted, told
from streams.connection import Unreachable, connect
from streams.lookout import redis_lookout
from streams.settings import BreakerSection, InvalidSettings, RedisSection, load
from tests.fix_servers import eventually
from tests.fix_streams import Wire


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    """A breaker that opens after five failures, for 30 s."""
    return Breaker("redis", clock=clock)


def attempt(breaker: Breaker, error: Exception | None = None) -> None:
    """One operation behind the breaker, which ends with `error`."""
    with breaker.guard(is_unreachable):
        if error is not None:
            raise error


def fail(breaker: Breaker, times: int = 5) -> None:
    for _ in range(times):
        with pytest.raises(Unreachable):
            attempt(breaker, Unreachable("nobody answers", sent=False))


def test_it_opens_after_five_failures_in_a_row(breaker: Breaker) -> None:
    """Four failures and a success are forgotten; the fifth in a row opens, and the next is not tried."""
    fail(breaker, 4)
    attempt(breaker)
    fail(breaker, 4)
    assert breaker.standing().state == "closed"
    fail(breaker, 1)
    assert breaker.standing().state == "open"
    with pytest.raises(BreakerOpen) as caught:
        attempt(breaker, AssertionError("it was tried"))
    assert caught.value.retry_in == 30.0
    assert "nobody answers" in caught.value.detail
    assert "in 30 s" in caught.value.detail
    assert not caught.value.sent


def test_an_error_of_the_command_itself_is_no_failure(breaker: Breaker) -> None:
    """What says nothing about the server neither opens the breaker nor makes failures forgotten."""
    fail(breaker, 4)
    for _ in range(9):
        with pytest.raises(ValueError, match="wrong type"):
            attempt(breaker, ValueError("wrong type"))
    assert breaker.standing().state == "closed"
    fail(breaker, 1)
    assert breaker.standing().state == "open"


def test_another_open_breaker_is_no_failure_of_this_one(breaker: Breaker) -> None:
    """Where nothing was tried because some breaker is open, nothing was found out about the server."""
    fail(breaker, 4)
    other = Breaker("redis", BreakerSection(failures=1))
    fail(other, 1)
    with pytest.raises(BreakerOpen), breaker.guard(is_unreachable):
        attempt(other)
    assert breaker.standing().failures == 4


def test_after_thirty_seconds_one_may_try_and_its_failure_opens_it_again(
    breaker: Breaker, clock: Clock
) -> None:
    """At 29.9 s nobody is let through, at 30 s one is; where it fails, 30 s begin again."""
    fail(breaker)
    clock.now += 29.9
    with pytest.raises(BreakerOpen):
        attempt(breaker)
    clock.now += 0.1
    assert breaker.standing().state == "half_open"
    fail(breaker, 1)
    assert breaker.standing().retry_in == 30.0
    assert breaker.standing().opened == 1
    with pytest.raises(BreakerOpen):
        attempt(breaker)


def test_only_one_of_many_tries_at_a_time(breaker: Breaker, clock: Clock) -> None:
    """Of 24 that come at once when a try is due, one is let through, the others are refused meanwhile."""
    fail(breaker)
    clock.now += 30
    go, refused, let_through = threading.Event(), threading.Semaphore(0), []

    def come() -> None:
        try:
            with breaker.guard(is_unreachable):
                let_through.append(1)
                go.wait(10)
        except BreakerOpen:
            refused.release()

    threads = [threading.Thread(target=come) for _ in range(24)]
    for thread in threads:
        thread.start()
    for _ in range(23):
        assert refused.acquire(timeout=10), "more than one was let through"
    go.set()
    for thread in threads:
        thread.join(10)
    assert let_through == [1]
    assert breaker.standing().state == "closed"


def test_a_try_that_ends_without_a_word_leaves_the_place_to_the_next(breaker: Breaker, clock: Clock) -> None:
    """Where the one that may try fails for a reason of its own, the next one may."""
    fail(breaker)
    clock.now += 30
    with pytest.raises(ValueError, match="mine"):
        attempt(breaker, ValueError("mine"))
    attempt(breaker)
    assert breaker.standing().state == "closed"


def test_a_loop_that_finds_the_server_closes_it_for_all(breaker: Breaker, clock: Clock) -> None:
    """Whoever reaches the server closes the breaker at once, long before the 30 s are over."""
    fail(breaker)
    clock.now += 2
    breaker.succeeded()
    attempt(breaker)
    assert breaker.standing().state == "closed"
    assert breaker.standing().failures == 0


def test_a_loop_that_fails_when_a_try_is_due_has_made_it(breaker: Breaker, clock: Clock) -> None:
    """A failure told by a loop counts as the try that was due; before that it does not put it off."""
    fail(breaker)
    clock.now += 20
    breaker.failed("still away")
    assert breaker.standing().retry_in == 10.0
    clock.now += 10
    breaker.failed("still away")
    assert breaker.standing().retry_in == 30.0


def test_the_settings_say_when(tmp_path: Path) -> None:
    """[breaker] failures and seconds, from file and environment; nonsense is refused by name."""
    path = tmp_path / "station.toml"
    path.write_text("[breaker]\nfailures = 2\nseconds = 7.5\n")
    assert load(path, {}).breaker == BreakerSection(failures=2, seconds=7.5)
    section = load(path, {"TOCSIN_BREAKER_SECONDS": "9"}).breaker
    breaker = Breaker("postgres", section)
    fail(breaker, 2)
    assert breaker.standing().retry_in == pytest.approx(9, abs=1)
    for name, value in (("FAILURES", "0"), ("SECONDS", "-1")):
        with pytest.raises(InvalidSettings, match=rf"breaker\.{name.lower()}"):
            load(path, {f"TOCSIN_BREAKER_{name}": value})


# The lookout, at a real server behind a wire that can be cut.


def test_a_lookout_finds_an_outage_and_its_end(wire: Wire) -> None:
    """With nobody waiting, five looks open the breaker; once the server is back, one look closes it."""
    breaker = Breaker("redis")
    lookout = redis_lookout(breaker, wire.redis, "test")
    lookout.look()
    assert breaker.standing().failures == 0
    wire.cut()
    for _ in range(5):
        lookout.look()
    assert breaker.standing().state == "open"
    stopping = threading.Event()
    lookout.start(stopping)
    wire.mend()
    eventually(lambda: breaker.standing().state == "closed", "a closed breaker", 5)
    stopping.set()


def test_an_answer_of_an_unfit_server_counts_as_a_failure(valkey: RedisSection) -> None:
    """A server that may not be written to now (NOREPLICAS) fails a write; one with an own error does not."""
    breaker, link = Breaker("redis"), connect(valkey, "test")
    link.call("CONFIG", "SET", "min-replicas-to-write", "1")
    try:
        with pytest.raises(Unreachable), breaker.guard(is_unreachable):
            link.call("SET", "tocsin:t:x", "1")
    finally:
        link.call("CONFIG", "SET", "min-replicas-to-write", "0")
    assert breaker.standing().failures == 1
    with pytest.raises(Exception, match="unknown command"), breaker.guard(is_unreachable):
        link.call("NO-SUCH-COMMAND")
    assert breaker.standing().failures == 1
    link.close()


# Notes, for those who live too short to count.


def test_an_open_breaker_is_noted_and_heeded(tmp_path: Path) -> None:
    """While it is open the note says so to others; closed, or with the process ended, there is none."""
    breakers = Breakers()
    with noted(breakers, tmp_path, "web"):
        heed(tmp_path)
        fail(breakers.redis)
        eventually(lambda: told(tmp_path), "a note", 5)
        with pytest.raises(BreakerOpen, match=r"of the web process is open since .*nobody answers"):
            heed(tmp_path)
        breakers.redis.succeeded()
        eventually(lambda: not told(tmp_path), "no note", 5)
        fail(breakers.postgres)
        eventually(lambda: told(tmp_path), "a note", 5)
        assert told(tmp_path)["web"]["postgres"].state == "open"
        heed(tmp_path)
    assert told(tmp_path) == {}


def test_the_note_of_a_process_that_died_is_not_heeded(tmp_path: Path) -> None:
    """A note that is not renewed, or is not one, is of no worth."""
    breakers = Breakers()
    with noted(breakers, tmp_path, "web"):
        fail(breakers.redis)
        eventually(lambda: told(tmp_path), "a note", 5)
        left = next((tmp_path / "run" / "breakers").glob("*.json")).read_bytes()
    old = tmp_path / "run" / "breakers" / "web.json"
    old.write_bytes(left)
    assert told(tmp_path)
    past = time.time() - STALE - 1
    os.utime(old, (past, past))
    (tmp_path / "run" / "breakers" / "odd.json").write_text("not a note")
    assert told(tmp_path) == {}
    heed(tmp_path)


def test_a_folder_that_cannot_be_written_harms_nobody(tmp_path: Path) -> None:
    """Where notes cannot be kept the process goes on; nobody is told, and nobody is refused."""
    (tmp_path / "run").write_text("a file where the folder should be")
    breakers = Breakers()
    with noted(breakers, tmp_path, "web"):
        fail(breakers.redis)
        eventually(lambda: any(t.name == "breaker-notes" for t in threading.enumerate()), "a keeper", 5)
        heed(tmp_path)
