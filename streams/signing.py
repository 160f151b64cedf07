"""Who signed: keys, signatures of commands, and their verification.

HMAC-SHA-256 is RFC 2104 over the command's canonical bytes; signatures travel as lower-case hex.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec

Role = Literal["viewer", "auditor", "operator", "engineer", "node"]

ALLOWED: Mapping[Role, frozenset[str]] = {
    "viewer": frozenset(),
    "auditor": frozenset(),
    "operator": frozenset({"source.start", "source.stop", "source.restart"}),
    "engineer": frozenset({"*"}),
    "node": frozenset(),
}
"""Which command types a role may sign; `*` stands for all."""


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """A signing key. `secret` is base64 and never leaves its file."""

    id: str
    algorithm: Literal["hmac-sha256"]
    secret: str
    role: Role

    def __repr__(self) -> str:
        return f"Key(id={self.id!r}, algorithm={self.algorithm!r}, role={self.role!r})"

    def permits(self, command_type: str) -> bool:
        """Whether the key's role may sign commands of this type."""
        allowed = ALLOWED[self.role]
        return "*" in allowed or command_type in allowed


Keyring = Mapping[str, Key]


class InvalidKey(ValueError):
    """Raised when a key file is missing, unreadable, malformed or open to others."""


def sign(raw: bytes, key: Key) -> str:
    """The signature of `raw` by `key`, in hex."""
    return hmac.new(base64.b64decode(key.secret), raw, hashlib.sha256).hexdigest()


def verifies(raw: bytes, signature: str, key: Key) -> bool:
    """Whether `signature` is that of `raw` by `key`; compared in constant time."""
    return hmac.compare_digest(sign(raw, key).encode(), signature.encode())


def create_key(directory: Path, id: str, role: Role) -> Key:
    """Make a key with 256 random bits and write it to a new file of mode 0600 in `directory`."""
    secret = base64.b64encode(secrets.token_bytes(32)).decode()
    key = Key(id=id, algorithm="hmac-sha256", secret=secret, role=role)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(directory / f"{id}.json", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(msgspec.json.encode(key))
    return key


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
        base64.b64decode(key.secret, validate=True)
    except (msgspec.MsgspecError, ValueError):
        raise InvalidKey(f"{path} does not hold a key") from None
    if key.id != id:
        raise InvalidKey(f"{path} holds the key {key.id!r}: name the file after its key")
    return key


def load_keyring(directory: Path) -> Keyring:
    """Read all keys in `directory`, by id; raises InvalidKey at the first that cannot be used."""
    return {path.stem: load_key(directory, path.stem) for path in sorted(directory.glob("*.json"))}
