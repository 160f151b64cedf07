"""A Postgres that takes encrypted connections only (`hostssl`), as docs/configuration.md says to set it up.

Debian's server: the wheel's is built without TLS.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from control.checks.postgres import postgres as check
from control.station import postgres as pg
from control.station.account import account, lend
from control.station.process import end
from control.station.valkey import write_private
from projections.wire import connect_to
from streams.settings import PostgresSection, load
from tests.fix_servers import PASSWORD, on_free_port
from tests.fix_tls import Authority

ELSEWHERE = "127.0.0.2"
"""An address of this machine that counts as another's: only 127.0.0.1, ::1 and localhost are local."""


def debians() -> Path:
    """The folder of Debian's newest PostgreSQL; the test is skipped where there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("[0-9]*"), key=lambda path: int(path.name))
    if not found:
        pytest.skip("real part missing: postgresql")
    return found[-1]


@dataclass
class Strict:
    """The server, and who signed its certificate."""

    port: int
    authority: Authority
    other: Authority
    folder: Path

    def section(
        self, query: str = "", *, user: str = pg.USER, ca: Authority | None = None
    ) -> PostgresSection:
        """The settings that name it, as a process loads them."""
        path = self.folder / "station.toml"
        url = f"postgresql://{user}@{ELSEWHERE}:{self.port}/postgres{query}"
        path.write_text(f'[postgres]\nurl = "{url}"\nca_file = "{(ca or self.authority).file}"\n')
        return load(path, {"TOCSIN_POSTGRES_PASSWORD": PASSWORD}).postgres


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Strict]:
    """One for a module's tests, which only look at it."""
    folder, program, runs_as = tmp_path_factory.mktemp("strict"), debians(), account()
    authority, other = Authority(folder, "authority"), Authority(folder, "other")
    certificate, key = authority.certify("server", ELSEWHERE)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pg, "installed", lambda: program)

        def start(port: int) -> tuple[int, object, object]:
            place = pg.Database(folder / f"at-{port}", folder / "postgres.log", port)
            if runs_as.user is not None:
                lend(place.folder, runs_as.user)
            place.folder.mkdir(mode=0o700, exist_ok=True)
            secret, own_key = place.folder / "password", place.folder / "server.key"
            write_private(secret, PASSWORD + "\n")
            write_private(own_key, key.read_text())
            (place.folder / "server.pem").write_text(certificate.read_text())
            for path in (secret, own_key, place.folder / "server.pem"):
                if runs_as.user is not None:
                    os.chown(path, runs_as.user, runs_as.user)
            options = ("--auth=scram-sha-256", "--encoding=UTF8", "--no-locale", "--no-sync")
            made = (f"--pgdata={place.data}", f"--username={pg.USER}", f"--pwfile={secret}")
            pg.run(place, runs_as, "initdb", *made, *options)
            (place.data / "pg_hba.conf").write_text(f"hostssl all {pg.USER} 0.0.0.0/0 scram-sha-256\n")
            sealed = {
                "listen_addresses": ELSEWHERE,
                "ssl": "on",
                "ssl_cert_file": str(place.folder.resolve() / "server.pem"),
                "ssl_key_file": str(own_key.resolve()),
                "dynamic_shared_memory_type": "mmap",
            }
            process, launch = pg.start(place, fsync=False, also=sealed)
            return port, process, launch

        port, process, launch = on_free_port(start)
        try:
            yield Strict(port, authority, other, folder)
        finally:
            end(process, launch, hurry=True)  # type: ignore[arg-type]  # a process and its launch


def test_an_encrypted_client_is_served(strict: Strict) -> None:
    """Without a word on sslmode the connection is encrypted, verified and works."""
    wire = connect_to(strict.section(), name="test")
    assert wire.pgconn.ssl_in_use
    assert wire.execute("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").fetchone() == (True,)
    wire.close()
    assert [one.verdict for one in check(strict.section())] == ["ok"]


def test_a_plaintext_client_is_refused(strict: Strict) -> None:
    """Also with the right password: a server of `hostssl` lines alone lets nobody in who does not encrypt."""
    section = strict.section("?sslmode=disable")
    with pytest.raises(psycopg.OperationalError, match="no encryption"):
        connect_to(section, name="test")
    (found,) = check(section)
    assert found.verdict == "trouble"
    assert "postgres.ca_file" in found.next


def test_the_doctor_says_whose_certificate_and_whom_to_let_in(strict: Strict) -> None:
    """Another authority is a matter of ca_file, a user that no line lets in one of pg_hba.conf."""
    (unknown,) = check(strict.section(ca=strict.other))
    assert (unknown.verdict, "postgres.ca_file must name" in unknown.next) == ("trouble", True)
    (stranger,) = check(strict.section(user="stranger"))
    assert (stranger.verdict, "pg_hba.conf" in stranger.next) == ("trouble", True)
    assert all(PASSWORD not in one.told for one in (unknown, stranger))
