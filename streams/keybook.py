"""Which keys a station knows: a pure fold of the `key.*` events of its `station` lane.

Beside them stand the keys that are files on the machine that verifies: the first key of a station, and
the secrets that its services share. What the log says goes before: a key that it revoked is revoked,
whatever files there are, and one that it rotated is the one that it names.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import msgspec

from streams.key_messages import KeyCreated, KeyRevoked, KeyRotated
from streams.messages import Event
from streams.signing import Earlier, Key, Keyring


class Registered(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the log says of a key. `key` is None where only its revocation is known: it was a file."""

    key: Key | None = None
    created_at: datetime | None = None
    created_by: str = ""
    rotated_at: datetime | None = None
    revoked_at: datetime | None = None
    revoked_by: str = ""
    reason: str = ""


Keybook = Mapping[str, Registered]
"""By the key's id."""
EVENTS = frozenset({"key.created", "key.rotated", "key.revoked"})


def fold(book: Keybook, event: Event) -> Keybook:
    """The keys after `event`. An event that cannot be understood changes nothing, but a revocation counts."""
    if event.type not in EVENTS:
        return book
    try:
        return {**book, **_change(book, event)}
    except msgspec.ValidationError:
        return book


def _change(book: Keybook, event: Event) -> Keybook:
    if event.type == "key.created":
        made = msgspec.convert(event.data, KeyCreated)
        if made.id in book:
            return {}
        key = Key(
            id=made.id, algorithm=made.algorithm, role=made.role, public=made.public,
            sources=made.sources, groups=made.groups,
        )  # fmt: skip
        return {made.id: Registered(key=key, created_at=event.at, created_by=made.by)}
    if event.type == "key.rotated":
        turned = msgspec.convert(event.data, KeyRotated)
        was = book.get(turned.id) or _of_file(turned)
        if was.key is None:
            return {}
        earlier = (*was.key.earlier, Earlier(public=was.key.public, until=turned.until))
        key = msgspec.structs.replace(was.key, public=turned.public, earlier=earlier)
        return {turned.id: msgspec.structs.replace(was, key=key, rotated_at=event.at)}
    gone = msgspec.convert(event.data, KeyRevoked)
    was = book.get(gone.id, Registered())
    if was.revoked_at is not None:
        return {}
    return {
        gone.id: msgspec.structs.replace(was, revoked_at=event.at, revoked_by=gone.by, reason=gone.reason)
    }


def _of_file(turned: KeyRotated) -> Registered:
    was = turned.was
    if was is None:
        return Registered()
    key = Key(
        id=turned.id, algorithm="ed25519", role=was.role, public=was.public,
        sources=was.sources, groups=was.groups,
    )  # fmt: skip
    return Registered(key=key)


def usable(book: Keybook, files: Keyring) -> Keyring:
    """The keys that may sign now, by id: those of the log, then those of files that it says nothing of."""
    logged = {id: one.key for id, one in book.items() if one.key is not None and one.revoked_at is None}
    return {**{id: key for id, key in files.items() if id not in book}, **logged}


def ever(book: Keybook, files: Keyring) -> Keyring:
    """All keys that were ever known, by id: what they signed while they were good stays signed."""
    return {**files, **{id: one.key for id, one in book.items() if one.key is not None}}
