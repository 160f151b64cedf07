"""How often and after how long something that failed is tried again."""

from __future__ import annotations

import threading
import time

import pytest

from projections.archive import Archiver
from projections.backoff import postgres_waits
from projections.database import open_engine
from projections.runner import Positions
from streams.backoff import Backoff, Waits
from streams.connection import connect
from streams.settings import PostgresSection
from tests.fix_archive import NOWHERE
from tests.fix_projections import LANE, Yard
from tests.fix_servers import eventually


def test_waits_double_with_full_jitter_up_to_the_longest() -> None:
    """As set by default: at most 1, 2, 4, 5, 5 … seconds; each wait is drawn from none to all of that."""
    stopping, drawn = threading.Event(), []

    def draw(least: float, most: float) -> float:
        drawn.append((least, most))
        return 0.0

    backoff = Backoff(stopping, postgres_waits(PostgresSection()), draw)
    told = []
    for _ in range(7):
        told.append(backoff.exhausted)
        backoff.wait()
    assert drawn == [(0.0, most) for most in (1.0, 2.0, 4.0, 5.0, 5.0, 5.0, 5.0)]
    assert told == [False] * 5 + [True, False], "said once, after the first try and five more"
    backoff.reset()
    backoff.wait()
    assert drawn[-1] == (0.0, 1.0)


def test_a_stop_cuts_a_wait_short() -> None:
    """Nobody waits for a wait."""
    stopping = threading.Event()
    stopping.set()
    began = time.monotonic()
    Backoff(stopping, Waits(first=60, longest=60), lambda least, most: most).wait()
    assert time.monotonic() - began < 1


def test_who_runs_for_ever_tries_for_ever_and_says_so_once(
    yard: Yard, capsys: pytest.CaptureFixture[str]
) -> None:
    """A warning at the first failure, an error after five more, and then it goes on without a word."""
    stopping, tries = threading.Event(), []
    waits = Waits(first=0.001, longest=0.002, retries=5)

    class Counting(Archiver):
        def positions(self) -> Positions:
            tries.append(None)
            return super().positions()

    archiver = Counting(
        open_engine(NOWHERE, name="gone"),
        connect(yard.settings.redis, "archiver"),
        LANE,
        yard.keys.lane(LANE),
        stopping,
        waits=waits,
    )
    thread = threading.Thread(target=archiver.run)
    thread.start()
    try:
        eventually(lambda: len(tries) > 12, "tried on and on")
    finally:
        stopping.set()
        thread.join(10)
    told = capsys.readouterr()
    assert (told.out + told.err).count("postgres away") == 2
    assert (told.out + told.err).count("it is tried again for ever") == 1
