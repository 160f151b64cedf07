"""The guard beside each Redis of a deployment, with servers, guards and Sentinels as real processes.

What it does while commands flow is in test_failover_scenarios.py.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from control.guard import replication, rules
from control.guard.beside import Guard
from control.guard.cli import run_guard
from control.guard.hosts import Hosts
from control.station import sentinel, valkey
from control.station.ask import At
from control.station.ports import LOOPBACK, free_port
from control.station.process import Launch, end, signal_group
from streams.connection import address_of
from streams.settings import RedisSection
from tests.fix_access import UsersSentinel
from tests.fix_guard import GuardedTrio, running_guarded_trio
from tests.fix_servers import PASSWORD, eventually, on_free_port

HEAD = "tocsin:t:{p0}:head"
ELSEWHERE = "127.0.1.1"


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The hosts under `.test` that can be looked up, with their numbers: none at first."""
    known: dict[str, str] = {}
    look_up = socket.getaddrinfo

    def among_these(host: Any, *rest: Any, **more: Any) -> Any:
        if isinstance(host, str) and host.endswith(".test"):
            if host not in known:
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            host = known[host]
        return look_up(host, *rest, **more)

    monkeypatch.setattr("socket.getaddrinfo", among_these)
    return known


@pytest.fixture
def trio(guarded_trio: GuardedTrio) -> Iterator[GuardedTrio]:
    """The module's trio, whole before and after the test."""
    guarded_trio.wait_until_led()
    yield guarded_trio
    guarded_trio.switch_on()
    guarded_trio.wait_until_led()


def wrote(trio: GuardedTrio, seq: int, copies: int = 2) -> None:
    """The lane's head moves to `seq` on the primary, and so many replicas have it on their disks."""
    trio.ask(trio.primary(), "HSET", HEAD, "seq", seq)
    for name in trio.NAMES if copies == 2 else ():
        eventually(lambda name=name: head(trio, name) == seq, f"{name} has it")  # type: ignore[misc]


def head(trio: GuardedTrio, name: str) -> int:
    return int(str(trio.ask(name, "HGET", HEAD, "seq") or 0))


def on_disk(trio: GuardedTrio, name: str) -> int:
    """How long the named server's log of writes is once all is written."""
    asked = trio.ask(name, "INFO", "persistence")
    assert "aof_enabled:1" in str(asked)
    eventually(lambda: "aof_pending_bio_fsync:0" in str(trio.ask(name, "INFO", "persistence")), "on disk")
    return trio.aof(name).stat().st_size


def test_on_a_cold_start_the_furthest_leads_though_another_led_last(trio: GuardedTrio) -> None:
    """All were off, and the last primary's disk is behind: what the others have is not overwritten."""
    last = trio.primary()
    wrote(trio, 11)
    short = on_disk(trio, last)
    wrote(trio, 12)
    for name in trio.NAMES:
        on_disk(trio, name)
    path = trio.aof(last)
    trio.switch_off()
    os.truncate(path, short)
    trio.switch_on()
    led = trio.wait_until_led()
    assert led != last
    assert {name: head(trio, name) for name in trio.NAMES} == dict.fromkeys(trio.NAMES, 12)
    assert "makes way for a server that is further" in trio.guarded_log(last)


def test_a_primary_whose_replicas_no_sentinel_knows_is_led_again(trio: GuardedTrio) -> None:
    """As in the first seconds of a deployment: they learn of them from the primary alone, which is gone."""
    old = trio.primary()
    trio.crash(old)
    trio.tell_sentinels("RESET", sentinel.SERVICE)
    assert trio.wait_until_led() == old
    trio.wait_until_whole()


def test_it_ends_its_server_in_order_when_it_is_asked_to_end(trio: GuardedTrio) -> None:
    """SIGTERM to the guard, as when a container stops, leaves no server behind."""
    name = trio.replicas()[0]
    server = trio.server_process(name)
    guard, _ = trio._running[name]
    guard.send_signal(signal.SIGTERM)
    assert guard.wait(20) == 0
    assert not server.is_running()
    assert "bye bye" in trio.guarded_log(name)
    del trio._running[name]


def test_it_guards_a_server_that_it_did_not_start(trio: GuardedTrio) -> None:
    """A guard that was killed is started again beside its running server: that goes on."""
    name = trio.replicas()[0]
    server = trio.server_process(name)
    guard, _ = trio._running.pop(name)
    guard.kill()
    guard.wait()
    trio.ask(name, "CONFIG", "SET", "replica-priority", 0)
    trio.start_guard(name)
    eventually(lambda: (one := trio.standing(name)) and one.priority == rules.PROMOTABLE, "guarded again")
    assert server.is_running()
    assert not trio.runs(name)
    signal_group(guard, signal.SIGKILL)
    eventually(lambda: trio.runs(name), "started by its guard when it ended")


@pytest.mark.parametrize("gone", [LOOPBACK, "redis-1.test"])
def test_when_the_primarys_host_stays_off_the_furthest_of_the_others_is_offered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: dict[str, str], gone: str
) -> None:
    """After a cold start without it both others are hidden: one of them must be let to lead, in the end.

    Also where its name went with it, so that nobody can tell whom the Sentinels mean.
    """
    monkeypatch.setattr("control.guard.rules.LATE", 1.0)
    with running_guarded_trio(tmp_path) as trio, ExitStack() as stack:
        last, behind, ahead = "redis-1", "redis-2", "redis-3"
        wrote(trio, 5)
        short = on_disk(trio, behind)
        wrote(trio, 6)
        for name in trio.NAMES:
            on_disk(trio, name)
        path = trio.aof(behind)
        trio.switch_off()
        os.truncate(path, short)
        stopping = threading.Event()
        stack.callback(stopping.set)
        for name in (behind, ahead):
            others = [other for other in trio.NAMES if other != name]
            peers = [(gone if other == last else LOOPBACK, trio.port(other)) for other in others]
            argv = valkey.launch(trio._servers[name], trio.password, replicas=2).argv
            guard = Guard(trio.redis, (LOOPBACK, trio.port(name)), peers, argv, stopping)
            thread = threading.Thread(target=guard.run, name=f"guard-{name}")
            thread.start()
            stack.callback(thread.join)
        stack.callback(stopping.set)
        for name in trio.SENTINELS:
            trio.restart(name)
        assert trio.wait_for_other_primary(last) == ahead
        eventually(lambda: head(trio, behind) == 6, "the other follows it")


@pytest.fixture
def one_primary(tmp_path: Path) -> Iterator[RedisSection]:
    """A primary with two addresses, and the one Sentinel that there is, which names it by the first."""
    with ExitStack() as stack:

        def start(port: int, launch: Launch) -> None:
            process = valkey.start(launch, port, PASSWORD)
            stack.callback(end, process, launch, hurry=True)

        def server(port: int, name: str) -> valkey.Server:
            return valkey.Server(name, tmp_path / name, tmp_path / f"{name}.log", port)

        def start_primary(port: int) -> int:
            launch = valkey.launch(server(port, "redis"), PASSWORD)
            start(port, replace(launch, argv=(*launch.argv, "--bind", LOOPBACK, ELSEWHERE)))
            return port

        def start_sentinel(port: int) -> int:
            start(port, sentinel.launch(server(port, "sentinel"), PASSWORD, primary))
            return port

        primary = on_free_port(start_primary)
        asked = on_free_port(start_sentinel)
        yield RedisSection(
            sentinels=(f"{LOOPBACK}:{asked}",), url=f"redis://{ELSEWHERE}:{primary}/0", password=PASSWORD
        )


def test_a_primary_that_is_named_by_another_address_is_left_alone(
    one_primary: RedisSection, capfd: pytest.CaptureFixture[str]
) -> None:
    """With a wrong --server the guard must not take the primary for a second one: it says what is wrong."""
    host, port = address_of(one_primary.url)
    redis = msgspec.structs.replace(one_primary, url="")
    stopping = threading.Event()
    thread = threading.Thread(target=Guard(redis, (host, port), [], (), stopping).run, name="guard")
    thread.start()
    said = ""
    try:
        while "set --server so" not in said:
            assert thread.is_alive()
            said += "".join(capfd.readouterr())
    finally:
        stopping.set()
        thread.join()
    found = replication.standing(At(port, PASSWORD))
    assert found is not None
    assert (found.role, found.priority) == ("master", rules.PROMOTABLE)


def test_a_guard_whose_own_name_is_not_known_yet_waits_for_it(
    one_primary: RedisSection, names: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    """The Sentinels may mean its own server: it is not started as a replica of itself, and guarded later."""
    _, port = address_of(one_primary.url)
    redis = msgspec.structs.replace(one_primary, url="")
    primary, stopping = At(port, PASSWORD), threading.Event()
    replication.set_priority(primary, rules.HIDDEN)
    guard = Guard(redis, ("redis-1.test", port), [], ("no-such-server",), stopping)
    thread = threading.Thread(target=guard.run, name="guard")
    thread.start()
    said = ""
    try:
        while "its own name cannot be looked up" not in said:
            assert thread.is_alive()
            said += "".join(capfd.readouterr())
        names["redis-1.test"] = LOOPBACK
        eventually(
            lambda: (one := replication.standing(primary)) and one.priority == rules.PROMOTABLE, "guarded"
        )
    finally:
        stopping.set()
        thread.join()


def test_it_starts_a_server_as_its_user_and_by_names(
    users_sentinel: UsersSentinel, names: dict[str, str], tmp_path: Path
) -> None:
    """With a user per role, and hosts named in the settings: the server follows, and may be promoted then."""
    for host in ("redis-1.test", "redis-2.test", "sentinel-1.test"):
        names[host] = LOOPBACK
    user, password = users_sentinel.server.users.login("admin")
    redis = RedisSection(
        sentinels=(f"sentinel-1.test:{users_sentinel.port}",), replicas=1, username=user, password=password
    )
    server = valkey.Server("redis-2", tmp_path / "redis-2", tmp_path / "redis-2.log", free_port())
    argv = valkey.launch(server, users_sentinel.server.users).argv
    stopping = threading.Event()
    peers = [("redis-1.test", users_sentinel.server.port)]
    guard = Guard(redis, ("redis-2.test", server.port), peers, argv, stopping)
    thread = threading.Thread(target=guard.run, name="guard")
    thread.start()
    replica = At(server.port, (user, password))
    try:
        eventually(
            lambda: (
                (one := replication.standing(replica)) and one.linked and one.priority == rules.PROMOTABLE
            ),
            "a replica in sync that may be promoted",
        )
        assert replication.attached(At(users_sentinel.server.port, (user, password))) == 1
    finally:
        stopping.set()
        thread.join()
    assert replication.standing(replica) is None


def test_a_host_is_known_by_its_latest_number(names: dict[str, str]) -> None:
    """It may come up late, come back under another number, or take its name along when it goes."""
    hosts, asked = Hosts(), ("redis-1.test", 6379)
    assert hosts.numbered(asked) == asked
    names["redis-1.test"] = "10.0.0.1"
    assert hosts.numbered(asked) == asked, "within one look nothing changes"
    seen = []
    for now in ("10.0.0.1", "10.0.0.2", None):
        if now is None:
            del names["redis-1.test"]
        else:
            names["redis-1.test"] = now
        hosts.look_again()
        seen.append(hosts.numbered(asked))
    assert seen == [("10.0.0.1", 6379), ("10.0.0.2", 6379), ("10.0.0.2", 6379)]


@pytest.mark.parametrize(
    ("settings", "arguments", "wrong"),
    [
        ({}, ["--server", "a:1"], "redis.sentinels"),
        (
            {"TOCSIN_REDIS_SENTINELS": "a:2"},
            ["--server", "a:1", "--peer", "b:1", "--", "x"],
            "redis.replicas",
        ),
        ({}, ["--server", "a:70000"], "not like HOST:PORT"),
    ],
)
def test_a_guard_that_cannot_work_says_why(
    settings: dict[str, str], arguments: list[str], wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It needs the Sentinels, and all other servers where it is to start its own."""
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    result = CliRunner().invoke(run_guard, arguments)
    assert result.exit_code != 0
    assert wrong in f"{result.output} {result.exception}"
