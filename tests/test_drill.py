"""`tocsin drill failover`: a planned switch, measured while people are at work."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from control.drill import NotFit, fit, longest_gap
from streams import sentinel
from streams.sentinel import Address
from tests.fix_servers import Trio, eventually
from tests.fix_whole import Whole


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    """A whole station that a module's tests switch about."""
    made = Whole(tmp_path_factory.mktemp("drill") / "station")
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.mark.parametrize(
    ("times", "gap"), [([], 10.0), ([5.0], 5.0), ([1.0, 2.0, 9.0], 7.0), ([-3.0, 4.0, 40.0], 6.0)]
)
def test_the_longest_gap_counts_from_the_beginning_to_the_end(times: list[float], gap: float) -> None:
    """Also before the first and after the last, and nothing outside."""
    assert longest_gap(times, 0.0, 10.0) == gap


def test_a_drill_tells_what_it_cost(whole: Whole) -> None:
    """Another leads, every command is answered, the log is whole, and the numbers fit together."""
    cost = whole.json("drill", "failover")["drill"]
    assert cost["form"] == "coordinated"  # the wheel's Valkey can
    assert cost["before"] != cost["after"]
    assert cost["lost"] == 0
    assert cost["commands"] > 3
    assert 0 < cost["unwritable_ms"] <= cost["whole_ms"]
    assert 0 < cost["confirmed_ms"] <= cost["whole_ms"]
    assert whole.verdict().fault is None
    # A second one switches again; a person is told in words.
    told = whole.tocsin("drill", "failover", timeout=120)
    assert told.returncode == 0, told.stderr
    assert "no write for" in told.stdout


@pytest.mark.chaos
def test_a_station_that_is_not_whole_is_left_alone(whole: Whole) -> None:
    """With a Sentinel away nothing is switched, and the error says why."""
    import os
    import signal

    pid = whole.child("sentinel-1")
    os.kill(pid, signal.SIGSTOP)
    try:
        told = whole.tocsin("drill", "failover")
    finally:
        os.kill(pid, signal.SIGCONT)
    assert told.returncode == 1
    assert "2 of 3 Sentinels answer" in told.stderr


@pytest.mark.chaos
def test_it_waits_until_every_sentinel_has_seen_who_follows(sentinel_trio: Trio) -> None:
    """After a switch, one that still takes the former primary for one would demote it as it is promoted."""
    trio, redis = sentinel_trio, sentinel_trio.redis
    leads = trio.primary()
    former = Address("127.0.0.1", trio.port(leads))
    trio.ask(trio.SENTINELS[0], "SENTINEL", "FAILOVER", redis.service)
    trio.wait_for_other_primary(leads)

    def unready() -> list[frozenset[Address]]:
        return [opinion.unready for opinion in sentinel.ask(redis)]

    eventually(lambda: frozenset({former}) in unready(), "a Sentinel that takes the former primary for one")

    def found() -> Address | None:
        try:
            return fit(redis)
        except NotFit:
            return None

    eventually(found, "a station fit for a drill", 60)
    assert unready() == [frozenset()] * 3
