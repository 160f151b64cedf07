"""Notifications while servers fail: each episode is told once, whatever is killed meanwhile."""

from __future__ import annotations

import msgspec

from streams.settings import PostgresSection, Settings, StationSection
from tests.fix_notify import Bell, NowChain, rule
from tests.fix_postgres import Pair
from tests.fix_projections import Yard
from tests.fix_servers import Trio, eventually
from tests.test_notify import ringing, told, writing


def titles(*numbers: int) -> list[str]:
    """What is told of the sources with these numbers."""
    return [f"source mic-{number} failed" for number in numbers]


def test_each_episode_is_told_once_over_a_redis_failover(
    sentinel_trio: Trio, postgres: PostgresSection, bell: Bell
) -> None:
    """Failures before, while and after the primary is killed are each told once."""
    station = StationSection(id="test", lanes=1)
    yard = Yard(Settings(station=station, redis=sentinel_trio.redis, postgres=postgres))
    yard.prepare()
    bell.yard = yard
    chain = NowChain()
    with ringing(bell, rule()) as ringing_station:
        scribe = ringing_station.scribe(chain=chain)
        for number in range(3):
            scribe.write("source.failed", f"mic-{number}")
        assert scribe.replicated(2)
        told(bell, *titles(0, 1, 2))
        killed = sentinel_trio.primary()
        sentinel_trio.kill(killed)
        sentinel_trio.wait_for_other_primary(killed)
        after = ringing_station.scribe(chain=chain)
        for number in range(3, 6):
            after.write("source.failed", f"mic-{number}")
        told(bell, *titles(*range(6)))
        sentinel_trio.restart(killed)
        after.write("source.failed", "mic-6")
        told(bell, *titles(*range(7)))
    yard.close()


def test_each_episode_is_told_once_over_a_restart_of_postgres(
    pair: Pair, pair_yard: Yard, bell: Bell
) -> None:
    """What fails while Postgres is down is told once it is back, and nothing is told twice."""
    bell.yard = pair_yard
    with ringing(bell, rule(settle=0)) as station:
        scribe = writing(station)
        scribe.write("source.failed", "mic-0")
        told(bell, *titles(0))
        pair.kill(pair.leader)
        scribe.write("source.failed", "mic-1")
        pair.mend()
        scribe.write("source.failed", "mic-2")
        eventually(lambda: len(bell.http.titles) >= 3, "told again", 60)
        told(bell, *titles(0, 1, 2))


def test_each_episode_is_told_once_over_a_promotion_of_the_standby(
    pair: Pair, pair_yard: Yard, bell: Bell
) -> None:
    """What was sent is known at the promoted standby: nothing is told twice, and it goes on there."""
    settings = msgspec.structs.replace(
        pair_yard.settings, postgres=msgspec.structs.replace(pair_yard.settings.postgres, standbys=1)
    )
    bell.yard = Yard(settings)
    with ringing(bell, rule(settle=0)) as station:
        scribe = writing(station)
        for number in range(3):
            scribe.write("source.failed", f"mic-{number}")
        told(bell, *titles(0, 1, 2))
        pair.caught_up()
        pair.kill(pair.leader)
        pair.promote()
        scribe.write("source.failed", "mic-3")
        pair.mend()  # the former primary, as the standby that claims wait for
        eventually(lambda: len(bell.http.titles) >= 4, "told at the promoted one", 60)
        told(bell, *titles(0, 1, 2, 3))
    bell.yard.close()
