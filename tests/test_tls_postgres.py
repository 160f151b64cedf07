"""TLS to Postgres: verified by default wherever it is not on this machine.

The wheel's server is built without TLS. So a terminator stands before it, as managed databases have
one: it speaks the server's part of the negotiation and real TLS, and hands the rest to the server.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from projections.wire import connect_to
from streams.settings import PostgresSection, load
from tests.fix_tls import Authority

ELSEWHERE = "127.0.0.2"
"""An address of this machine that counts as another's: only 127.0.0.1, ::1 and localhost are local."""
SSL_REQUEST = 80877103


class Terminator:
    """Takes connections to ELSEWHERE for the real server; without a certificate it has no TLS."""

    def __init__(self, server: tuple[str, int], certificate: tuple[Path, Path] | None) -> None:
        self._server = server
        self._context: ssl.SSLContext | None = None
        if certificate is not None:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(*certificate)
        self._listener = socket.create_server((ELSEWHERE, 0))
        self.port: int = self._listener.getsockname()[1]
        self.in_the_clear = b""
        """What clients sent before, or without, encryption."""
        self._threads = [threading.Thread(target=self._accept, name="terminator")]
        self._threads[0].start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._start(self._serve, client)

    def _start(self, *call: object) -> None:
        self._threads.append(threading.Thread(target=call[0], args=call[1:], name="terminator"))  # type: ignore[arg-type]
        self._threads[-1].start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client:
            while client.recv(8) != struct.pack("!II", 8, SSL_REQUEST):
                client.sendall(b"N")  # asked for Kerberos first
            client.sendall(b"S" if self._context else b"N")
            if self._context is None:
                self.in_the_clear += client.recv(4096)
                return
            with self._context.wrap_socket(client, server_side=True) as sealed:
                self._carry_all(sealed)

    def _carry_all(self, sealed: ssl.SSLSocket) -> None:
        with socket.create_connection(self._server) as server:
            back = threading.Thread(target=self._carry, args=(server, sealed), name="terminator")
            back.start()
            self._carry(sealed, server)
            back.join(10)

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while chunk := source.recv(65536):
                target.sendall(chunk)
        with contextlib.suppress(OSError):
            socket.socket.shutdown(target, socket.SHUT_RDWR)


class Place:
    """The real server behind terminators, each as `station.toml` would name it."""

    def __init__(self, server: PostgresSection, folder: Path) -> None:
        self._server = server
        self._folder = folder
        self.authority, self.other = Authority(folder, "authority"), Authority(folder, "other")
        self._open: list[Terminator] = []

    def behind(self, certificate: tuple[Path, Path] | None, query: str = "") -> PostgresSection:
        """The settings by which the server is reached through a terminator, as a process loads them."""
        parts = urlsplit(self._server.url)
        made = Terminator((parts.hostname or "", parts.port or 0), certificate)
        self._open.append(made)
        path = self._folder / "station.toml"
        url = f"postgresql://{parts.username}@{ELSEWHERE}:{made.port}{parts.path}{query}"
        path.write_text(f'[postgres]\nurl = "{url}"\nca_file = "{self.authority.file.name}"\n')
        return load(path, {"TOCSIN_POSTGRES_PASSWORD": self._server.password}).postgres

    @property
    def in_the_clear(self) -> bytes:
        return b"".join(one.in_the_clear for one in self._open)

    def close(self) -> None:
        for one in self._open:
            one.close()


@pytest.fixture
def place(postgres: PostgresSection, tmp_path: Path) -> Iterator[Place]:
    """A database of its own on the shared server."""
    made = Place(postgres, tmp_path)
    yield made
    made.close()


def refused(postgres: PostgresSection) -> str:
    """Why no connection comes about."""
    with pytest.raises(psycopg.OperationalError) as error:
        connect_to(postgres, name="test")
    return str(error.value)


def test_a_server_with_the_right_certificate_is_used(place: Place) -> None:
    """Without a word on sslmode the connection is encrypted and verified, and works."""
    wire = connect_to(place.behind(place.authority.certify("here", ELSEWHERE)), name="test")
    with wire.cursor() as cursor:
        assert cursor.execute("SELECT repeat('x', 100000)").fetchone() == ("x" * 100000,)
    assert wire.pgconn.ssl_in_use
    wire.close()


def test_another_authority_is_refused(place: Place) -> None:
    """A certificate that anybody could have made is none."""
    assert "certificate verify failed" in refused(place.behind(place.other.certify("here", ELSEWHERE)))


def test_another_host_is_refused(place: Place) -> None:
    """The right authority's word for another host is not for this one."""
    said = refused(place.behind(place.authority.certify("there", "127.0.0.1")))
    assert "does not match" in said


def test_a_server_without_tls_is_refused_before_anything_is_said(place: Place) -> None:
    """libpq's default would go on in the clear; nothing is sent here, not even the user's name."""
    assert "server does not support SSL" in refused(place.behind(None))
    assert place.in_the_clear == b""
