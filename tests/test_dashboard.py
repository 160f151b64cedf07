"""The station at a glance over HTTP: what it says when all is well, and when a part is away."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import httpx
import msgspec
import pytest
from litestar import Litestar
from litestar.testing import TestClient

from projections.http import ReadSide
from streams.messages import now
from streams.settings import Settings
from tests.fix_projections import LANE, Yard
from tests.fix_servers import eventually
from tests.test_read_api import without

PATHS = (
    "/api/audio/sources",
    "/api/audio/sources/mic",
    "/api/audio/health/dashboard",
    "/api/audio/health/metrics",
    "/api/audio/alerts",
    "/api/commands",
    "/api/commands/c-1",
    f"/api/events?lane={LANE}",
)
"""Every read but those of health, which have answers of their own where nothing can be asked."""


@contextmanager
def asking(settings: Settings) -> Iterator[TestClient[Litestar]]:
    side = ReadSide(settings)
    try:
        with TestClient(Litestar(side.routes, openapi_config=None)) as client:
            yield client
    finally:
        side.close()


@pytest.fixture
def station(yard: Yard) -> Yard:
    """A station in which mic runs and is heard, tower has failed, and all of it is projected and archived."""
    scribe = yard.scribe()
    scribe.add("mic", running=True, name="Microphone")
    scribe.add("tower")
    scribe.write("source.failed", "tower", desired="running", reason="no such file")
    scribe.settle("c-1", "mic", state="running")
    yard.link.call("HSET", yard.keys.sources, "mic", LANE, "tower", LANE)
    yard.beat()
    with yard.projections(), asking(yard.settings) as client:

        def heard() -> bool:
            scribe.measure("mic", -20.0, -9.5)
            return any(source["level"] for source in shown(client)["sources"])

        eventually(heard, "a level")
        yard.beat()
        eventually(lambda: shown(client)["lanes"] and not behind(shown(client)), "all folded and archived")
    return yard


def shown(client: TestClient[Litestar]) -> dict[str, Any]:
    """The dashboard; nothing of interest in it while it cannot be told."""
    answer = client.get("/api/audio/health/dashboard")
    data: dict[str, Any] = answer.json().get("data") or {"sources": [], "lanes": []}
    return data


def behind(data: dict[str, Any]) -> int:
    return sum((lane["behind"] or 0) + (lane["unarchived"] or 0) for lane in data["lanes"])


def reasons(data: dict[str, Any], id: str) -> set[str]:
    """Why the source has the score it has."""
    (source,) = (one for one in data["sources"] if one["id"] == id)
    return {reason["code"] for reason in source["reasons"]}


def test_it_tells_each_source_with_its_score_and_why(station: Yard) -> None:
    """A failed source scores 0 and says so, a running one near 100; the station is as well as its worst."""
    with asking(station.settings) as client:
        answer = client.get("/api/audio/health/dashboard")
        assert answer.json().keys() == {"data", "source", "age_seconds", "stale"}
        data = answer.json()["data"]
    assert [source["id"] for source in data["sources"]] == ["mic", "tower"]
    assert (data["score"], data["counts"]) == (0, {"running": 1, "failed": 1})
    assert reasons(data, "tower") == {"failed"}
    (lane,) = (lane for lane in data["lanes"] if lane["lane"] == LANE)
    assert (lane["head"], lane["folded"], lane["behind"], lane["unarchived"]) == (6, 6, 0, 0)
    assert (data["service"]["status"], data["redis"], data["postgres"]) == ("healthy", "up", "up")
    assert data["troubles"] == []


def test_a_dead_audio_service_does_not_look_like_stopped_or_running_sources(station: Yard) -> None:
    """A node that is not heard leaves its sources in doubt everywhere: without a level, with the reason."""
    past = now() - timedelta(seconds=40)
    station.beat(time=msgspec.to_builtins(past))
    with station.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE heartbeats SET at = now() - interval '40 seconds'")
    with station.projections(), asking(station.settings) as client:

        def told() -> dict[str, Any]:
            found: dict[str, Any] = client.get("/api/audio/sources/mic").json()
            return found

        eventually(lambda: (told().get("data") or {}).get("trouble"), "the doubt")
        one, data = told(), shown(client)
        listed = client.get("/api/audio/sources").json()
        scraped = client.get("/metrics").text
    assert one["stale"]
    assert one["age_seconds"] == pytest.approx(40, abs=10)
    assert one["data"]["trouble"].startswith("ingest node local was last heard at")
    assert one["data"]["level"] is None
    assert not listed["stale"], "of the other sources more is known"
    assert reasons(data, "mic") >= {"node_late", "not_followed"}
    assert any("was last heard" in trouble for trouble in data["troubles"])
    assert 'tocsin_source_state{source="mic"' not in scraped


def test_a_source_that_is_to_stay_stopped_needs_no_node(yard: Yard) -> None:
    """Nobody doubts what is stopped and should be, though its node has gone."""
    yard.scribe().add("spare")
    with yard.projections(), asking(yard.settings) as client:
        eventually(lambda: client.get("/api/audio/sources").json().get("source") == "snapshot", "snapshots")
        one = client.get("/api/audio/sources/spare").json()
    assert (one["stale"], one["data"]["trouble"], one["data"]["state"]) == (False, None, "stopped")


def test_with_redis_away_it_is_what_postgres_keeps_and_stale(station: Yard) -> None:
    """Sources and lanes come from Postgres; what only Redis knows is null and not zero."""
    with asking(without(station.settings, redis=True)) as client:
        for path in PATHS:
            answer = client.get(path).json()
            assert (answer["source"], answer["stale"]) == ("database", True), path
        data = shown(client)
        levels = client.get("/api/audio/health/metrics").json()["data"]
    assert (data["redis"], data["postgres"]) == ("away", "up")
    assert [source["id"] for source in data["sources"]] == ["mic", "tower"]
    (lane,) = (lane for lane in data["lanes"] if lane["lane"] == LANE)
    assert (lane["folded"], lane["head"], lane["owner"], lane["waiting"]) == (6, None, None, None)
    assert any(trouble.startswith("Redis is away") for trouble in data["troubles"])
    assert {level["reason"] for level in levels} >= {"Redis, which has the levels, is away"}


def test_with_postgres_away_it_is_what_redis_has(station: Yard) -> None:
    """Snapshots, lanes and heartbeats go on; what only Postgres knows is null."""
    with asking(without(station.settings, postgres=True)) as client:
        data = shown(client)
    assert (data["redis"], data["postgres"]) == ("up", "away")
    assert [source["id"] for source in data["sources"]] == ["mic", "tower"]
    (lane,) = (lane for lane in data["lanes"] if lane["lane"] == LANE)
    assert (lane["folded"], lane["head"]) == (None, 6)
    assert "Postgres is away" in data["troubles"]


def test_with_both_away_every_read_is_503(yard: Yard) -> None:
    """No read answers with an empty list when it means that it does not know."""
    with asking(without(yard.settings, redis=True, postgres=True)) as client:
        for path in PATHS:
            answer: httpx.Response = client.get(path)
            assert answer.status_code == 503, path
            assert answer.headers["retry-after"]
            assert "data" not in answer.json()


def test_an_index_that_cannot_be_read_is_none(station: Yard) -> None:
    """What another hand wrote over the index of snapshots sends the reader to Postgres."""
    with asking(station.settings) as client:
        for field, value in (("data", b'{"not": "a list"}'), ("at", b"\xff yesterday")):
            station.link.call("HSET", station.keys.source_index, field, value)
            answer = client.get("/api/audio/sources")
            assert answer.status_code == 200
            assert answer.json()["source"] == "database"
