"""Which server is the primary: believed from a majority of the Sentinels, and only from one."""

from __future__ import annotations

import socket
import time

import msgspec
import pytest
from redis.connection import Connection

from streams.connection import Unreachable, connect
from streams.sentinel import Address, NoPrimary, Opinion, agreed, ask, chosen, confirmed, primary_address
from streams.settings import RedisSection
from tests.fix_servers import Trio, eventually

OLD, NEW = Address("10.0.0.1", 6379), Address("10.0.0.2", 6379)
THREE = RedisSection(sentinels=("a:1", "b:2", "c:3"))


def opinion(address: Address, epoch: int = 1, *flags: str) -> Opinion:
    return Opinion(address, epoch, frozenset({"master", *flags}))


def test_the_newest_epoch_among_a_majority_is_believed() -> None:
    """A Sentinel that was cut off tells of the past: the highest config-epoch wins."""
    assert chosen([opinion(OLD), opinion(NEW, 2)], THREE) == NEW
    assert chosen([opinion(NEW, 2), opinion(OLD), opinion(OLD, 1, "s_down")], THREE) == NEW


@pytest.mark.parametrize("opinions", [[], [opinion(NEW, 9)]])
def test_less_than_a_majority_is_not_believed(opinions: list[Opinion]) -> None:
    """One of three could be the one that is cut off together with an old primary."""
    with pytest.raises(NoPrimary, match="2 are needed"):
        chosen(opinions, THREE)


@pytest.mark.parametrize("flag", ["s_down", "o_down", "failover_in_progress"])
def test_a_primary_is_confirmed_by_a_majority_that_is_content(flag: str) -> None:
    """Sentinels that are silent, name another one, or see it failing do not confirm."""
    assert agreed([opinion(OLD), opinion(OLD)], THREE, OLD)
    assert agreed([opinion(OLD), opinion(OLD), opinion(NEW, 2)], THREE, OLD)
    assert not agreed([opinion(OLD)], THREE, OLD)
    assert not agreed([opinion(OLD), opinion(NEW), opinion(NEW)], THREE, OLD)
    assert not agreed([opinion(OLD), opinion(OLD, 1, flag)], THREE, OLD)


def test_the_sentinels_name_the_primary(shared_trio: Trio) -> None:
    """All three answer, agree, and see no fault."""
    redis = shared_trio.redis
    primary = Address("127.0.0.1", shared_trio.port(shared_trio.primary()))
    assert [opinion.address for opinion in ask(redis)] == [primary] * 3
    assert primary_address(redis) == primary
    assert confirmed(redis, primary)
    assert not confirmed(redis, Address("127.0.0.1", shared_trio.port(shared_trio.replicas()[0])))


def test_who_asks_again_and_again_makes_no_new_connections(shared_trio: Trio) -> None:
    """Each is asked over the connection that was kept; over a new one where that broke meanwhile."""
    redis, kept = shared_trio.redis, dict[str, Connection]()
    first = ask(redis, kept=kept)
    connections = dict(kept)
    assert len(connections) == 3
    assert len(ask(redis, kept=kept)) == len(first) == 3
    assert kept == connections
    kept[redis.sentinels[0]]._sock.shutdown(socket.SHUT_RDWR)
    assert len(ask(redis, kept=kept)) == 3
    assert {name for name in kept if kept[name] is not connections[name]} == {redis.sentinels[0]}
    for connection in kept.values():
        connection.disconnect()


def test_another_service_or_password_is_nobodys(shared_trio: Trio) -> None:
    """Who asks for what the Sentinels do not watch, or may not ask, is told that none answered."""
    for changes in ({"service": "other"}, {"password": "wrong"}):
        with pytest.raises(NoPrimary, match="0 of 3 Sentinels"):
            primary_address(msgspec.structs.replace(shared_trio.redis, **changes))


def test_silent_sentinels_cost_little_time(shared_trio: Trio) -> None:
    """One that is stopped and one that hangs are asked at the same time; two of four are no majority."""
    with socket.create_server(("127.0.0.1", 0)) as silent, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        dead = tuple(f"127.0.0.1:{one.getsockname()[1]}" for one in (silent, closed))
        redis = shared_trio.redis
        began = time.monotonic()
        assert primary_address(
            msgspec.structs.replace(redis, sentinels=(redis.sentinels[0], *redis.sentinels[1:], *dead))
        )
        with pytest.raises(NoPrimary, match="2 of 4"):
            primary_address(msgspec.structs.replace(redis, sentinels=(*redis.sentinels[:2], *dead)))
        assert time.monotonic() - began < 3


def test_a_link_follows_the_sentinels_to_the_new_primary(sentinel_trio: Trio) -> None:
    """After a failover the next call that fails is the last: the link asks afresh and goes on there.

    Without a majority of Sentinels it says so, and that nothing was sent.
    """
    trio = sentinel_trio
    link = connect(trio.redis, "test")
    link.call("SET", "tocsin:t:meta", "1")
    old = trio.primary()
    trio.kill(old)
    with pytest.raises(Unreachable):
        link.call("SET", "tocsin:t:meta", "2")
    new = trio.wait_for_other_primary(old)

    def works() -> bool:
        try:
            return bool(link.call("PING"))
        except Unreachable:
            return False

    eventually(works, "the link on the new primary")
    assert link.address == Address("127.0.0.1", trio.port(new))
    link.close()
    trio.kill("sentinel-1")
    trio.kill("sentinel-2")
    with pytest.raises(Unreachable, match="1 of 3 Sentinels") as caught:
        link.call("PING")
    assert not caught.value.sent
