"""The commands and events about keys, which travel in the `station` lane."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

import msgspec

from streams.signing import Algorithm, Role

PUBLIC = r"\A[A-Za-z0-9+/]{43}=\Z"
"""A public key as text: 32 bytes in base64."""
KeyId = Annotated[str, msgspec.Meta(pattern=r"\A[a-z0-9][a-z0-9._-]{0,63}\Z")]
Public = Annotated[str, msgspec.Meta(pattern=PUBLIC)]
Globs = Annotated[
    tuple[Annotated[str, msgspec.Meta(pattern=r"\A[a-z0-9._*?-]{1,64}\Z")], ...], msgspec.Meta(max_length=64)
]
"""Names, or patterns with `*` and `?`."""


class KeyCreate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`key.create`: make the public half of an ed25519 key known, with a role and limits.

    With `sources` or `groups` the key is limited to sources whose id, or one of whose groups, matches.
    """

    id: KeyId
    public: Public
    role: Role
    algorithm: Literal["ed25519"] = "ed25519"
    sources: Globs = ()
    groups: Globs = ()


class KeyRotate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`key.rotate`: another public half for the same key; the old one still verifies for `grace` seconds."""

    id: KeyId
    public: Public
    grace: Annotated[float, msgspec.Meta(ge=0, le=86400)] = 60.0


class KeyRevoke(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`key.revoke`: nothing that this key signs is accepted any more; its id is never used again."""

    id: KeyId
    reason: Annotated[str, msgspec.Meta(max_length=200)] = ""


KeyParams = KeyCreate | KeyRotate | KeyRevoke


class KeyCreated(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`data` of `key.created`: the key, and by which key it was made known."""

    id: str
    algorithm: Algorithm
    public: str
    role: Role
    by: str
    sources: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()


class OfFile(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a key was while it was a file, and the log said nothing of it."""

    public: str
    role: Role
    sources: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()


class KeyRotated(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`data` of `key.rotated`: `public` is the new half; the old one verifies until `until`.

    `was` is there where the key had been a file: from here on the log says what it is.
    """

    id: str
    public: str
    until: datetime
    by: str
    was: OfFile | None = None


class KeyRevoked(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`data` of `key.revoked`."""

    id: str
    by: str
    reason: str = ""
