"""Claiming a source's id: whoever comes first has it, whatever becomes of the claim meanwhile."""

from __future__ import annotations

import threading

import pytest
from redis.exceptions import ResponseError

from streams.claim import claim
from tests.fix_streams import Hall


def test_whoever_comes_first_has_the_id(hall: Hall) -> None:
    """The first lane has it, and every other one is told so."""
    assert claim(hall.link, hall.station, "kec83", "p1") == "p1"
    assert claim(hall.link, hall.station, "kec83", "p2") == "p1"


def test_a_claim_that_is_lost_at_once_is_made_again(hall: Hall) -> None:
    """Freed, or lost in a failover, between being made and being read, it is still told whose the id is."""
    over = threading.Event()

    def lose() -> None:
        link = hall.new_link("loser")
        while not over.is_set():
            link.call("DEL", hall.station.sources)

    losing = threading.Thread(target=lose)
    losing.start()
    try:
        assert {claim(hall.link, hall.station, "kec83", "p1") for _ in range(2000)} == {"p1"}
    finally:
        over.set()
        losing.join()


def test_an_error_of_the_server_is_raised(hall: Hall) -> None:
    """A key of another kind is nobody's claim."""
    hall.link.call("SET", hall.station.sources, "no hash")
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        claim(hall.link, hall.station, "kec83", "p1")
