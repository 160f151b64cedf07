"""Reading: what is said where everything is there, where something is away, and where nothing is known."""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from litestar import Litestar
from litestar.testing import TestClient

from control.station.ports import free_port
from projections.heartbeats import heartbeat_time, judge
from projections.http import ReadSide, page_files
from projections.reads import Away, Reads, Unknown
from streams.messages import now
from streams.settings import PostgresSection, RedisSection, Settings, WebSection
from tests.fix_projections import LANE, Yard
from tests.fix_servers import eventually, running_valkey
from tests.fix_web import Web


def without(settings: Settings, *, redis: bool = False, postgres: bool = False) -> Settings:
    """The settings with nobody listening where Redis or Postgres should be."""
    nowhere = free_port()
    if redis:
        settings = msgspec.structs.replace(settings, redis=RedisSection(url=f"redis://127.0.0.1:{nowhere}/0"))
    if postgres:
        url = f"postgresql://tocsin@127.0.0.1:{nowhere}/tocsin"
        settings = msgspec.structs.replace(settings, postgres=PostgresSection(url=url))
    return settings


@contextmanager
def reads(settings: Settings) -> Iterator[Reads]:
    reader = Reads(settings)
    try:
        yield reader
    finally:
        reader.close()


@pytest.fixture
def told(yard: Yard) -> Yard:
    """A station with a running and a stopped source, two results and a heartbeat, all of it projected."""
    scribe = yard.scribe()
    scribe.add("mic", running=True, name="Microphone")
    scribe.add("tower")
    scribe.settle("c-1", "mic", "completed", state="running")
    scribe.settle("c-2", "tower", "failed", reason="unreadable", detail="no such file")
    yard.link.call("HSET", yard.keys.sources, "mic", LANE, "tower", LANE)
    yard.beat()
    with yard.projections(), reads(yard.settings) as reader:
        eventually(lambda: len(reader.sources().data) == 2, "both sources projected")
        eventually(lambda: reader.sources().source == "snapshot", "snapshots")
        with reads(without(yard.settings, redis=True)) as kept:
            eventually(lambda: kept.sources().age_seconds is not None, "a pulse in Postgres")
    return yard


def test_with_redis_up_the_snapshots_answer(told: Yard) -> None:
    """Sources come from their snapshots, fresh, in the order of their ids."""
    with reads(told.settings) as reader:
        read = reader.sources()
        assert (read.source, read.stale) == ("snapshot", False)
        assert [(view.id, view.state) for view in read.data] == [("mic", "running"), ("tower", "stopped")]
        assert read.age_seconds is not None
        assert read.age_seconds < 10
        assert reader.source("mic").data.name == "Microphone"
        with pytest.raises(Unknown):
            reader.source("nobody")


def test_with_redis_away_postgres_answers_and_it_is_stale(told: Yard) -> None:
    """The same sources, marked as coming from the database and stale, with their age."""
    with reads(without(told.settings, redis=True)) as reader:
        read = reader.sources()
        assert (read.source, read.stale) == ("database", True)
        assert read.age_seconds is not None
        assert [(view.id, view.state) for view in read.data] == [("mic", "running"), ("tower", "stopped")]
        one = reader.source("tower")
        assert (one.source, one.stale, one.data.id) == ("database", True, "tower")
        assert reader.commands().stale


def test_with_postgres_away_the_snapshots_still_answer(told: Yard) -> None:
    """Sources do not need Postgres while their snapshots live."""
    with reads(without(told.settings, postgres=True)) as reader:
        assert [view.id for view in reader.sources().data] == ["mic", "tower"]
        with pytest.raises(Away):
            reader.commands()


def test_with_both_away_nothing_is_claimed(told: Yard) -> None:
    """Neither an empty list nor an unknown source: the read fails, saying so."""
    with reads(without(told.settings, redis=True, postgres=True)) as reader:
        for read in (
            reader.sources,
            reader.commands,
            lambda: reader.source("mic"),
            lambda: reader.command("c-1"),
        ):
            with pytest.raises(Away):
                read()


def test_a_redis_that_lost_everything_does_not_mean_no_sources(told: Yard) -> None:
    """An empty Redis is answered for by Postgres: absent snapshots are no statement."""
    told.link.call("FLUSHALL")
    with reads(told.settings) as reader:
        read = reader.sources()
        assert read.source == "database"
        assert [view.id for view in read.data] == ["mic", "tower"]


def test_a_missing_snapshot_is_filled_from_postgres(told: Yard) -> None:
    """One snapshot gone: that source comes from its row, the other keeps its snapshot, and it is said."""
    told.link.call("DEL", told.keys.source_snapshot("tower"))
    with reads(told.settings) as reader:
        read = reader.sources()
        assert read.source == "database"
        assert [view.id for view in read.data] == ["mic", "tower"]
        assert reader.source("tower").source == "database"


def test_a_station_without_sources_has_none(yard: Yard) -> None:
    """An empty list is an answer as soon as the projections have looked."""
    with reads(yard.settings) as reader, yard.projections():
        eventually(lambda: reader.sources().source == "snapshot", "an index")
        read = reader.sources()
        assert (read.data, read.stale) == ([], False)


def test_snapshots_that_nobody_renews_become_stale(told: Yard) -> None:
    """With the projections gone, the age grows, and above 15 s the data are called stale."""
    moment = msgspec.to_builtins(now() - timedelta(seconds=16))
    told.link.call("HSET", told.keys.source_index, "at", moment)
    with reads(told.settings) as reader:
        read = reader.sources()
        assert read.stale
        assert read.age_seconds == pytest.approx(16, abs=1)
        assert [view.id for view in read.data] == ["mic", "tower"]


def test_a_snapshot_that_cannot_be_read_counts_as_missing(told: Yard) -> None:
    """What another version or another hand wrote there does not break the reading."""
    told.link.call("HSET", told.keys.source_snapshot("mic"), "data", b'{"id": 7}')
    with reads(told.settings) as reader:
        assert [view.id for view in reader.sources().data] == ["mic", "tower"]


def test_commands_are_told_newest_first(told: Yard) -> None:
    """The latest results, of one source or of all, and each by its id."""
    with reads(told.settings) as reader:
        read = reader.commands(limit=10)
        assert [(command.id, command.outcome) for command in read.data] == [
            ("c-2", "failed"),
            ("c-1", "completed"),
        ]
        assert [command.id for command in reader.commands(limit=1).data] == ["c-2"]
        assert [command.id for command in reader.commands(source="mic").data] == ["c-1"]
        assert reader.command("c-2").data.detail == "no such file"
        with pytest.raises(Unknown):
            reader.command("c-3")


def test_the_age_of_what_postgres_keeps_is_that_of_the_last_pulse(told: Yard) -> None:
    """A station in which nothing happens is not stale; one that is no longer followed is."""
    with reads(told.settings) as reader:
        assert not reader.commands().stale
        with told.engine.begin() as connection:
            connection.exec_driver_sql("UPDATE positions SET checked_at = checked_at - interval '20 seconds'")
        assert reader.commands().stale


def test_a_lane_that_stands_still_is_told(told: Yard) -> None:
    """Readiness names the lane and why, and its sources carry it."""
    with told.engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE positions SET trouble = 'PositionAhead' WHERE lane = '{LANE}'")
    with reads(told.settings) as reader:
        ready = reader.readiness()
        assert ready.ready
        assert {(standing.lane, standing.trouble) for standing in ready.troubled} == {(LANE, "PositionAhead")}
    with reads(without(told.settings, redis=True)) as reader:
        assert {view.trouble for view in reader.sources().data} == {"PositionAhead"}


# Heartbeats: the failures they are named for are those of the station that this one replaces.


@pytest.mark.parametrize(
    "text",
    [
        b"2026-05-01T12:00:00Z", b"2026-05-01T12:00:00.000000+00:00", b"2026-05-01T14:00:00+02:00",
        b"2026-05-01T12:00:00", b"1777636800", b"1777636800.0", b"1777636800000", " 1777636800 ", 1777636800,
    ],
)  # fmt: skip
def test_heartbeat_as_text_is_understood(text: Any) -> None:
    """A time is understood as RFC 3339 and as seconds or milliseconds since 1970."""
    assert heartbeat_time(text) == datetime(2026, 5, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        None,
        b"",
        b"yesterday",
        b"\xff\xfe",
        b"0",
        b"-1",
        b"nan",
        b"inf",
        b"1e300",
        b"None",
        b"[]",
        [1],
        b"0001-01-01",
    ],
)
def test_a_heartbeat_that_is_no_time_is_none(text: Any) -> None:
    """Nonsense, and times from before the product existed, are no heartbeat; nothing raises."""
    assert heartbeat_time(text) is None


@pytest.mark.parametrize(
    ("age", "status"),
    [(-3, "healthy"), (0, "healthy"), (15, "healthy"), (16, "stale"), (61, "down"), (None, "down")],
)
def test_health_by_age(age: int | None, status: str) -> None:
    """Healthy up to 15 s, stale up to a minute, then down; a clock that runs ahead is no age below zero."""
    at = datetime(2026, 5, 1, 12, tzinfo=UTC)
    health = judge({"local": None if age is None else at - timedelta(seconds=age)}, at)
    assert (health.status, health.healthy) == (status, status == "healthy")
    assert health.age_seconds == (None if age is None else max(0, age))


def test_one_dead_node_is_not_hidden_by_a_living_one() -> None:
    """The service is as healthy as the worst node that has sources."""
    at = datetime(2026, 5, 1, 12, tzinfo=UTC)
    health = judge({"alive": at, "dead": at - timedelta(hours=2)}, at)
    assert health.status == "down"
    assert "dead" in health.message


def test_a_dead_node_shows_in_health(told: Yard) -> None:
    """While its heartbeat is gone from Redis, Postgres knows when it was last seen."""
    with reads(told.settings) as reader:
        assert reader.health().status == "healthy"
        told.link.call("DEL", told.keys.node("local"))
        with told.engine.begin() as connection:
            connection.exec_driver_sql("UPDATE heartbeats SET at = now() - interval '3 minutes'")
        health = reader.health()
        assert health.status == "down"
        assert health.age_seconds == pytest.approx(180, abs=5)


def test_heartbeat_missing_has_no_age(yard: Yard) -> None:
    """Where no heartbeat was ever seen the service is down, and its age is unknown, not 55 years."""
    with reads(yard.settings) as reader:
        health = reader.health()
        assert (health.status, health.age_seconds, health.last_heartbeat) == ("down", None, None)


def test_with_redis_away_postgres_knows_the_heartbeat(told: Yard) -> None:
    """The last heartbeat kept in Postgres decides, and the message says so."""
    with reads(without(told.settings, redis=True)) as reader:
        health = reader.health()
        assert health.status == "healthy"
        assert "Postgres" in health.message
        with told.engine.begin() as connection:
            connection.exec_driver_sql("UPDATE heartbeats SET at = now() - interval '20 seconds'")
        assert reader.health().status == "stale"


# Over HTTP.


@contextmanager
def served(settings: Settings) -> Iterator[TestClient[Litestar]]:
    side = ReadSide(settings)
    side.start()
    try:
        with TestClient(Litestar(side.routes, openapi_config=None)) as client:
            yield client
    finally:
        side.close()


def test_http_reads_have_one_shape(told: Yard) -> None:
    """Every read is data, source, age and staleness; what is not there is 404 with a reason."""
    with served(told.settings) as client:
        for path in (
            "/api/audio/sources",
            "/api/audio/sources/mic",
            "/api/commands?limit=1",
            "/api/commands/c-1",
        ):
            response = client.get(path)
            assert response.status_code == 200
            assert response.json().keys() == {"data", "source", "age_seconds", "stale"}
        assert client.get("/api/audio/sources/nobody").json()["reason"] == "unknown_source"
        assert client.get("/api/audio/sources/nobody").status_code == 404
        assert client.get("/api/commands/c-9").status_code == 404
        assert client.get("/api/commands?limit=0").status_code == 400
        assert client.get("/api/commands?limit=100000").status_code == 400
        assert client.get("/healthz").status_code == 200
        assert client.get("/readyz").json()["redis"] == "up"


def test_http_with_both_away(yard: Yard) -> None:
    """Reads are 503 with Retry-After, health is an error 500, readiness 503; the process itself is alive."""
    with served(without(yard.settings, redis=True, postgres=True)) as client:
        for path in ("/api/audio/sources", "/api/audio/sources/mic", "/api/commands", "/api/commands/c-1"):
            response = client.get(path)
            assert response.status_code == 503
            assert response.headers["retry-after"]
            assert "data" not in response.json()
        health = client.get("/api/audio/health/service")
        assert (health.status_code, health.json()["status"]) == (500, "error")
        assert client.get("/readyz").status_code == 503
        assert client.get("/healthz").status_code == 200


def test_http_health_has_its_status(told: Yard) -> None:
    """Healthy is 200, stale and down are 503; a heartbeat of nonsense is no error."""
    with served(told.settings) as client:
        shape = {"status", "healthy", "message", "age_seconds", "last_heartbeat"}
        response = client.get("/api/audio/health/service")
        assert (response.status_code, response.json().keys()) == (200, shape)
        told.beat(time="yesterday, about noon")
        assert client.get("/api/audio/health/service").status_code == 200
        told.beat(time=msgspec.to_builtins(now() - timedelta(seconds=30)))
        response = client.get("/api/audio/health/service")
        assert (response.status_code, response.json()["status"]) == (503, "stale")


def test_from_another_machine_reading_needs_the_token(told: Yard, tmp_path: Path) -> None:
    """Bound to more than this machine, only probes and the page's own files are open."""
    token = tmp_path / "web.token"
    token.write_text("the-token\n")
    web = WebSection(host="0.0.0.0", token_file=str(token))
    with served(msgspec.structs.replace(told.settings, web=web)) as client:
        for path in ("/api/audio/sources", "/api/commands", "/api/audio/health/service", "/api/audio/live"):
            assert client.get(path).status_code == 401
            assert client.get(path, headers={"Authorization": "Bearer wrong"}).status_code == 401
        answer = client.get("/api/audio/sources", headers={"Authorization": "Bearer the-token"})
        assert answer.status_code == 200
        assert client.get("/").status_code == 200
        assert client.get("/healthz").status_code == 200
    bare = msgspec.structs.replace(told.settings, web=WebSection(host="0.0.0.0"))
    with served(bare) as client:
        assert client.get("/api/commands", headers={"Authorization": "Bearer "}).status_code == 401


def test_the_page_runs_only_its_own_code(yard: Yard) -> None:
    """The content security policy forbids inline code and other hosts; the page keeps to it and is light."""
    with served(yard.settings) as client:
        page = client.get("/")
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http:" not in page.text
        assert "https:" not in page.text
        assert " style=" not in page.text
        parts = [client.get(f"/page/{name}") for name in page_files()]
        assert {part.status_code for part in parts} == {200}
        assert sum(len(part.content) for part in (page, *parts)) < 300_000
        for path in ("/alerts", "/commands", "/tests", "/audit", "/system", "/sources/mic"):
            assert client.get(path).content == page.content
        assert client.get("/page/nothing.js").status_code == 404
        assert client.get("/page/..%2fhttp.py").status_code == 404


def frames(lines: Iterator[str]) -> Iterator[dict[str, str]]:
    frame: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(": ")
            frame[name] = value
        elif frame:
            yield frame
            frame = {}


def test_the_live_feed_shows_a_running_source(web: Web, web_yard: Yard) -> None:
    """All sources at once, then levels several times a second and what changes; each frame with its id."""
    scribe = web_yard.scribe()
    scribe.add("mic", running=True)
    web_yard.beat()
    with web_yard.projections(), web.client.stream("GET", "/api/audio/live") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-store"
        feed = frames(response.iter_lines())
        (retry,) = next(feed).items()
        assert retry[0] == "retry"
        assert 500 <= int(retry[1]) <= 1500
        first = next(frame for frame in feed if frame["event"] == "sources")
        assert json.loads(first["data"]).keys() == {"data", "source", "age_seconds", "stale"}
        seen, ids, levels = Counter[str](), [first["id"]], {"levels": {}}
        wanted = {
            "levels": 12,
            "changed": 2,
            "commands": 1,
            "alerts": 1,
            "conditions": 1,
            "episodes": 1,
            "station": 1,
        }
        until = time.monotonic() + 30
        while not (levels["levels"] and seen >= Counter(wanted)):
            assert time.monotonic() < until, seen
            scribe.measure("mic", -20.0, -10.0)
            frame = next(feed)
            seen[frame["event"]] += 1
            ids.append(frame["id"])
            levels = json.loads(frame["data"]) if frame["event"] == "levels" else levels
        assert len(set(ids)) == len(ids)
        assert dict(zip(levels["fields"], levels["levels"]["mic"], strict=True))["peak_dbfs"] == -10.0
        scribe.write("source.stopped", "mic", reason="asked", desired="stopped")
        frame = next(frame for frame in feed if frame["event"] == "changed" and '"mic"' in frame["data"])
        assert json.loads(frame["data"])["changed"][0]["state"] == "stopped"


def test_a_feed_that_broke_goes_on_where_it_was(web: Web, web_yard: Yard) -> None:
    """With the id of the last frame a page is given the change that it missed, and not everything again."""
    scribe = web_yard.scribe()
    scribe.add("mic", running=True)
    with web_yard.projections():
        eventually(lambda: web.client.get("/api/audio/sources").json().get("source") == "snapshot", "mic")
        with web.client.stream("GET", "/api/audio/live") as response:
            feed = frames(response.iter_lines())
            last = next(frame for frame in feed if frame.get("event") == "sources" and "mic" in frame["data"])
        scribe.write("source.stopped", "mic", reason="asked", desired="stopped")
        headers = {"Last-Event-ID": last["id"]}
        with web.client.stream("GET", "/api/audio/live", headers=headers) as response:
            events = []
            for frame in frames(response.iter_lines()):
                events.append(frame.get("event"))
                if frame.get("event") == "changed" and '"stopped"' in frame["data"]:
                    break
        assert "sources" not in events


def test_a_frozen_redis_is_not_waited_for_again_and_again(tmp_path: Path, yard: Yard) -> None:
    """Postgres answers, stale, once Redis is known not to; when it answers again, so do the snapshots."""
    with running_valkey(tmp_path / "own") as redis:
        own = Yard(msgspec.structs.replace(yard.settings, redis=redis))
        own.prepare()
        own.scribe().add("mic", running=True)
        side = ReadSide(own.settings)
        with own.projections():
            eventually(lambda: side.reads.sources().source == "snapshot", "snapshots")
            with own.frozen_redis(5):
                eventually(
                    lambda: (read := side.reads.sources()).stale and read.data[0].id == "mic", "stale", 5
                )
            eventually(lambda: not side.reads.sources().stale, "fresh again")
        side.close()
        own.close()


def test_open_feeds_do_not_keep_the_web_process(web: Web) -> None:
    """Told to stop with pages open, the web process ends within three seconds, and the feeds end with it."""
    clients = [httpx.Client(base_url=web.url, trust_env=False) for _ in range(5)]
    try:
        open_feeds = [
            client.send(client.build_request("GET", "/api/audio/live"), stream=True) for client in clients
        ]
        first = [next(feed.iter_bytes()) for feed in open_feeds]
        assert all(part.startswith(b"retry") for part in first)
        began = time.monotonic()
        web.process.send_signal(signal.SIGTERM)
        web.process.wait(10)
        assert time.monotonic() - began < 3
    finally:
        for client in clients:
            client.close()
