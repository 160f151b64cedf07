"""One pinned connection: what fails is told at once, and whether it may have been executed."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis.exceptions import ResponseError

from streams.connection import Link, Unreachable, connect
from streams.settings import RedisSection
from tests.fix_servers import running_valkey
from tests.fix_streams import Hall


@pytest.fixture
def harmed(tmp_path: Path) -> Iterator[Link]:
    """A link to a server of the test's own, whose settings it may spoil."""
    with running_valkey(tmp_path) as redis:
        link = connect(redis, "harmed")
        yield link
        link.close()


def kill_clients(link: Link, name: str) -> int:
    """Have the server close the connections of that name, as Sentinel does after a failover."""
    killed = 0
    for line in link.call("CLIENT", "LIST").decode().splitlines():
        fields = dict(part.split("=", 1) for part in line.split(" ") if "=" in part)
        if fields["name"] == name:
            killed += int(link.call("CLIENT", "KILL", "ID", fields["id"]))
    return killed


def test_replies_come_as_bytes_and_errors_of_a_command_are_its_own(hall: Hall) -> None:
    """A batch is one round trip; the error of one command stands in its place and hinders no other."""
    key = hall.station.meta
    replies = hall.link.batch([("SET", key, "1"), ("LPUSH", key, "x"), ("GET", key)])
    assert replies[0] == b"OK"
    assert isinstance(replies[1], ResponseError)
    assert replies[2] == b"1"
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        hall.link.call("LPUSH", key, "x")
    assert hall.link.call("GET", key) == b"1"


def test_a_link_connects_at_its_first_call_and_counts_its_connections(hall: Hall) -> None:
    """Making a link costs nothing; the generation tells of each new connection, which voids proofs."""
    link = hall.new_link("lazy")
    assert (link.generation, link.address) == (0, None)
    link.call("PING")
    link.call("PING")
    assert link.generation == 1
    assert hall.settings.redis.url == f"redis://{link.address}/0"
    link.close()
    link.call("PING")
    assert link.generation == 2


def test_a_killed_connection_is_told_and_not_hidden(hall: Hall) -> None:
    """Nothing is repeated behind the caller's back: the call fails in doubt, and the next one works."""
    link = hall.new_link("victim")
    link.call("PING")
    assert kill_clients(hall.link, "tocsin-victim") == 1
    with pytest.raises(Unreachable) as caught:
        link.call("INCR", hall.station.meta)
    assert caught.value.sent
    assert link.call("PING") == b"PONG"
    assert link.generation == 2


def test_a_server_that_is_not_there_got_nothing() -> None:
    """A refused connection tells that nothing was sent, and where it was tried."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    link = connect(RedisSection(url=f"redis://127.0.0.1:{port}/0"), "test")
    with pytest.raises(Unreachable, match=str(port)) as caught:
        link.call("PING")
    assert not caught.value.sent
    assert caught.value.dependency == "redis"


def test_without_a_server_configured_that_is_said() -> None:
    """Settings that name no server are told as such."""
    with pytest.raises(Unreachable, match=r"redis\.url, \.sentinels or \.cluster"):
        connect(RedisSection(), "test").call("PING")


def test_a_wrong_password_is_unreachable(valkey_server: RedisSection) -> None:
    """The reason is the server's own; the password is not in it."""
    link = connect(RedisSection(url=valkey_server.url, password="wrong one"), "test")
    with pytest.raises(Unreachable, match=r"(?i)password|auth") as caught:
        link.call("PING")
    assert "wrong one" not in str(caught.value)
    assert not caught.value.sent


def test_a_silent_server_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that takes the connection and says nothing does not hang its client."""
    monkeypatch.setattr("streams.connection.CONNECT_TIMEOUT", 0.2)
    monkeypatch.setattr("streams.connection.REPLY_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        link = connect(RedisSection(url=f"redis://127.0.0.1:{silent.getsockname()[1]}/0"), "test")
        began = time.monotonic()
        with pytest.raises(Unreachable):
            link.call("PING")
        assert time.monotonic() - began < 2


def test_a_blocking_call_may_block_for_its_time(hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    """The patience for a reply begins where the time that the command blocks by itself ends."""
    monkeypatch.setattr("streams.connection.REPLY_TIMEOUT", 0.2)
    link = hall.new_link()
    wait = ("XREAD", "BLOCK", 400, "STREAMS", hall.keys.events, "0")
    assert link.call(*wait, timeout=0.4) is None
    with pytest.raises(Unreachable) as caught:
        link.call(*wait)
    assert caught.value.sent


def test_a_demoted_server_is_left(harmed: Link) -> None:
    """READONLY had no effect; the link is closed, and the next call sees by ROLE that this is no primary."""
    harmed.call("SET", "a", "1")
    harmed.call("REPLICAOF", "127.0.0.1", "1")
    with pytest.raises(Unreachable, match="read only") as caught:
        harmed.call("SET", "a", "2")
    assert not caught.value.sent
    with pytest.raises(Unreachable, match="no primary now") as caught:
        harmed.call("SET", "a", "2")
    assert not caught.value.sent


def test_a_demotion_in_the_middle_of_a_batch_leaves_doubt(harmed: Link, hall: Hall) -> None:
    """A WAIT cut short by UNBLOCKED stands behind a write that took place: it may have been executed."""
    harmed.call("PING")
    other = connect(harmed._redis, "other")
    caught: list[Unreachable] = []

    def write_and_wait() -> None:
        try:
            harmed.batch([("SET", "a", "1"), ("WAIT", 1, 5000)], timeout=5)
        except Unreachable as error:
            caught.append(error)

    waiting = threading.Thread(target=write_and_wait)
    waiting.start()
    while b"blocked_clients:1" not in other.call("INFO", "clients"):
        time.sleep(0.01)
    other.call("REPLICAOF", "127.0.0.1", "1")
    waiting.join(10)
    other.close()
    assert [error.sent for error in caught] == [True]
    assert "UNBLOCKED" in caught[0].detail


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [("maxmemory", "1", "maxmemory"), ("min-replicas-to-write", "1", "NOREPLICAS")],
)
def test_a_server_that_takes_no_writes_now_is_unreachable(
    harmed: Link, setting: str, value: str, said: str
) -> None:
    """A full server, or one without its replicas, did nothing; it is written to again when it can be."""
    harmed.call("CONFIG", "SET", setting, value)
    with pytest.raises(Unreachable, match=said) as caught:
        harmed.call("SET", "a", "1")
    assert not caught.value.sent
    harmed.call("CONFIG", "SET", setting, "0")
    assert harmed.call("SET", "a", "1") == b"OK"


def test_a_full_server_refuses_a_function_before_its_first_write(harmed: Link) -> None:
    """Functions fail as a whole where there is no room: nothing of them is left."""
    source = "#!lua name=t\nredis.register_function('t', function(keys) redis.call('SET', keys[1], 1) end)"
    harmed.call("FUNCTION", "LOAD", source)
    harmed.call("CONFIG", "SET", "maxmemory", "1")
    with pytest.raises(Unreachable) as caught:
        harmed.call("FCALL", "t", 1, "a")
    assert not caught.value.sent
    assert harmed.call("EXISTS", "a") == 0
