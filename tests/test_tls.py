"""TLS to Redis and Sentinel: verified always; nothing is said in the clear, nor to whom cannot be trusted."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from pathlib import Path

import msgspec
import pytest

from control.checks.redis import redis as checked
from control.checks.sentinels import sentinels
from control.guard.beside import Guard
from streams.connection import Unreachable, connect
from streams.sentinel import primary_address
from streams.settings import RedisSection, load
from streams.tail import Tail
from streams.tls import _context, context, verified
from tests.fix_servers import eventually
from tests.fix_streams import Hall, Scripted, insist, working
from tests.fix_tls import Sealed, asked


def refused(redis: RedisSection) -> Unreachable:
    """Why a link to there does not come about."""
    link = connect(redis, "test")
    try:
        with pytest.raises(Unreachable) as error:
            link.call("PING")
    finally:
        link.close()
    assert not error.value.sent
    return error.value


def test_a_command_all_the_way_round(sealed: Sealed, tmp_path: Path) -> None:
    """Found through the Sentinel, submitted, executed, replicated, answered, followed: all over TLS."""
    hall = Hall(sealed.redis, tmp_path)
    assert hall.settings.durability == "replica"
    handler = Scripted()
    with working(hall, handler):
        answer = hall.submitter().submit(hall.command())
    assert answer.outcome == "completed"
    assert len(handler.executed) == 1
    tail = Tail(hall.new_link("tail"), hall.keys)
    assert "command.completed" in [logged.event.type for logged in tail.read()]
    hall.close()


def test_a_plaintext_client_is_refused(sealed: Sealed) -> None:
    """Neither a link without TLS nor raw bytes get an answer in the clear, at the server or the Sentinel."""
    plain = msgspec.structs.replace(
        sealed.alone(), url=f"redis://127.0.0.1:{primary_address(sealed.redis).port}/0"
    )
    refused(plain)
    refused(msgspec.structs.replace(sealed.redis, tls=False))
    for port in sealed.ports.values():
        with socket.create_connection(("127.0.0.1", port), 5) as connection:
            connection.sendall(b"PING\r\n")
            said = b""
            with contextlib.suppress(ConnectionResetError):
                said = connection.recv(100)
            assert not said.startswith((b"+", b"-"))


def test_a_certificate_of_another_authority_is_refused(sealed: Sealed) -> None:
    """Before any password is sent, and the message says what to compare."""
    stranger = str(sealed.other.file)
    error = refused(msgspec.structs.replace(sealed.alone(), ca_file=stranger))
    assert "certificate verify failed" in error.detail
    assert error.fault is not None
    assert "redis.ca_file" in error.fault.next
    refused(msgspec.structs.replace(sealed.redis, ca_file=stranger))
    # The machine's own authorities know nothing of it either.
    refused(msgspec.structs.replace(sealed.alone(), ca_file=""))


def test_the_machines_own_authorities_do_not_count_beside_ours(
    sealed: Sealed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the settings name one, a server that only the others vouch for is refused."""
    monkeypatch.setenv("SSL_CERT_FILE", str(sealed.authority.file))
    _context.cache_clear()
    assert connect(msgspec.structs.replace(sealed.alone(), ca_file=""), "test").call("PING") == b"PONG"
    refused(msgspec.structs.replace(sealed.alone(), ca_file=str(sealed.other.file)))
    _context.cache_clear()


def test_a_connection_is_verified_by_what_was_read_once_and_again_when_it_changed(
    sealed: Sealed, tmp_path: Path
) -> None:
    """Reading the authorities takes far longer than a handshake; a file that was replaced counts at once."""
    own = tmp_path / "ca.pem"
    own.write_bytes(sealed.authority.file.read_bytes())
    redis = msgspec.structs.replace(sealed.alone(), ca_file=str(own))
    first = context(redis)
    assert connect(redis, "test").call("PING") == b"PONG"
    assert context(redis) is first
    own.write_bytes(sealed.other.file.read_bytes())
    os.utime(own, ns=(0, own.stat().st_mtime_ns + 1))
    refused(redis)


def test_a_certificate_of_another_host_is_refused(sealed: Sealed) -> None:
    """Signed by the right authority is not enough: it must be for the host that was asked for."""
    elsewhere = f"rediss://localhost:{primary_address(sealed.redis).port}/0"
    error = refused(msgspec.structs.replace(sealed.alone(), url=elsewhere))
    assert "localhost" in error.detail
    assert "certificate" in error.detail


def test_a_server_without_tls_gets_no_password(valkey: RedisSection) -> None:
    """Where TLS is set, a server that answers in the clear is refused."""
    refused(msgspec.structs.replace(valkey, tls=True))


def test_a_server_may_want_our_certificate_too(sealed: Sealed) -> None:
    """With tls-auth-clients only who shows a certificate of the authority comes in."""
    certificate, key = sealed.authority.certify("client")
    stranger = sealed.other.certify("stranger")
    known = msgspec.structs.replace(sealed.alone(), cert_file=str(certificate), key_file=str(key))
    link = connect(known, "test")
    link.call("CONFIG", "SET", "tls-auth-clients", "yes")
    try:
        refused(sealed.alone())
        refused(msgspec.structs.replace(known, cert_file=str(stranger[0]), key_file=str(stranger[1])))
        other = connect(known, "test")
        assert other.call("PING") == b"PONG"
        other.close()
    finally:
        link.call("CONFIG", "SET", "tls-auth-clients", "optional")
        link.close()


def test_a_failover_over_tls(sealed: Sealed, tmp_path: Path) -> None:
    """The Sentinel promotes the replica and says so, and the same submitter goes on there."""
    hall = Hall(msgspec.structs.replace(sealed.redis, replicas=0), tmp_path)
    submitter = hall.submitter()
    with working(hall, Scripted()):
        assert submitter.submit(hall.command()).outcome == "completed"
        before = sealed.fail_over()
        assert insist(submitter, hall.command()).outcome == "completed"
    hall.link.close()
    assert len(hall.results()) == 2
    assert not hall.verdict().fault
    assert hall.link.address != before
    hall.close()
    # The users `sentinel` and `replica` have all that a failover needs.
    assert sealed.refused() == []


def test_the_guard_works_over_tls(sealed: Sealed) -> None:
    """As its user, and encrypted, it asks the Sentinel and shows a replica that is in sync."""
    port = next(sealed.ports[name] for name in ("primary", "replica") if not leads(sealed, name))
    asked(sealed.redis, port, "CONFIG", "SET", "replica-priority", "0")
    peers = [(primary_address(sealed.redis).host, primary_address(sealed.redis).port)]
    stopping = threading.Event()
    guard = Guard(sealed.redis, ("127.0.0.1", port), peers, (), stopping)
    thread = threading.Thread(target=guard.run, name="guard")
    thread.start()
    try:
        shown = [b"replica-priority", b"100"]
        eventually(lambda: asked(sealed.redis, port, "CONFIG", "GET", "replica-priority") == shown, "shown")
    finally:
        stopping.set()
        thread.join()


def leads(sealed: Sealed, name: str) -> bool:
    """Whether the Sentinel names it."""
    return primary_address(sealed.redis).port == sealed.ports[name]


@pytest.mark.parametrize(
    ("url", "as_used"),
    [
        ("postgresql://t@db/t", "postgresql://t@db/t?sslmode=verify-full&sslrootcert=system"),
        ("postgresql://t@127.0.0.1,db:5432/t?x=y", "postgresql://t@127.0.0.1,db:5432/t?x=y&sslmode=verify-full&sslrootcert=system"),
        ("postgresql://t@db/t?sslmode=disable", None),
        ("postgresql://t@db/t?sslmode=verify-full&sslrootcert=/ca", None),
        ("postgresql://t@127.0.0.1:5432/t", None),
        ("postgresql://t@[::1]/t", None),
        ("postgresql://t@localhost/t", None),
        ("postgresql:///t?host=/run/postgresql", None),
        ("", None),
    ],
)  # fmt: skip
def test_postgres_elsewhere_is_verified_unless_told_otherwise(url: str, as_used: str | None) -> None:
    """libpq by itself would take any server and no encryption."""
    assert verified(url, "") == (as_used or url)


def test_the_authority_of_postgres_is_a_setting(tmp_path: Path) -> None:
    """`ca_file` is relative to the settings, as all files are."""
    path = tmp_path / "station.toml"
    path.write_text('[postgres]\nurl = "postgresql://t@db/t"\nca_file = "ca.pem"\n')
    authority = str(tmp_path / "ca.pem").replace("/", "%2F")
    assert load(path, {}).postgres.url == f"postgresql://t@db/t?sslmode=verify-full&sslrootcert={authority}"


def test_the_doctor_says_which_side_to_change(sealed: Sealed) -> None:
    """A plaintext client is told to encrypt, and who knows another authority which setting names it."""
    address = primary_address(sealed.redis)
    plain = RedisSection(url=f"redis://{address}/0", password=sealed.redis.password)
    for section, advice in (
        (plain, "redis.tls = true"),
        (msgspec.structs.replace(sealed.alone(), ca_file=str(sealed.other.file)), "redis.ca_file"),
    ):
        link = connect(section, "doctor")
        found = checked(link, section)
        link.close()
        assert found.verdict == "trouble"
        assert advice in found.next
    mute = sentinels(msgspec.structs.replace(sealed.redis, tls=False))
    assert mute.verdict == "trouble"
