"""A server that is asked again and again over one connection: what a guard does twice a second."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from secrets import token_hex

import psutil
import pytest

from control.guard import replication
from control.guard.remote import Remote
from control.station.ask import NoAnswer, Refused
from streams.dial import dial
from streams.settings import RedisSection
from tests.fix_access import running_guarded
from tests.fix_servers import eventually, running_valkey


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisSection]:
    with running_valkey(tmp_path_factory.mktemp("asked")) as redis:
        yield redis


@pytest.fixture
def remote(server: RedisSection) -> Remote:
    return Remote(("127.0.0.1", _port(server)), server, kept=True)


def test_a_server_that_reads_its_data_refuses_and_is_not_silent(tmp_path: Path) -> None:
    """Who decides who leads waits for it: its logs may be the furthest."""
    with running_guarded(tmp_path, "valkey") as guarded:
        for name in range(20):
            guarded.ask("admin", "SET", f"key-{name}", token_hex(2000))
        for setting, value in (("key-load-delay", 100_000), ("loading-process-events-interval-bytes", 1024)):
            guarded.ask("admin", "CONFIG", "SET", setting, value)
        remote = Remote(("127.0.0.1", guarded.port), guarded.redis("admin"), kept=True)
        assert replication.lane_heads(remote) == {}
        reading = dial(
            guarded.redis("admin"), "127.0.0.1", guarded.port, guarded.users.login("admin"),
            connect_timeout=2, reply_timeout=20,
        )  # fmt: skip
        reading.connect()
        reading.send_command("DEBUG", "RELOAD")

        def refused() -> bool:
            try:
                replication.lane_heads(remote)
            except Refused as error:
                return "loading" in str(error)
            return False

        eventually(refused, "it is loading")
        reading.read_response()
        reading.disconnect()


def _port(server: RedisSection) -> int:
    return int(server.url.rsplit(":", 1)[1].split("/")[0])


def test_it_is_asked_over_one_connection_and_over_another_once_that_broke(remote: Remote) -> None:
    """That the server was restarted in between is no answer; the question is put to what runs now."""
    first = remote.call("CLIENT", "ID")
    assert remote.call("CLIENT", "ID") == first
    remote.batch([("CLIENT", "KILL", "ID", first, "SKIPME", "no"), ("PING",)])
    assert remote.call("CLIENT", "ID") != first


def test_what_is_refused_or_late_is_never_taken_for_a_later_answer(
    remote: Remote, server: RedisSection
) -> None:
    """After an error, or no answer in time, the connection is not used again."""
    remote.call("SET", "said", "early")
    with pytest.raises(Refused):
        remote.batch([("NO", "SUCH"), ("GET", "said")])
    assert remote.call("ECHO", "now") == "now"
    (process,) = (
        one
        for one in psutil.process_iter(["cmdline"])
        if f":{_port(server)}" in " ".join(one.info["cmdline"] or ())
    )
    process.suspend()
    try:
        with pytest.raises(NoAnswer):
            remote.call("ECHO", "late")
    finally:
        process.resume()
    assert remote.call("ECHO", "now") == "now"
