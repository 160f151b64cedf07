"""The starters: each server from its wheel, set up as CONTRACT says."""

from __future__ import annotations

import stat
from pathlib import Path

import psycopg
import pytest

from control.station import postgres as pg
from control.station import sentinel, valkey
from control.station.ask import Refused, ask
from control.station.ports import free_port
from control.station.process import PortTaken, StartFailed, end
from streams.settings import PostgresSection, RedisSection
from tests.fix_servers import Trio, eventually


def port_of(redis: RedisSection) -> int:
    return int(redis.url.split(":")[2].split("/")[0])


def setting(port: int, password: str, name: str) -> str:
    return str(ask(port, password, "CONFIG", "GET", name)[1])


def test_valkey_keeps_everything_and_asks_for_a_password(valkey: RedisSection) -> None:
    """A server is started with noeviction and an append-only file, and wants its password."""
    port, password = port_of(valkey), valkey.password
    assert setting(port, password, "maxmemory-policy") == "noeviction"
    assert setting(port, password, "appendonly") == "yes"
    assert setting(port, password, "appendfsync") == "everysec"
    assert setting(port, password, "bind") == "127.0.0.1"
    with pytest.raises(Refused, match="NOAUTH"):
        ask(port, "", "PING")


def test_the_password_is_neither_on_the_command_line_nor_readable_by_others(tmp_path: Path) -> None:
    """The password stands only in a file of mode 0600 in a folder of mode 0700."""
    server = valkey.Server("one", tmp_path / "deep" / "one", tmp_path / "one.log", 1)
    launch = valkey.launch(server, "s3cret-word")
    (path,) = server.folder.iterdir()
    assert "s3cret-word" in path.read_text()
    assert not any("s3cret-word" in word for word in launch.argv)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(server.folder.stat().st_mode) == 0o700


def test_a_taken_port_is_told_from_other_faults(tmp_path: Path, valkey_server: RedisSection) -> None:
    """A server whose port another one holds fails with PortTaken, one with a bad setting with StartFailed."""
    taken = port_of(valkey_server)
    server = valkey.Server("second", tmp_path / "second", tmp_path / "second.log", taken)
    launch = valkey.launch(server, "another password")
    with pytest.raises(PortTaken, match="second did not start"):
        valkey.start(launch, taken, "another password")
    path = server.folder / "valkey.conf"
    path.write_text(path.read_text() + "no-such-setting 1\n")
    with pytest.raises(StartFailed, match=r"no-such-setting|Bad directive") as caught:
        valkey.start(launch, taken, "another password")
    assert not isinstance(caught.value, PortTaken)


def test_postgres_asks_for_the_password_by_scram(postgres: PostgresSection) -> None:
    """A test's database is empty, takes the password, refuses a wrong one and opens no Unix socket."""
    with psycopg.connect(postgres.url, password=postgres.password) as connection:

        def show(name: str) -> object:
            row = connection.execute(f"SHOW {name}").fetchone()
            return row[0] if row else None

        assert show("synchronous_commit") == "on"
        assert show("unix_socket_directories") == ""
        assert show("listen_addresses") == "127.0.0.1"
        tables = connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone()
        assert tables == (0,)
        rules = connection.execute("SELECT DISTINCT auth_method FROM pg_hba_file_rules").fetchall()
        assert rules == [("scram-sha-256",)]
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(postgres.url, password="wrong")


def test_postgres_starts_with_fsync_and_in_a_folder_closed_to_others(tmp_path: Path) -> None:
    """Outside tests PostgreSQL syncs to disk, works in a 0700 folder, and its modes are left alone."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    database = pg.Database(closed / "postgres", tmp_path / "postgres.log", free_port())
    pg.create(database, "secret")
    process, launch = pg.start(database)
    try:
        with psycopg.connect(database.url, password="secret") as connection:
            row = connection.execute("SELECT current_setting('fsync'), current_user, lower('ÄÖ')").fetchone()
        assert row == ("on", "tocsin", "äö")
        assert stat.S_IMODE(closed.stat().st_mode) == 0o700
        assert not list(closed.rglob("password*"))
        other = pg.Database(tmp_path / "other", tmp_path / "other.log", database.port)
        pg.create(other, "secret", sync=False)
        with pytest.raises(PortTaken):
            pg.start(other)
    finally:
        end(process, launch)
    assert process.returncode == 0


def test_postgres_creation_cut_short_is_begun_afresh(tmp_path: Path) -> None:
    """Half a data folder, left by a creation that was killed, is no obstacle."""
    database = pg.Database(tmp_path / "postgres", tmp_path / "postgres.log", free_port())
    half = database.folder / "data.new"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18\n")
    pg.create(database, "secret", sync=False)
    assert (database.data / "postgresql.conf").exists()
    assert not half.exists()


def test_trio_is_whole_and_set_up(sentinel_trio: Trio) -> None:
    """Primary, replicas and Sentinels carry CONTRACT's numbers and ask for the password."""
    trio = sentinel_trio
    assert trio.primary() == "redis-1"
    for name in trio.NAMES:
        port = trio.port(name)
        assert setting(port, trio.password, "min-replicas-to-write") == "1"
        assert setting(port, trio.password, "min-replicas-max-lag") == "3"
        assert setting(port, trio.password, "repl-diskless-sync-delay") == "0"
    for name in trio.SENTINELS:
        flat = trio.ask(name, "SENTINEL", "MASTER", "tocsin")
        assert isinstance(flat, list)
        facts = dict(zip(flat[::2], flat[1::2], strict=True))
        patience = "2500" if name == "sentinel-3" else "2000"
        assert (facts["quorum"], facts["down-after-milliseconds"]) == ("2", patience)
        assert facts["failover-timeout"] == "10000"
        with pytest.raises(Refused, match="NOAUTH"):
            ask(trio.port(name), "", "PING")


def test_trio_fails_over_and_takes_the_killed_primary_back_as_a_replica(sentinel_trio: Trio) -> None:
    """The Sentinels replace a killed primary; restarted, it follows the new one and has its data."""
    trio = sentinel_trio
    trio.ask("redis-1", "SET", "before", "1")
    trio.kill("redis-1")
    new = trio.wait_for_other_primary("redis-1")
    assert trio.ask(new, "GET", "before") == "1"
    trio.restart("redis-1")
    trio.wait_until_whole()
    assert trio.primary() == new
    trio.ask(new, "SET", "after", "2")
    eventually(lambda: trio.ask("redis-1", "GET", "after") == "2", "the write on the old primary")


def test_majority_needs_more_than_half_of_all_sentinels() -> None:
    """Sentinels that do not answer count against a majority."""
    assert sentinel.majority([1, 1, None]) == 1
    assert sentinel.majority([1, 2, None]) is None
    assert sentinel.majority([1, None, None]) is None
    assert sentinel.majority([None, None, None]) is None
    assert sentinel.majority([]) is None
