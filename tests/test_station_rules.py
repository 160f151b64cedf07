"""The decisions of the local station, each a pure function."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import stat
import subprocess
import tomllib
from pathlib import Path

import psycopg
import pytest

from control.station import account, folder, ports
from control.station import postgres as pg
from control.station.account import Account, NoAccount
from control.station.process import end
from streams.names import InvalidName
from streams.settings import load

NOBODY = 65534


def test_settings_are_changed_and_the_operators_own_lines_kept() -> None:
    """A value is replaced in its own section; comments, order and every other line stay."""
    text = '# mine\n[redis]\nsentinels = [\n  "a:1",\n]  # three\nurl = ""\n\n[postgres]\nurl = "x"  # here\n'
    changed = folder.with_value(text, "redis", "sentinels", '["b:2"]')
    changed = folder.with_value(changed, "postgres", "url", '"y"')
    assert changed == (
        '# mine\n[redis]\nsentinels = ["b:2"]  # three\nurl = ""\n\n[postgres]\nurl = "y"  # here\n'
    )
    added = folder.with_value(folder.with_value(changed, "web", "port", "1"), "redis", "replicas", "2")
    assert tomllib.loads(added)["web"] == {"port": 1}
    assert tomllib.loads(added)["redis"] == {"replicas": 2, "sentinels": ["b:2"], "url": ""}


def test_a_folder_is_made_once_and_then_kept(tmp_path: Path) -> None:
    """Secrets and settings are made where they are missing and never again; the id is checked."""
    made = folder.prepare(tmp_path / "deep" / "one", id="north-7")
    secret, key = made.secret("redis-reader.password"), (made.keys / "operator.json").read_bytes()
    assert len(secret) >= 32
    assert stat.S_IMODE(made.path.stat().st_mode) == 0o700
    settings = load(made.settings, {})
    assert settings.station.id == "north-7"
    reader = settings.as_role("reader").redis
    assert (reader.username, reader.password) == ("north-7-reader", secret)
    assert Path(settings.keys.directory) == made.keys
    folder.prepare(made.path)
    assert load(made.settings, {}).station.id == "north-7"
    assert (made.secret("redis-reader.password"), (made.keys / "operator.json").read_bytes()) == (secret, key)
    with pytest.raises(InvalidName):
        folder.prepare(tmp_path / "two", id="Not Valid")
    assert not (tmp_path / "two").exists()


def test_ports_are_kept_unless_taken(tmp_path: Path) -> None:
    """The next start takes the same ports, but for those that another process has taken."""
    made = folder.prepare(tmp_path / "one")
    first = folder.choose_ports(made, 0)
    assert len(set(first.values())) == 8
    assert all(port < ports.highest() for port in first.values())
    with socket.create_server((ports.LOOPBACK, first["redis-2"])):
        second = folder.choose_ports(made, first["web"])
    assert {name for name in first if first[name] != second[name]} == {"redis-2"}


def test_an_operators_own_web_port_is_never_changed(tmp_path: Path) -> None:
    """A web.port that the operator set is kept, and refused where it is taken, also at later starts."""
    made = folder.prepare(tmp_path / "one")
    own = ports.free_port()
    for _ in range(2):
        assert "web" not in folder.choose_ports(made, own)
        with socket.create_server((ports.LOOPBACK, own)), pytest.raises(folder.WebPortTaken):
            folder.choose_ports(made, own)


def test_how_postgres_runs_on_each_machine() -> None:
    """As we are where we may; else in a user namespace; else, as root only, as another account."""
    plain, other = Account(), Account(user=7)
    inside = Account(prefix=("unshare", "--user", "--map-user=7", "--map-group=7"))
    assert account.choose(1000, 7, known=True, namespaces=True) == plain
    assert account.choose(1000, None, known=True, namespaces=False) == plain
    assert account.choose(0, 7, known=True, namespaces=True) == inside
    assert account.choose(4711, 7, known=False, namespaces=True) == inside
    assert account.choose(0, 7, known=True, namespaces=False) == other
    with pytest.raises(NoAccount, match="uid 4711"):
        account.choose(4711, 7, known=False, namespaces=False)
    with pytest.raises(NoAccount, match="no other account"):
        account.choose(0, None, known=True, namespaces=True)


def test_under_which_account_postgres_appears() -> None:
    """One made for such ends, else any but root: initdb needs a uid that has a name."""

    def entry(name: str, uid: int) -> pwd.struct_passwd:
        return pwd.struct_passwd((name, "x", uid, uid, "", "/", "/bin/false"))

    people = [entry("root", 0), entry("toor", 0), entry("eve", 1000)]
    assert account.ordinary_uid(people) == 1000
    assert account.ordinary_uid([*people, entry("nobody", NOBODY)]) == NOBODY
    assert account.ordinary_uid(people[:2]) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change to another account")
@pytest.mark.parametrize("reachable", [True, False])
def test_without_user_namespaces_postgres_runs_as_another_account(tmp_path: Path, reachable: bool) -> None:
    """Its data lie in a folder of that account: the station's, or where that is closed, one elsewhere."""
    base = Path(subprocess.check_output(["mktemp", "-d"], text=True).strip())
    base.chmod(0o755 if reachable else 0o700)
    nobody = Account(user=NOBODY)
    database = pg.Database(base / "postgres", tmp_path / "postgres.log", ports.free_port())
    try:
        pg.create(database, "secret", sync=False, runs_as=nobody)
        assert database.folder.is_symlink() != reachable
        assert stat.S_IMODE(base.stat().st_mode) == (0o755 if reachable else 0o700)
        process, launch = pg.start(database, fsync=False, runs_as=nobody)
        try:
            assert database.data.stat().st_uid == NOBODY
            with psycopg.connect(database.url, password="secret") as connection:
                assert connection.execute("SELECT 1").fetchone() == (1,)
        finally:
            end(process, launch)
    finally:
        shutil.rmtree(database.folder.resolve(), ignore_errors=True)
        shutil.rmtree(base)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change to another account")
def test_programs_that_the_account_cannot_reach_are_copied(tmp_path: Path) -> None:
    """With the environment under /root, the other account runs a copy of PostgreSQL that it can reach."""
    site = tmp_path / "site"
    site.mkdir(mode=0o700)
    package = pg.installed().parent
    shutil.copytree(package, site / package.name, symlinks=True)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.exists():
        shutil.copytree(libraries, site / libraries.name, symlinks=True)
    lent = Path(subprocess.check_output(["mktemp", "-d"], text=True).strip())
    lent.chmod(0o755)
    try:
        program = account.program_folder(site / package.name / "pginstall", lent, NOBODY)
        assert program.is_relative_to(lent)
        for name in ("initdb", "postgres"):
            done = subprocess.run(
                (str(program / "bin" / name), "--version"), user=NOBODY, group=NOBODY, capture_output=True
            )
            assert b"PostgreSQL" in done.stdout, done.stderr
    finally:
        shutil.rmtree(lent)
