"""Breakers of processes that nobody waits for: they tell them and heed none; audio does not care."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from projections.projection import SOURCES
from projections.service import Service
from streams.breaker import Breaker
from streams.breaker_notes import told
from streams.settings import BreakerSection, PostgresSection, RedisSection
from tests.fix_breaker import Road, port_of
from tests.fix_ingest_process import Ingest
from tests.fix_projections import Yard
from tests.fix_servers import eventually
from tests.fix_streams import Hall

Record = Callable[..., Path]


@pytest.fixture
def redis_road(valkey_server: RedisSection) -> Iterator[Road]:
    """The ingest process's way to Redis."""
    road = Road(port_of(valkey_server.url))
    yield road
    road.close()


@pytest.fixture
def postgres_road(postgres: PostgresSection) -> Iterator[Road]:
    """The ingest process's way to Postgres."""
    road = Road(port_of(postgres.url))
    yield road
    road.close()


def test_audio_goes_on_while_both_breakers_are_open(
    hall: Hall,
    tmp_path: Path,
    record: Record,
    redis_road: Road,
    postgres: PostgresSection,
    postgres_road: Road,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Cut off from Redis and Postgres, the capture reads on in its own time; the heartbeat tells."""
    monkeypatch.setenv("TOCSIN_BREAKER_FAILURES", "1")
    monkeypatch.setenv("TOCSIN_REDIS_URL", redis_road.redis.url)
    monkeypatch.setenv("TOCSIN_POSTGRES_PASSWORD", postgres.password)
    url = postgres.url.replace(f":{port_of(postgres.url)}/", f":{postgres_road.port}/")
    monkeypatch.setenv("TOCSIN_POSTGRES_URL", url)
    ingest = Ingest(hall, tmp_path)
    try:
        ingest.start()
        ingest.add("tone", record(1.0), loop=True)
        ingest.do("source.start", "tone")
        eventually(lambda: ingest.levels("tone"), "levels")
        last = ingest.levels("tone")[-1]

        postgres_road.cut()
        redis_road.cut()

        def opened(dependency: str) -> bool:
            standings = told(tmp_path).get("ingest", {})
            return any(name == dependency and one.state != "closed" for name, one in standings.items())

        eventually(lambda: opened("redis"), "an open breaker around Redis")
        redis_road.mend()
        # The lanes are taken over again, and the archive is asked in vain.
        eventually(lambda: opened("postgres"), "an open breaker around Postgres")
        eventually(lambda: ingest.levels("tone")[-1].at > last.at, "levels again")
        level = ingest.levels("tone")[-1]
        assert level.seconds - last.seconds == pytest.approx((level.at - last.at).total_seconds(), abs=0.5)
        assert ingest.types("tone").count("source.running") == 1

        def beaten() -> dict[str, Any]:
            found: dict[str, Any] = json.loads(ingest.heartbeat()["breakers"])
            return found

        eventually(lambda: beaten()["postgres"]["state"] != "closed", "the heartbeat tells")
        assert (beaten()["redis"]["state"], beaten()["redis"]["opened"]) == ("closed", 1)
    finally:
        ingest.close()


def test_the_projections_tell_their_breakers_and_come_back(
    yard: Yard, valkey: RedisSection, redis_road: Road, postgres_road: Road
) -> None:
    """Cut off from both servers, their pulse opens both breakers; once mended it closes them."""
    direct = yard.settings.postgres
    url = direct.url.replace(f":{port_of(direct.url)}/", f":{postgres_road.port}/")
    away = msgspec.structs.replace(
        yard.settings,
        redis=msgspec.structs.replace(valkey, url=redis_road.redis.url),
        postgres=msgspec.structs.replace(direct, url=url),
        breaker=BreakerSection(failures=1),
    )
    service = Service(away)
    thread = threading.Thread(target=service.run, name="projections")
    thread.start()
    try:
        eventually(lambda: service.runners, "the projections run")
        for road, breaker in (
            (redis_road, service.breakers.redis),
            (postgres_road, service.breakers.postgres),
        ):
            road.cut()
            _wait_for(breaker, "open")
            road.mend()
            _wait_for(breaker, "closed")
        yard.scribe().add("mic")
        eventually(lambda: yard.rows(SOURCES), "a row")
    finally:
        service.stopping.set()
        thread.join(15)
    assert not thread.is_alive()


def _wait_for(breaker: Breaker, state: str) -> None:
    eventually(lambda: breaker.standing().state == state, f"{breaker.dependency} {state}")
