"""A certificate authority of the deployment's own, which signs for the names of its hosts."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_FOR = timedelta(days=3650)
CERTIFICATES_FOR = timedelta(days=825)
"""What browsers still accept of a private authority."""
SINCE = timedelta(days=1)
"""A clock that is behind by up to a day still finds them valid."""


class Authority:
    """A certificate and its key in a folder: `ca.pem`, and `ca.key`, which belongs on no host."""

    def __init__(self, folder: Path, name: str = "tocsin") -> None:
        """Read them, or make them where they are missing. Raises OSError, ValueError."""
        self.file = folder / "ca.pem"
        key = folder / "ca.key"
        if key.exists():
            read = serialization.load_pem_private_key(key.read_bytes(), None)
            if not isinstance(read, ec.EllipticCurvePrivateKey):
                raise ValueError(f"{key} holds no elliptic-curve key")
            self._key = read
            self._name = x509.load_pem_x509_certificate(self.file.read_bytes()).subject
            return
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named(f"{name} authority")
        made = self._certificate(self._name, self._key.public_key(), AUTHORITY_FOR)
        made = made.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        made = made.add_extension(_usage(signs_certificates=True), critical=True)
        write_new(key, _private(self._key))
        write_new(self.file, self._signed(made))

    def certify(self, path: Path, hosts: Sequence[str]) -> bytes:
        """Write a certificate for `hosts` (names or addresses) to `path`.pem and its key to `path`.key.

        Returns both, as one file. Files that are there raise FileExistsError.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        made = self._certificate(_named(hosts[0]), key.public_key(), CERTIFICATES_FOR)
        names = x509.SubjectAlternativeName([_host(host) for host in hosts])
        made = made.add_extension(names, critical=False)
        made = made.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        # A server of the set is a client of the others, too.
        both = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        made = made.add_extension(both, critical=False)
        signed, secret = self._signed(made), _private(key)
        write_new(path.with_name(f"{path.name}.key"), secret)
        write_new(path.with_name(f"{path.name}.pem"), signed)
        return signed + secret

    def _certificate(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, lasts: timedelta
    ) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        own = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - SINCE)
            .not_valid_after(now + lasts)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(own, critical=False)
        )

    def _signed(self, made: x509.CertificateBuilder) -> bytes:
        return made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def write_new(path: Path, content: bytes) -> None:
    """Write a file that is not there yet, readable by its owner alone; raises FileExistsError."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])


def _host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
