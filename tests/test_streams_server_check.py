"""A server whose settings would break a promise is refused, and told what to change."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from redis.exceptions import ResponseError

from streams.connection import Link, connect
from streams.server_check import Server, WrongServer, check_server, describe, faults_of
from streams.settings import RedisSection
from tests.fix_servers import IS_REDIS_7_0, running_valkey

GOOD = Server(product="valkey", version=(9, 0, 0), eviction="noeviction", append_only=True, fsync="everysec")


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisSection]:
    with running_valkey(tmp_path_factory.mktemp("own")) as redis:
        yield redis


@pytest.fixture
def link(own_server: RedisSection) -> Iterator[Link]:
    opened = connect(own_server, "check")
    yield opened
    opened.close()


def test_a_server_set_up_well_is_described(link: Link) -> None:
    """A server of ours passes, and says what it is."""
    server = check_server(link)
    assert server.product == ("redis" if IS_REDIS_7_0 else "valkey")
    assert server.version >= ((7, 0) if IS_REDIS_7_0 else (8, 0))
    assert server.waits_for_disks is not IS_REDIS_7_0


@pytest.mark.parametrize(
    ("setting", "wrong", "right"),
    [
        ("maxmemory-policy", "allkeys-lru", "noeviction"),
        ("appendonly", "no", "yes"),
        ("appendfsync", "no", "everysec"),
    ],
)
def test_a_wrong_setting_is_refused_with_what_to_change(
    link: Link, setting: str, wrong: str, right: str
) -> None:
    """The refusal names the setting, what it is and must be, and the command that changes it."""
    link.call("CONFIG", "SET", setting, wrong)
    try:
        with pytest.raises(WrongServer) as caught:
            check_server(link)
    finally:
        link.call("CONFIG", "SET", setting, right)
    (fault,) = caught.value.faults
    assert (fault.setting, fault.found) == (setting, wrong)
    assert f"CONFIG SET {setting} {right}" in str(caught.value)
    check_server(link)


def test_all_faults_are_told_at_once() -> None:
    """An operator need not start three times to learn of three faults."""
    old = Server(product="redis", version=(6, 2, 14), eviction="volatile-ttl", append_only=False)
    assert [fault.setting for fault in faults_of(old)] == [
        "the version of redis",
        "maxmemory-policy",
        "appendonly",
    ]
    assert faults_of(GOOD) == []


def test_the_oldest_supported_versions() -> None:
    """Redis from 7.0 and Valkey from 8.0 pass; `disk` needs Redis 7.2."""

    def of(product: str, *version: int) -> Server:
        return Server(product=product, version=version, eviction="noeviction", append_only=True)

    assert faults_of(of("redis", 7, 0, 15)) == []
    assert not of("redis", 7, 0, 15).waits_for_disks
    assert of("redis", 7, 2, 0).waits_for_disks
    assert faults_of(of("valkey", 8, 0, 0)) == []
    assert len(faults_of(of("valkey", 7, 2, 5))) == 1


def test_a_server_that_forbids_config_is_judged_by_info(tmp_path: Path) -> None:
    """Managed servers refuse CONFIG; what INFO says is enough, and other errors are not swallowed."""
    with running_valkey(tmp_path) as redis:
        opened = connect(redis, "check")
        try:
            opened.call("ACL", "SETUSER", "default", "-config")
            with pytest.raises(ResponseError, match="no permissions"):
                opened.call("CONFIG", "GET", "appendfsync")
            assert describe(opened).fsync == ""
            check_server(opened)
        finally:
            opened.close()
