"""What /metrics says: right across processes, bounded, and silent about what nobody can be asked for."""

from __future__ import annotations

import math
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control.station.ports import free_port
from projections.folds.totals import BOUNDS, OTHER, TYPES
from projections.metrics import families
from projections.projection import TOTALS, fold_all
from projections.scrape import Facts, in_step
from projections.views import Envelope, LevelView, SourceView
from streams.breaker import Standing
from streams.messages import OUTCOMES, now
from streams.names import floating_lanes
from streams.settings import PostgresSection, RedisSection, Settings, WebSection
from tests.fix_metrics import Scraped, scraped, scraping
from tests.fix_projections import EPOCH, LANE, Chain, Yard
from tests.fix_servers import Trio, eventually

NOTHING = Facts(redis=None, postgres=None, sources=None, breakers=[], replicas=0)
ALWAYS = {"up", "breaker_state", "replicas_configured"}
OF_REDIS = {
    "stream_length",
    "stream_lag",
    "stream_pending",
    "stream_oldest_pending_seconds",
    "lane_owned",
    "parked",
    "replicas_connected",
    "projection_lag_events",
}


def result(chain: Chain, type: object, outcome: str = "completed", seconds: float | None = 0.0) -> None:
    """The next event of the chain: a result that took so long; None: nobody knows how long."""
    at = EPOCH + timedelta(seconds=chain.seq)
    received = (
        {} if seconds is None else {"received_at": msgspec.to_builtins(at - timedelta(seconds=seconds))}
    )
    chain.event(f"command.{outcome}", "mic", f"c-{chain.seq}", type=type, sequence=1, **received)


def without(settings: Settings, *, redis: bool = False, postgres: bool = False) -> Settings:
    """The settings with nobody listening where Redis or Postgres should be."""
    nowhere = free_port()
    if redis:
        settings = msgspec.structs.replace(settings, redis=RedisSection(url=f"redis://127.0.0.1:{nowhere}/0"))
    if postgres:
        url = f"postgresql://tocsin@127.0.0.1:{nowhere}/tocsin"
        settings = msgspec.structs.replace(settings, postgres=PostgresSection(url=url))
    return settings


def said(facts: Facts) -> dict[tuple[str, tuple[str, ...]], float]:
    """The samples made of `facts`, by name and label values."""
    samples = [sample for family in families(facts, now()) for sample in family.samples]
    return {
        (one.name.removeprefix("tocsin_"), tuple(one.labels.values())): float(one.value) for one in samples
    }


# Counting results.


def test_results_are_counted_by_type_outcome_and_duration() -> None:
    """Each result counts once, in the first bucket that takes its duration; sums are exact."""
    chain = Chain()
    for seconds in (0.0, 0.01, 0.011, 59.9, 61.0):
        result(chain, "source.start", seconds=seconds)
    result(chain, "source.start", "failed", seconds=2.0)
    rows = fold_all(TOTALS, {}, chain.events)
    done = rows["source.start/completed"]
    assert (done.count, sum(done.buckets), done.microseconds) == (5, 5, 120_921_000)
    assert [done.buckets[n] for n in (0, 1, len(BOUNDS) - 1, len(BOUNDS))] == [2, 1, 1, 1]
    assert rows["source.start/failed"].count == 1


def test_a_duration_that_nobody_can_know_is_not_made_up() -> None:
    """Without a time of receipt, or with an impossible one, a result counts and is not timed."""
    chain = Chain()
    result(chain, "source.stop", seconds=None)
    result(chain, "source.stop", seconds=55 * 365 * 86400.0)
    result(chain, "source.stop", seconds=-0.2)
    row = fold_all(TOTALS, {}, chain.events)["source.stop/completed"]
    assert (row.count, sum(row.buckets), row.microseconds) == (3, 1, 0)


@settings(deadline=None)
@given(st.lists(st.one_of(st.text(), st.integers(), st.none(), st.sampled_from(sorted(TYPES))), max_size=40))
def test_whatever_is_sent_the_rows_are_bounded(types: list[Any]) -> None:
    """Types that are not known are `other`; nothing that a stranger writes makes a row of its own."""
    chain = Chain()
    for type in types:
        result(chain, type)
    rows = fold_all(TOTALS, {}, chain.events)
    assert {row.type for row in rows.values()} <= {*TYPES, OTHER}
    assert sum(row.count for row in rows.values()) == len(types)


def test_several_processes_and_restarts_give_the_same_numbers(yard: Yard) -> None:
    """Counters are those of the log: two read sides agree, also after the projections' restart."""
    one, other = yard.scribe(), yard.scribe("p0")
    counted = ("commands_total", "command_duration_seconds_count", "command_duration_seconds_sum")
    for n in range(3):
        one.settle(f"a-{n}", "mic")
        other.settle(f"b-{n}", "tower", "failed")
    yard.link.call("HSET", yard.keys.sources, "mic", LANE, "tower", "p0")

    def results(expected: int) -> bool:
        seen = scraped(yard.settings)
        return seen("command_duration_seconds_count", type="source.start") == expected

    with yard.projections():
        eventually(lambda: results(6), "six results counted")
    first, second = scraped(yard.settings).of(*counted), scraped(yard.settings).of(*counted)
    assert first == second
    one.settle("a-3", "mic")
    with yard.projections():
        eventually(lambda: results(7), "the seventh counted")
    seen = scraped(yard.settings)
    assert seen("commands_total", type="source.start", outcome="completed") == 4
    assert seen("commands_total", type="source.start", outcome="failed") == 3
    assert seen("commands_total", type="source.stop", outcome="completed") == 0
    assert len(seen.of("commands_total")) == (len(TYPES) + 1) * len(OUTCOMES)
    assert seen("projection_lag_events", projection="totals", lane="p0") == 0


# Lanes.


def test_a_command_nobody_consumes_is_noticed(yard: Yard) -> None:
    """Waiting commands are the lane's lag, taken ones pending, with the age of the oldest; an owner shows."""
    keys = yard.keys.lane("p0")
    submitted = int((time.time() - 30) * 1000)
    for n in range(3):
        yard.link.call("XADD", keys.commands, f"{submitted + n}-0", "c", "…")
    lonely = scraped(yard.settings)
    assert lonely("stream_lag", lane="p0") == 3
    assert lonely("stream_length", lane="p0", stream="commands") == 3
    assert (lonely("stream_pending", lane="p0"), lonely("lane_owned", lane="p0")) == (0, 0)
    assert 29 < (lonely("stream_oldest_waiting_seconds", lane="p0") or 0) < 60
    # Nothing is wired to this machine: that nobody owns its lane is no fault.
    assert lonely("lane_owned", lane=LANE) is None
    yard.link.call("XGROUP", "CREATE", keys.commands, "ingest", "0")
    yard.link.call("XREADGROUP", "GROUP", "ingest", "w", "COUNT", 1, "STREAMS", keys.commands, ">")
    yard.link.call("SET", keys.lease, "local 1 abc")
    yard.link.call("XADD", keys.parked, "*", "i", "c-1")
    taken = scraped(yard.settings)
    assert (taken("stream_lag", lane="p0"), taken("stream_pending", lane="p0")) == (2, 1)
    assert 29 < (taken("stream_oldest_pending_seconds", lane="p0") or 0) < 60
    assert (taken("lane_owned", lane="p0"), taken("parked", lane="p0")) == (1, 1)
    assert taken("stream_oldest_pending_seconds", lane="station") == 0
    yard.link.call("XREADGROUP", "GROUP", "ingest", "w", "STREAMS", keys.commands, ">")
    assert scraped(yard.settings)("stream_oldest_waiting_seconds", lane="p0") == 0


def test_a_scrape_of_64_lanes_is_quick_and_bounded(yard: Yard) -> None:
    """A station of the largest size is told in well under a second, in as many series as it is large."""
    wide = msgspec.structs.replace(
        yard.settings, station=msgspec.structs.replace(yard.settings.station, lanes=64)
    )
    lanes = [*floating_lanes(64), "station", LANE]
    for lane in lanes:
        yard.link.call("XADD", yard.keys.lane(lane).commands, "*", "c", "…")
    with scraping(wide) as client:
        seconds = []
        for _ in range(5):
            began = time.monotonic()
            text = client.get("/metrics").text
            seconds.append(time.monotonic() - began)
    seen = Scraped(text)
    assert sum(seen.of("stream_lag").values()) == len(lanes)
    assert len(seen.of("stream_length")) == 4 * len(lanes)
    # The best of five: a neighbour on this machine may take any one of them.
    assert min(seconds) < 0.5


def test_a_log_that_was_rolled_back_is_a_failed_verification(yard: Yard) -> None:
    """Where the log no longer joins on to what was folded, it says so, until it is repaired."""
    scribe = yard.scribe()
    scribe.settle("c-1", "mic")
    last = scribe.settle("c-2", "mic")
    keys = yard.keys.lane(LANE)
    with yard.projections():
        eventually(lambda: scraped(yard.settings)("verify_failed", lane=LANE) == 0, "folded and well")
        forged = ("seq", last.event.seq, "hash", last.hash)
        yard.link.call("XADD", keys.events, "4-1", "e", last.raw, "h", last.hash)
        yard.link.call("HSET", keys.head, "seq", 4, "wm_seq", 4)
        eventually(lambda: scraped(yard.settings)("verify_failed", lane=LANE) == 1, "the break is told")
        assert scraped(yard.settings)("projection_trouble", projection="totals", lane=LANE) == 1
        yard.link.batch(
            [("XDEL", keys.events, "4-1"), ("HSET", keys.head, "wm_seq", last.event.seq, *forged)]
        )
        eventually(lambda: scraped(yard.settings)("verify_failed", lane=LANE) == 0, "well again")


# What is away is not made up.


def test_with_redis_away_only_what_postgres_knows_is_told(yard: Yard) -> None:
    """Counters, projections and heartbeats are there; no stream, lane or level is said to be empty."""
    yard.scribe().settle("c-1", "mic")
    yard.beat()
    count = ("commands_total", {"type": "source.start", "outcome": "completed"})
    with yard.projections():
        eventually(lambda: scraped(yard.settings)(count[0], **count[1]) == 1, "counted")
        eventually(
            lambda: scraped(without(yard.settings, redis=True)).of("audio_service_heartbeat_age_seconds"),
            "the heartbeat kept",
        )
    away = scraped(without(yard.settings, redis=True))
    assert (away("up", dependency="redis"), away("up", dependency="postgres")) == (0, 1)
    assert away(count[0], **count[1]) == 1
    assert not away.names() & OF_REDIS


def test_with_postgres_away_only_what_redis_knows_is_told(yard: Yard) -> None:
    """Streams are told; commands are not said to be none."""
    seen = scraped(without(yard.settings, postgres=True))
    assert (seen("up", dependency="redis"), seen("up", dependency="postgres")) == (1, 0)
    assert seen("stream_lag", lane="p0") == 0
    assert not seen.names() & {"commands_total", "command_duration_seconds_count", "projection_lag_events"}
    assert seen.families["tocsin_commands"] == "counter"


def test_with_both_away_the_scrape_says_so_and_nothing_else(yard: Yard) -> None:
    """The answer is 200, lest the scraper throw away which of them is missing."""
    seen = scraped(without(yard.settings, redis=True, postgres=True))
    assert seen.names() == ALWAYS
    assert (seen("up", dependency="redis"), seen("up", dependency="postgres")) == (0, 0)


# Heartbeats.


def test_heartbeats_late_missing_and_unreadable(yard: Yard) -> None:
    """A late one has its age; of a node that should be there and never was it is +Inf, and nothing breaks."""
    yard.link.call("HSET", yard.keys.sources, "mic", LANE, "tower", "node.attic", "roof", "node.cellar")
    yard.beat("local", msgspec.to_builtins(now() - timedelta(seconds=20)))
    yard.beat("attic", "yesterday, I think")
    seen = scraped(yard.settings)
    late = seen("audio_service_heartbeat_age_seconds", node="local")
    assert late is not None
    assert 20 <= late < 60
    assert seen("audio_service_heartbeat_age_seconds", node="attic") == math.inf
    assert seen("audio_service_heartbeat_age_seconds", node="cellar") == math.inf
    assert len(seen.of("audio_service_heartbeat_age_seconds")) == 3


def test_a_node_is_found_by_the_lanes_it_holds_and_forgotten_after_a_day(yard: Yard) -> None:
    """A node without sources of its own is seen as an owner; one that left is gone from the list in time."""
    yard.link.call("SET", yard.keys.lane("p0").lease, "spare 1 abc")
    yard.beat("spare")
    disk = '{"free": 10, "size": 100}'
    yard.link.call("HSET", yard.keys.node("spare"), "disk", disk, "clock", "-1.250")
    with yard.engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO heartbeats VALUES"
            " ('left', now() - interval '2 days'), ('late', now() - interval '1 hour')"
        )
    seen = scraped(yard.settings)
    nodes = {dict(labels)["node"] for _, labels in seen.of("audio_service_heartbeat_age_seconds")}
    assert nodes == {"spare", "late"}
    assert (seen("disk_free_bytes", node="spare"), seen("disk_size_bytes", node="spare")) == (10, 100)
    assert seen("node_clock_offset_seconds", node="spare") == -1.25


# Made of facts.


def level_of(rms: float | None, *, stale: bool = False) -> dict[tuple[str, tuple[str, ...]], float]:
    """What is said of a running source with this level."""
    level = LevelView(at=now(), rms_dbfs=rms, peak_dbfs=rms, seconds=1.0)
    view = SourceView(
        id="mic", lane=LANE, node="local", kind="file", name="", settings={}, desired="running",
        state="running", reason=None, rate=8000, channels=1, since=now(), updated_at=now(), seq=1,
        hash="0" * 64, level=level,
    )  # fmt: skip
    read = Envelope(data=[view], source="snapshot", age_seconds=0.1, stale=stale)
    return said(msgspec.structs.replace(NOTHING, sources=read))


def test_digital_silence_is_a_level_and_an_old_level_is_none() -> None:
    """−∞ is told as such, which an alert can compare; a level that is no longer fresh is not told."""
    assert level_of(-12.5)["source_level_dbfs", ("mic", "rms")] == -12.5
    assert level_of(None)["source_level_dbfs", ("mic", "peak")] == -math.inf
    assert ("source_level_dbfs", ("mic", "rms")) not in level_of(-12.5, stale=True)
    states = {name[1][1]: value for name, value in level_of(None).items() if name[0] == "source_state"}
    assert states == {"stopped": 0, "starting": 0, "running": 1, "stalled": 0, "failed": 0}


def test_the_worst_breaker_counts() -> None:
    """One process that found the server away is enough, whoever is asked."""
    standings = [
        {"redis": Standing(), "postgres": Standing()},
        {"redis": Standing(state="open"), "postgres": Standing(state="half_open")},
    ]
    seen = said(msgspec.structs.replace(NOTHING, breakers=standings))
    assert (seen["breaker_state", ("redis",)], seen["breaker_state", ("postgres",)]) == (2, 1)


def test_a_replica_that_hangs_is_not_in_step() -> None:
    """Connected, sending, and acknowledged a moment ago: only then it counts."""
    info = (
        "role:master\r\nconnected_slaves:3\r\n"
        "slave0:ip=10.0.0.2,port=6379,state=online,offset=9,lag=1\r\n"
        "slave1:ip=10.0.0.3,port=6379,state=online,offset=9,lag=40\r\n"
        "slave2:ip=10.0.0.4,port=6379,state=wait_bgsave,offset=0,lag=0\r\n"
    )
    assert in_step(info) == 1


def test_a_replica_that_dies_is_missed(yard: Yard, sentinel_trio: Trio) -> None:
    """Of two replicas both are connected, then one."""
    own = msgspec.structs.replace(yard.settings, redis=sentinel_trio.redis)
    with scraping(own) as client:

        def connected() -> float | None:
            return Scraped(client.get("/metrics").text)("replicas_connected")

        eventually(lambda: connected() == 2, "both replicas")
        sentinel_trio.kill(sentinel_trio.replicas()[0])
        eventually(lambda: connected() == 1, "one replica less")
        assert Scraped(client.get("/metrics").text)("replicas_configured") == 2


# Over HTTP.


def test_the_format_is_what_the_scraper_asks_for(yard: Yard) -> None:
    """Prometheus' classic text by default, OpenMetrics where it is accepted."""
    with scraping(yard.settings) as client:
        classic, open_ = (
            client.get("/metrics", headers={"Accept": kind})
            for kind in ("*/*", "application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
        )
        assert classic.headers["content-type"].startswith("text/plain")
        assert open_.headers["content-type"].startswith("application/openmetrics-text")
        assert open_.text.endswith("# EOF\n")
        assert "# TYPE tocsin_alerts" in classic.text


def test_metrics_need_the_token_where_others_than_this_machine_can_ask(yard: Yard, tmp_path: Path) -> None:
    """As every read."""
    token = tmp_path / "token"
    token.write_text("secret")
    web = WebSection(host="0.0.0.0", token_file=str(token))
    with scraping(msgspec.structs.replace(yard.settings, web=web)) as client:
        assert client.get("/metrics").status_code == 401
        assert client.get("/metrics", headers={"Authorization": "Bearer secret"}).status_code == 200


@pytest.mark.parametrize(
    "name",
    [
        "commands", "command_duration_seconds", "audio_service_heartbeat_age_seconds", "stream_length",
        "stream_lag", "stream_pending", "projection_lag_events", "breaker_state", "source_state",
        "source_level_dbfs", "source_loudness_lufs", "alerts", "same_decoder_last_burst_timestamp_seconds",
    ],
)  # fmt: skip
def test_every_promised_family_is_there(name: str) -> None:
    """Also those that nothing feeds yet: without samples, so that nobody takes them for zero."""
    assert f"tocsin_{name}" in {family.name for family in families(NOTHING, now())}
