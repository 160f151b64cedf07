"""Debian's redis-server with TLS and users: a primary, a replica and a Sentinel; nothing in the clear."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from redis.exceptions import RedisError, ResponseError

from control.station import sentinel, valkey
from control.station.ports import LOOPBACK, free_port
from control.station.process import Launch, Process, end, log_size, spawn, wait_until
from streams.connection import open_connection
from streams.sentinel import Address, primary_address
from streams.settings import RedisSection
from tests.fix_access import redis_server, users
from tests.fix_servers import eventually


class Authority:
    """A certificate authority that signs for hosts."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        made = self._certificate(self._name, self._key.public_key())
        made = made.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(self._signed(made))

    def certify(self, name: str, address: str | None = None) -> tuple[Path, Path]:
        """A certificate for the host `name`, or for the `address` alone, and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        host = x509.IPAddress(ipaddress.ip_address(address)) if address else x509.DNSName(name)
        made = self._certificate(subject, key.public_key())
        made = made.add_extension(x509.SubjectAlternativeName([host]), critical=False)
        paths = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        paths[0].write_bytes(self._signed(made))
        paths[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        paths[1].chmod(0o600)
        return paths

    def _certificate(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        today = datetime.now(UTC)
        made = x509.CertificateBuilder().subject_name(subject).issuer_name(self._name).public_key(key)
        made = made.serial_number(x509.random_serial_number()).not_valid_before(today - timedelta(days=1))
        return made.not_valid_after(today + timedelta(days=2))

    def _signed(self, made: x509.CertificateBuilder) -> bytes:
        return made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@dataclass
class Sealed:
    """The three servers; their certificates are for 127.0.0.1 and for no name."""

    redis: RedisSection
    ports: dict[str, int]
    authority: Authority
    other: Authority

    def alone(self) -> RedisSection:
        """The primary by its address."""
        return RedisSection(
            url=f"rediss://{primary_address(self.redis)}/0",
            username=self.redis.username,
            password=self.redis.password,
            ca_file=str(self.authority.file),
        )

    def fail_over(self) -> Address:
        """Have the Sentinel make the replica the primary; returns who led, once that one follows."""
        before = primary_address(self.redis)
        eventually(self._promotes, "a replica that the Sentinel may promote")
        eventually(lambda: primary_address(self.redis) != before, "another leads")
        # The Sentinel would do so as well, once it has seen a second primary for eight seconds.
        after = primary_address(self.redis)
        asked(self.redis, before.port, "REPLICAOF", after.host, str(after.port))
        eventually(self.is_whole, "the former primary follows")
        return before

    def _promotes(self) -> bool:
        """Whether the Sentinel begins to: not before it has asked the replica how it is."""
        try:
            asked(self.redis, self.ports["sentinel"], "SENTINEL", "FAILOVER", sentinel.SERVICE)
        except ResponseError as error:
            if "NOGOODSLAVE" in str(error):
                return False
            raise
        return True

    def refused(self) -> list[Any]:
        """What any of the three has refused a user, by its own log."""
        return [entry for port in self.ports.values() for entry in asked(self.redis, port, "ACL", "LOG")]

    def is_whole(self) -> bool:
        """Whether the primary has its replica in sync, and the Sentinel knows that one."""
        port = primary_address(self.redis).port
        said = asked(self.redis, port, "INFO", "replication")
        known = asked(self.redis, self.ports["sentinel"], "SENTINEL", "REPLICAS", sentinel.SERVICE)
        return b"state=online" in said and len(known) == 1


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sealed]:
    """For a module's tests, which leave it whole."""
    folder = tmp_path_factory.mktemp("sealed")
    authority, other = Authority(folder, "authority"), Authority(folder, "other")
    certificate, key = authority.certify("server", LOOPBACK)
    ports: dict[str, int] = {}
    for name in ("primary", "replica", "sentinel"):
        ports[name] = free_port(set(ports.values()))
    user, password = users().login("admin")
    redis = RedisSection(
        sentinels=(f"{LOOPBACK}:{ports['sentinel']}",),
        service=sentinel.SERVICE,
        replicas=1,
        username=user,
        password=password,
        tls=True,
        ca_file=str(authority.file),
    )
    sealed_only = (
        "port 0\ntls-port {port}\ntls-replication yes\ntls-auth-clients optional\n"
        f"tls-cert-file {certificate}\ntls-key-file {key}\ntls-ca-cert-file {authority.file}\n"
    )
    running: dict[str, tuple[Process, Launch]] = {}
    program = redis_server()
    try:
        for name, port in ports.items():
            server = valkey.Server(name, folder / name, folder / f"{name}.log", port)
            if name == "sentinel":
                text = sentinel.config(server, users(), ports["primary"])
                text = text.replace(f" {sentinel.QUORUM}\n", " 1\n")
            else:
                leader = None if name == "primary" else ports["primary"]
                text = valkey.config(server, users(), replica_of=leader)
            told = users().of_sentinels() if name == "sentinel" else users().of_servers()
            valkey.write_private(valkey.acl(server), told)
            path = folder / name / "server.conf"
            valkey.write_private(path, text.replace(f"port {port}\n", sealed_only.format(port=port), 1))
            options = ("--sentinel",) if name == "sentinel" else ()
            launch = Launch(name, (program, str(path), *options), server.log)
            since, process = log_size(launch), spawn(launch)
            running[name] = process, launch
            wait_until(launch, process, lambda port=port: _answers(redis, port), since=since)  # type: ignore[misc]
        made = Sealed(redis, ports, authority, other)
        eventually(made.is_whole, "a replica in sync, which the Sentinel knows")
        yield made
    finally:
        for process, launch in running.values():
            end(process, launch, hurry=True)


def asked(redis: RedisSection, port: int, *command: str) -> Any:
    """What one of them answers to a command."""
    connection = open_connection(Address(LOOPBACK, port), redis)
    try:
        connection.connect()
        connection.send_command(*command)
        return connection.read_response()
    finally:
        connection.disconnect()


def _answers(redis: RedisSection, port: int) -> bool:
    try:
        return asked(redis, port, "PING") == b"PONG"
    except (RedisError, OSError):
        return False
