"""The projections' process as `tocsin run projections` starts it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from projections.projection import SOURCES
from projections.schema import migrate
from streams.connection import Unreachable
from streams.settings import PostgresSection
from tests.fix_cli import made_folder
from tests.fix_projections import LANE, Yard, folded
from tests.fix_servers import Trio, eventually


@contextmanager
def process(yard: Yard, folder: Path, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """The process for the yard's servers; killed at the end if the test has not stopped it."""
    station = made_folder(folder, yard.settings.redis, yard.settings.postgres.url)
    variables = {**yard.environment(), "TOCSIN_LOG_FORMAT": "json", **variables}
    command = [
        sys.executable,
        "-m",
        "control.composition",
        "run",
        "projections",
        "--station",
        str(station.path),
    ]
    with (folder / "projections.log").open("ab") as log:
        running = subprocess.Popen(command, env={**os.environ, **variables}, stdout=log, stderr=log)
    try:
        yield running
    finally:
        running.kill()
        running.wait()


def stop(running: subprocess.Popen[bytes], number: int = signal.SIGTERM) -> float:
    """Ask it to stop; its exit must be a clean one. The seconds that it took."""
    began = time.monotonic()
    running.send_signal(number)
    assert running.wait(10) == 0
    return time.monotonic() - began


def has_snapshot(yard: Yard, source: str) -> bool:
    return bool(yard.link.call("EXISTS", yard.keys.source_snapshot(source)))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_in_order_within_three_seconds(yard: Yard, tmp_path: Path, number: int) -> None:
    """At SIGTERM and SIGINT it ends by itself, with exit code 0, and says that it did."""
    yard.scribe().add("mic", running=True)
    with process(yard, tmp_path / "s") as running:
        eventually(lambda: has_snapshot(yard, "mic"), "a snapshot")
        assert stop(running, number) < 3
    assert "projections stopped" in (tmp_path / "s" / "projections.log").read_text()


def test_it_stops_in_time_while_redis_is_frozen(yard: Yard, tmp_path: Path) -> None:
    """Threads that wait for a server which does not answer do not hold the process."""
    yard.scribe().add("mic", running=True)
    with process(yard, tmp_path / "s") as running:
        eventually(lambda: has_snapshot(yard, "mic"), "a snapshot")
        with yard.frozen_redis(5):
            assert stop(running) < 3.5


def test_servers_may_come_later(yard: Yard, tmp_path: Path) -> None:
    """Started before its servers it waits, says so once, and can be stopped meanwhile."""
    nowhere = "postgresql://tocsin@127.0.0.1:1/tocsin"
    with process(yard, tmp_path / "s", TOCSIN_POSTGRES_URL=nowhere) as running:
        log = tmp_path / "s" / "projections.log"
        eventually(lambda: "waiting for a server" in log.read_text(), "a word about it")
        time.sleep(1)  # some more attempts, about which nothing is said
        assert stop(running) < 3
        assert log.read_text().count("waiting for a server") == 1


@pytest.mark.slow
def test_it_follows_a_failover(
    sentinel_trio: Trio, postgres: PostgresSection, yard: Yard, tmp_path: Path
) -> None:
    """With the primary killed it goes on at the next one: rows equal a replay, snapshots are back."""
    settings = msgspec.structs.replace(yard.settings, redis=sentinel_trio.redis, postgres=postgres)
    station = Yard(settings)
    station.prepare()
    migrate(station.engine)
    scribe = station.scribe()
    scribe.add("mic", running=True)
    assert scribe.replicated(2)
    with station.projections():
        eventually(lambda: has_snapshot(station, "mic"), "a snapshot")
        primary = sentinel_trio.primary()
        sentinel_trio.kill(primary)
        sentinel_trio.wait_for_other_primary(primary)
        eventually(lambda: takes_writes(station), "a new primary with a replica")
        scribe = station.scribe(chain=scribe.chain)
        scribe.write("source.failed", "mic", reason="after the failover")
        eventually(lambda: station.rows(SOURCES)["mic"].state == "failed", "the event folded")
        assert station.all_rows() == folded(scribe.chain.events)
        eventually(lambda: fresh_state(station) == "failed", "a fresh snapshot")
    station.close()


def takes_writes(station: Yard) -> bool:
    try:
        station.link.call("DEL", "nothing")
    except Unreachable:
        return False
    return True


def fresh_state(station: Yard) -> str:
    raw = station.link.call("HGET", station.keys.source_snapshot("mic"), "data")
    return str(msgspec.json.decode(raw)["state"]) if raw else ""


def test_the_pulse_keeps_heartbeat_and_confirmation(yard: Yard, tmp_path: Path) -> None:
    """Every five seconds Postgres learns when each lane was last complete and each node last heard."""
    yard.beat()

    def confirmed() -> list[object]:
        lane = f"SELECT max(checked_at) FROM positions WHERE lane = '{LANE}'"
        query = f"{lane} UNION ALL SELECT max(at) FROM heartbeats"
        with yard.engine.connect() as connection:
            return [row[0] for row in connection.exec_driver_sql(query)]

    with yard.projections():
        eventually(lambda: None not in confirmed(), "a first pulse")
        first = confirmed()
        yard.beat()
        eventually(lambda: all(a != b for a, b in zip(confirmed(), first, strict=True)), "the next pulse", 7)
