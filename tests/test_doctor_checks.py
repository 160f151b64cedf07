"""Each condition that the doctor names, brought about on real servers, and what it says to do about it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from control.checks import breakers
from control.checks.finding import Finding
from control.checks.postgres import postgres
from control.checks.projections import projections
from control.checks.redis import functions, plaintext, redis, replicas, writes
from control.checks.sentinels import down_after, promotable, sentinels
from control.doctor import examine, lanes
from control.place import Place
from control.station.ports import free_port
from projections.projection import ALL
from streams.breaker import Breakers
from streams.connection import Link, Unreachable, connect
from streams.faults import FAULTS
from streams.library import load_library
from streams.names import StationKeys
from streams.settings import PostgresSection, RedisSection, Settings
from tests.fix_cli import Terminal, made_folder
from tests.fix_projections import LANE, Scribe, Yard
from tests.fix_room import room_folder
from tests.fix_servers import IS_REDIS_7_0, Trio, eventually
from tests.fix_web import Web
from tests.test_faults import HARMS, Harmed


@pytest.fixture
def link(valkey: RedisSection) -> Iterator[Link]:
    """A link to this worker's Valkey."""
    made = connect(valkey, "test")
    yield made
    made.close()


@pytest.fixture
def harmed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Harmed]:
    """A server of the test's own, to be harmed."""
    monkeypatch.setattr("streams.connection.REPLY_TIMEOUT", 0.4)
    monkeypatch.setattr("streams.connection.CONNECT_TIMEOUT", 0.4)
    made = Harmed(tmp_path)
    yield made
    made.close()


def looked(section: RedisSection) -> Finding:
    """What the check of the primary finds."""
    link = connect(section, "test")
    try:
        return redis(link, section)
    finally:
        link.close()


def only(findings: Iterator[Finding]) -> Finding:
    found = list(findings)
    assert len(found) == 1, found
    return found[0]


# The primary.


def test_a_primary_that_is_well(valkey: RedisSection) -> None:
    """Its address, product and version are told, and a durability that it does not have."""
    found = looked(valkey)
    assert found.verdict == "ok"
    assert ("redis" if IS_REDIS_7_0 else "valkey") in found.told
    assert ("no WAITAOF" in found.told) is IS_REDIS_7_0


def test_nobody_listens() -> None:
    """Where nothing is, the doctor says how to start it, and that TLS may be what is missing."""
    found = looked(RedisSection(url=f"redis://127.0.0.1:{free_port()}/0"))
    assert found.verdict == "trouble"
    assert "tocsin up" in found.next
    assert "redis.tls" in found.next


def test_a_user_who_may_do_nothing(valkey: RedisSection, link: Link) -> None:
    """An ACL user without the rights of its role is told to get those."""
    link.call("ACL", "SETUSER", "nobody", "on", ">pass", "-@all", "+role", "+ping", "+client|setname")
    try:
        found = looked(msgspec.structs.replace(valkey, username="nobody", password="pass"))
    finally:
        link.call("ACL", "DELUSER", "nobody")
    assert found.verdict == "trouble"
    assert "role" in found.next


def test_a_policy_that_forgets(valkey: RedisSection, link: Link) -> None:
    """An eviction policy other than noeviction is named with the line that changes it."""
    link.call("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    try:
        found = looked(valkey)
    finally:
        link.call("CONFIG", "SET", "maxmemory-policy", "noeviction")
    assert found.verdict == "trouble"
    assert "CONFIG SET maxmemory-policy noeviction" in found.next


def test_tls_to_a_server_that_speaks_none(valkey: RedisSection, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that is told to encrypt, at a server that does not, says which of the two to change."""
    monkeypatch.setattr("streams.connection.CONNECT_TIMEOUT", 0.4)
    found = looked(msgspec.structs.replace(valkey, tls=True))
    assert found.verdict == "trouble"
    assert "redis.tls" in found.next


@pytest.mark.parametrize(("verdict", "limit"), [("trouble", 1.2), (None, 50)])
def test_a_memory_that_fills(link: Link, verdict: str | None, limit: float) -> None:
    """From the high-water mark of maxmemory on there is trouble, well below it nothing."""
    used = int(link.call("INFO", "memory").decode().split("used_memory:")[1].split()[0])
    link.call("CONFIG", "SET", "maxmemory", int(used * limit))
    try:
        found = list(writes(link, Settings()))
    finally:
        link.call("CONFIG", "SET", "maxmemory", 0)
    assert [one.verdict for one in found] == ([verdict] if verdict else [])
    assert all("maxmemory" in one.next for one in found)


NAMED = {
    "hanging": "REFUSED",
    "silent": "REFUSED",
    "cut": "REFUSED",
    "demoted": "REPLICA",
    "orphaned": "REPLICA",
    "too many clients": "MAXCLIENTS",
    "without replicas": "NOREPLICAS",
    "full": "OOM",
    "cannot save": "MISCONF",
    "busy": "BUSY",
    "another password": "WRONGPASS",
    "loading": "LOADING",
}
"""What is done to a server, and the fault whose advice is given."""


@pytest.mark.parametrize("harm", NAMED)
def test_each_fault_of_a_server_has_its_advice(harmed: Harmed, harm: str) -> None:
    """Whatever is the matter with the primary, one finding says what and what to do about it."""
    section = harmed.wire.redis
    with HARMS[harm][0](harmed):
        link = connect(section, "doctor")
        found = [redis(link, section)]
        with contextlib.suppress(Unreachable):
            found += writes(link, Settings(redis=section))
        link.close()
    wrong = [one for one in found if one.verdict != "ok"]
    assert any(FAULTS[NAMED[harm]].next in one.next for one in wrong), wrong
    assert all(section.password not in one.told + one.next for one in wrong)


def test_functions_that_are_missing_or_old(link: Link) -> None:
    """Missing functions, and those of another version, are told apart."""
    load_library(link)
    assert only(functions(link, Settings())).verdict == "ok"
    link.call("FUNCTION", "FLUSH")
    missing = only(functions(link, Settings()))
    other = "#!lua name=tocsin\nredis.register_function{function_name='tocsin_version', "
    link.call("FUNCTION", "LOAD", other + "callback=function() return 'another' end, flags={'no-writes'}}")
    old = only(functions(link, Settings()))
    link.call("FUNCTION", "FLUSH")
    load_library(link)
    assert (missing.verdict, missing.told) == ("trouble", "not loaded")
    assert "tocsin up" in missing.next
    assert "tocsin access load" in missing.next
    assert old.verdict == "trouble"
    assert "version another" in old.told


def test_what_travels_unencrypted() -> None:
    """Servers on other hosts without TLS are named; on this machine, or with TLS, nothing is said."""
    away = RedisSection(sentinels=("10.0.0.1:26379", "10.0.0.2:26379", "127.0.0.1:26379"))
    found = only(plaintext(away))
    assert found.verdict == "warning"
    assert "10.0.0.1, 10.0.0.2" in found.told
    assert "redis.tls" in found.next
    assert list(plaintext(msgspec.structs.replace(away, tls=True))) == []
    assert list(plaintext(RedisSection(url="redis://127.0.0.1:6379/0"))) == []
    assert only(plaintext(RedisSection(url="redis://hall:6379/0"))).verdict == "warning"


# Replicas and Sentinels.


def test_replicas_and_sentinels_that_are_missing_or_contradict(sentinel_trio: Trio) -> None:
    """One replica less is a warning, none is trouble; silent and contradicting Sentinels are named."""
    settings = Settings(redis=sentinel_trio.redis)
    section, link = settings.redis, connect(settings.redis, "test")
    assert only(replicas(link, settings)).verdict == "ok"
    assert sentinels(section).verdict == "ok"

    # Given a Sentinel that names another primary,
    liar = f"127.0.0.1:{sentinel_trio.port('sentinel-3')}"
    sentinel_trio.ask("sentinel-3", "SENTINEL", "REMOVE", section.service)
    other = sentinel_trio.port("redis-2")
    sentinel_trio.ask("sentinel-3", "SENTINEL", "MONITOR", section.service, "127.0.0.1", other, 2)
    stray = sentinels(section)
    assert stray.verdict == "warning"
    assert f"{liar} names another" in stray.told
    assert "restart" in stray.next

    # one that is silent, and two,
    sentinel_trio.kill("sentinel-3")
    silent = sentinels(section)
    assert (silent.verdict, silent.told[:12]) == ("warning", "2 of 3 answe")
    assert liar in silent.told
    sentinel_trio.kill("sentinel-2")
    mute = sentinels(section)
    assert mute.verdict == "trouble"
    assert "without 2 of them no primary is found" in mute.next

    # a wrong password for them,
    wrong = sentinels(msgspec.structs.replace(section, password="not the one"))
    assert wrong.verdict == "trouble"
    assert "password" in wrong.told

    # and replicas that are away, first one, then the other.
    sentinel_trio.kill("redis-2")
    eventually(lambda: only(replicas(link, settings)).verdict == "warning", "one replica less")
    assert "1 of 2 attached" in only(replicas(link, settings)).told
    sentinel_trio.kill("redis-3")
    eventually(lambda: only(replicas(link, settings)).verdict == "trouble", "no replica")
    assert "start the replicas" in only(replicas(link, settings)).next
    link.close()


def test_replicas_that_nobody_may_promote(sentinel_trio: Trio) -> None:
    """One hidden replica is a warning, as after its start; with all hidden nobody could take over."""
    section = sentinel_trio.redis
    for name in sentinel_trio.SENTINELS:
        sentinel_trio.ask(name, "SENTINEL", "DEBUG", "INFO-PERIOD", 100)
    assert list(promotable(section)) == []
    first, second = sentinel_trio.replicas()
    sentinel_trio.ask(first, "CONFIG", "SET", "replica-priority", 0)
    eventually(lambda: [one.verdict for one in promotable(section)] == ["warning"], "one hidden")
    sentinel_trio.ask(second, "CONFIG", "SET", "replica-priority", 0)
    eventually(lambda: [one.verdict for one in promotable(section)] == ["trouble"], "both hidden")
    found = only(promotable(section))
    assert "2 of 2" in found.told
    assert "tocsin run guard" in found.next
    # A replica that is away can take nobody's place either.
    sentinel_trio.ask(first, "CONFIG", "SET", "replica-priority", 100)
    sentinel_trio.pause(first)
    eventually(lambda: "1 of 1" in " ".join(one.told for one in promotable(section)), "one hidden, one away")
    sentinel_trio.resume(first)
    assert list(promotable(msgspec.structs.replace(section, password="not the one"))) == []


def test_a_failover_that_outlasts_a_lease(sentinel_trio: Trio, tmp_path: Path) -> None:
    """Which Sentinel waits too long is named, with its value and the highest; those as shipped are well."""
    section = sentinel_trio.redis
    place = Place(directory=room_folder(tmp_path / "station", section, PostgresSection()).path)
    assert list(down_after(section)) == []

    def wait(name: str, milliseconds: int) -> str:
        change = ("SENTINEL", "SET", section.service, "down-after-milliseconds", milliseconds)
        assert sentinel_trio.ask(name, *change) == "OK"
        return f"{milliseconds} on 127.0.0.1:{sentinel_trio.port(name)}"

    # At the limit nothing is said; a millisecond more is too much.
    wait("sentinel-2", 4000)
    assert list(down_after(section)) == []
    late = wait("sentinel-2", 4001)
    found = only(down_after(section))
    assert found.verdict == "warning"
    assert f"is {late}: " in found.told
    assert "12 s" in found.told
    assert f"SENTINEL SET {section.service} down-after-milliseconds 2000" in found.next
    assert "4000" in found.next

    # All that wait too long are named, by the doctor too; one that does not answer says nothing.
    other = wait("sentinel-1", 30000)
    assert f"is {other}, {late}: " in only(down_after(section)).told
    assert [one.part for one in examine(place)].count("down-after") == 1
    sentinel_trio.kill("sentinel-1")
    assert f"is {late}: " in only(down_after(section)).told


# Lanes and projections.


def test_a_lane_whose_consumer_group_is_gone(link: Link) -> None:
    """Where the lane has an owner that one makes it anew; the commands are counted all the same."""
    settings, keys = Settings(), StationKeys("station").lane("p0")
    for number in range(3):
        link.call("XADD", keys.commands, "*", "c", number)
    assert [one.verdict for one in lanes(link, settings)] == ["trouble", "ok"]
    link.call("SET", keys.lease, "one:1:x")
    gone, waiting = lanes(link, settings)
    assert (gone.part, gone.verdict, gone.told) == ("lane p0", "warning", FAULTS["NOGROUP"].means)
    assert gone.next == FAULTS["NOGROUP"].next
    assert waiting.told.startswith("3 commands wait")
    link.call("XGROUP", "CREATE", keys.commands, "ingest", "0")
    assert "3 commands wait" in only(lanes(link, settings)).told


def test_a_command_that_has_its_result_waits_no_more(link: Link) -> None:
    """What the server counts as the group's lag is not believed: Redis 7.0 goes on counting what is gone."""
    settings, keys = Settings(), StationKeys("station").lane("p0")
    link.call("SET", keys.lease, "one:1:x")
    for number in range(3):
        link.call("XADD", keys.commands, "*", "c", number)
    link.call("XGROUP", "CREATE", keys.commands, "ingest", "0")
    read = ("XREADGROUP", "GROUP", "ingest", "one", "COUNT", 1, "STREAMS", keys.commands, ">")
    (first, _), *_ = link.call(*read)[0][1]
    assert "3 commands wait" in only(lanes(link, settings)).told  # delivered, and without a result
    link.call("XACK", keys.commands, "ingest", first)
    link.call("XDEL", keys.commands, first)
    assert "2 commands wait" in only(lanes(link, settings)).told
    # As a failover leaves it: entries are gone that the group never saw.
    for id, _ in link.call("XRANGE", keys.commands, "-", "+"):
        link.call("XDEL", keys.commands, id)
    assert only(lanes(link, settings)).told.startswith("no command waits")


def test_an_archive_and_folds_that_stand_still(web: Web, web_yard: Yard) -> None:
    """A lane that cannot be followed is named with the reason; a forked one as a matter for people."""
    keys = StationKeys(web_yard.settings.station.id)

    def found() -> list[Finding]:
        return list(projections(web.url, web_yard.link, keys))

    with web_yard.projections():
        web_yard.scribe().add("mic", running=True)
        eventually(lambda: web_yard.rows(ALL[0]), "the events folded")
        assert [one.verdict for one in found()] == ["ok"]
        # Given a log that lost what was read of it,
        lane = keys.lane(LANE)
        web_yard.link.call("DEL", lane.events, lane.head)
        eventually(lambda: "PositionAhead" in " ".join(one.told for one in found()), "the loss told")
        lost = only(one for one in found() if "archive" in one.part)
        assert lost.verdict == "trouble"
        assert "puts back" in lost.next
        # and one that went on with another history.
        other = Scribe(web_yard.link, lane)
        other.write("log.forked", head={"seq": 0, "hash": ""}, other={"seq": 1, "hash": ""})
        eventually(lambda: "log.forked" in " ".join(one.told for one in found()), "the fork told")
        assert "both are kept" in only(one for one in found() if "archive" in one.part).next


# Postgres.


def verdicts(section: PostgresSection) -> dict[str, Finding]:
    """What the check of Postgres finds, by part."""
    return {found.part: found for found in postgres(section)}


def test_postgres_well_away_and_refusing(postgres_server: PostgresSection) -> None:
    """A wrong password, a database that is not there and a server that is away have each their advice."""
    assert verdicts(postgres_server)["postgres"].verdict == "ok"
    refused = {
        "password_file": msgspec.structs.replace(postgres_server, password="not the one"),
        "create that database": msgspec.structs.replace(
            postgres_server, url=postgres_server.url.rpartition("/")[0] + "/nowhere"
        ),
        "start it": PostgresSection(url=f"postgresql://tocsin@127.0.0.1:{free_port()}/tocsin"),
        "turn TLS on": msgspec.structs.replace(postgres_server, url=postgres_server.url + "?sslmode=require"),
    }
    for advice, section in refused.items():
        found = verdicts(section)["postgres"]
        assert found.verdict == "trouble", advice
        assert advice in found.next
        assert "not the one" not in found.told
    assert verdicts(PostgresSection())["postgres"].verdict == "warning"


# Breakers, and the whole.


def test_an_open_breaker_of_a_node(link: Link) -> None:
    """What a node's heartbeat says of its breakers is told; what cannot be read is left out."""
    keys, opened = StationKeys("station"), Breakers()
    for _ in range(5):
        opened.postgres.failed("connection refused")
    link.call("HSET", keys.node("mast"), "breakers", msgspec.json.encode(opened.standings()))
    link.call("HSET", keys.node("odd"), "breakers", "{not json")
    found = only(breakers.of_nodes(link, keys, ["mast", "odd", "silent"]))
    assert (found.part, found.verdict) == ("breaker postgres of node mast", "trouble")
    assert "connection refused" in found.told
    assert found.next


def test_the_doctor_examines_all_though_nothing_answers(tmp_path: Path) -> None:
    """With every server away it ends with exit code 1, names each part and has advice for each trouble."""
    nowhere = RedisSection(url=f"redis://127.0.0.1:{free_port()}/0")
    url = f"postgresql://tocsin@127.0.0.1:{free_port()}/tocsin"
    folder = made_folder(tmp_path / "station", nowhere, url, free_port())
    ran = Terminal(folder.path)("doctor", "--json")
    assert ran.code == 1, ran.err
    findings = ran.json["doctor"]["findings"]
    assert {one["part"] for one in findings if one["verdict"] == "trouble"} >= {"redis", "postgres", "web"}
    assert all(one["next"] for one in findings if one["verdict"] != "ok")
