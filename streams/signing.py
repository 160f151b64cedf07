"""Who signed: keys, signatures of commands, and their verification.

Two algorithms, told by the key: `ed25519` (RFC 8032), whose public half is enough to verify, and
`hmac-sha256` (RFC 2104), a secret shared by service processes. Both sign the command's canonical
bytes; signatures travel as lower-case hex.
"""

from __future__ import annotations

import base64
import hmac
import os
import secrets
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

Algorithm = Literal["ed25519", "hmac-sha256"]
Role = Literal["viewer", "auditor", "operator", "engineer", "node"]

ALLOWED: Mapping[Role, frozenset[str]] = {
    "viewer": frozenset(),
    "auditor": frozenset(),
    "operator": frozenset(
        {
            "source.start",
            "source.stop",
            "source.restart",
            "recording.start",
            "recording.stop",
            "condition.acknowledge",
        }
    ),
    "engineer": frozenset({"*"}),
    "node": frozenset({"source.report"}),
}
"""Which command types a role may sign; `*` stands for all."""


class Earlier(msgspec.Struct, frozen=True, kw_only=True):
    """A public half that a key had before it was rotated, and until when it still verifies."""

    public: str
    until: datetime


class Key(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A key. `secret` (base64, 32 bytes) never leaves its file; a verifier's ed25519 key has none.

    `public` (base64, 32 bytes) is there for ed25519 only. With `sources` or `groups` (names, or patterns
    with `*` and `?`) it is limited to these. `earlier` are the halves it had before.
    """

    id: str
    algorithm: Algorithm
    role: Role
    secret: str = ""
    public: str = ""
    sources: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    earlier: tuple[Earlier, ...] = ()

    def __repr__(self) -> str:
        return f"Key(id={self.id!r}, algorithm={self.algorithm!r}, role={self.role!r})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        # Traces on a terminal show variables by this, not by __repr__.
        return [("id", self.id), ("algorithm", self.algorithm), ("role", self.role)]

    def permits(self, command_type: str) -> bool:
        """Whether the key's role may sign commands of this type."""
        allowed = ALLOWED[self.role]
        return "*" in allowed or command_type in allowed


Keyring = Mapping[str, Key]
KEPT = 4096
"""Secrets and halves that are kept decoded: more than a station has, fewer than strangers may send."""


class InvalidKey(ValueError):
    """Raised when a key file is missing, unreadable, malformed or open to others."""


def sign(raw: bytes, key: Key) -> str:
    """The signature of `raw` by `key`, in hex; raises InvalidKey when the key cannot sign."""
    if not key.secret:
        raise InvalidKey(f"key {key.id!r} is here without its secret: it can verify, not sign")
    if key.algorithm == "hmac-sha256":
        signing = _shared(key.secret).copy()
        signing.update(raw)
        return signing.hexdigest()
    return _private(key.secret).sign(raw).hex()


def verifies(raw: bytes, signature: str, key: Key) -> bool:
    """Whether `signature` is that of `raw` by `key`; an HMAC is compared in constant time."""
    if key.algorithm == "hmac-sha256":
        return hmac.compare_digest(sign(raw, key).encode(), signature.encode())
    from cryptography.exceptions import InvalidSignature

    try:
        stated = bytes.fromhex(signature)
        _public(key.public).verify(stated, raw)
    except (ValueError, InvalidSignature):
        return False
    # One signature, one text: capitals and white space would be other texts for the same.
    return stated.hex() == signature


def signed_by(raw: bytes, signature: str, key: Key, at: datetime | None = None) -> bool:
    """Whether `key` signed, with the half it has or one it had that still verified `at` (None: any)."""
    if verifies(raw, signature, key):
        return True
    return any(
        verifies(raw, signature, msgspec.structs.replace(key, public=half.public))
        for half in key.earlier
        if at is None or at < half.until
    )


def halves(key: Key) -> tuple[str, ...]:
    """All public halves that the key has and had, the one it has first."""
    return (key.public, *(half.public for half in reversed(key.earlier)))


def new_key(id: str, role: Role, algorithm: Algorithm = "hmac-sha256") -> Key:
    """Make a key of 256 random bits; it stands nowhere yet."""
    return of_secret(id, role, algorithm, base64.b64encode(secrets.token_bytes(32)).decode())


def of_secret(id: str, role: Role, algorithm: Algorithm, secret: str) -> Key:
    """The key whose secret is this one (base64, 32 bytes). Raises InvalidKey."""
    try:
        sound = len(base64.b64decode(secret, validate=True)) == 32
    except ValueError:
        sound = False
    if not sound:
        raise InvalidKey(f"the secret of key {id!r} is not 32 bytes in base64")
    public = ""
    if algorithm == "ed25519":
        public = base64.b64encode(_private(secret).public_key().public_bytes_raw()).decode()
    return Key(id=id, algorithm=algorithm, role=role, secret=secret, public=public)


def create_key(directory: Path, id: str, role: Role, algorithm: Algorithm = "hmac-sha256") -> Key:
    """Make a key with 256 random bits and write it to a new file of mode 0600 in `directory`.

    Raises FileExistsError when there is such a file.
    """
    key = new_key(id, role, algorithm)
    write_key(directory / f"{id}.json", key)
    return key


def write_key(path: Path, key: Key) -> None:
    """Write `key` to a new file of mode 0600, in a folder of mode 0700; raises FileExistsError, OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(msgspec.json.encode(key))
        file.flush()
        os.fsync(handle)  # it may be about to take the place of the only one


def without_secret(key: Key) -> Key:
    """The half of an ed25519 key that may be given away; raises InvalidKey for an HMAC key."""
    if key.algorithm != "ed25519":
        raise InvalidKey(f"key {key.id!r} is a shared secret: it has no public half")
    return msgspec.structs.replace(key, secret="")


@lru_cache(KEPT)
def _shared(secret: str) -> hmac.HMAC:
    # To be copied: setting one up takes longer than what is signed with it.
    return hmac.new(base64.b64decode(secret), digestmod="sha256")


@lru_cache(KEPT)
def _private(secret: str) -> Ed25519PrivateKey:
    from cryptography.hazmat.primitives.asymmetric import ed25519

    return ed25519.Ed25519PrivateKey.from_private_bytes(base64.b64decode(secret))


@lru_cache(KEPT)
def _public(public: str) -> Ed25519PublicKey:
    from cryptography.hazmat.primitives.asymmetric import ed25519

    return ed25519.Ed25519PublicKey.from_public_bytes(base64.b64decode(public))


def load_key(directory: Path, id: str) -> Key:
    """Read the key `id` from its file in `directory`; raises InvalidKey."""
    path = directory / f"{id}.json"
    try:
        mode = path.stat().st_mode & 0o077
        raw = path.read_bytes()
    except OSError as error:
        raise InvalidKey(f"key {id!r} cannot be read from {path}: {error.strerror}") from None
    if mode:
        raise InvalidKey(f"{path} can be read by others: chmod 600 it; replace the key if others log in here")
    try:
        key = msgspec.json.decode(raw, type=Key)
        halves = [base64.b64decode(half, validate=True) for half in (key.secret, key.public) if half]
    except (msgspec.MsgspecError, ValueError):
        raise InvalidKey(f"{path} does not hold a key") from None
    wanted = key.public if key.algorithm == "ed25519" else key.secret
    if not wanted or any(len(half) != 32 for half in halves):
        raise InvalidKey(f"{path} does not hold a key of algorithm {key.algorithm!r}")
    if key.id != id:
        raise InvalidKey(f"{path} holds the key {key.id!r}: name the file after its key")
    return key


def load_keyring(directory: Path) -> Keyring:
    """Read all keys in `directory`, by id; raises InvalidKey at the first that cannot be used."""
    return {path.stem: load_key(directory, path.stem) for path in sorted(directory.glob("*.json"))}
