"""What becomes of a command about keys: a pure decision over the keys that are known."""

from __future__ import annotations

import base64
from datetime import timedelta

import msgspec

from streams import keybook
from streams.admission import Task
from streams.drafts import Draft, foreseen
from streams.handler import Result, rejected
from streams.key_messages import (
    KeyCreate,
    KeyCreated,
    KeyParams,
    KeyRevoke,
    KeyRevoked,
    KeyRotate,
    KeyRotated,
    OfFile,
)
from streams.keybook import Keybook
from streams.signing import Key, Keyring, halves
from streams.vocabulary import plain

MOST_KEYS = 10_000
"""Keys that are good at once: every verifier holds all of them in memory."""


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be logged, and the keys as they are by it."""

    book: Keybook
    state: str
    drafts: tuple[Draft, ...] = ()


def decide(book: Keybook, files: Keyring, task: Task, asked: KeyParams) -> Change | Result:
    """Decide over a command about keys; repeated, it is done again to the same effect."""
    if isinstance(asked, KeyCreate):
        return _create(book, files, task, asked)
    if asked.id not in keybook.usable(book, files):
        return _gone(book, task, asked)
    if isinstance(asked, KeyRotate):
        return _rotate(book, files, task, asked)
    return _revoke(book, files, task, asked)


def manages(key: Key) -> bool:
    """Whether the key may make and revoke others."""
    return key.permits("key.create") and not (key.sources or key.groups)


def _create(book: Keybook, files: Keyring, task: Task, asked: KeyCreate) -> Change | Result:
    by = task.command.key
    made = KeyCreated(
        id=asked.id, algorithm=asked.algorithm, public=asked.public, role=asked.role, by=by,
        sources=asked.sources, groups=asked.groups,
    )  # fmt: skip
    known = book.get(asked.id)
    if known is not None and known.revoked_at is None and known.key is not None and _same(known.key, asked):
        return Change(book=book, state="created")
    if known is not None or asked.id in files:
        return rejected("key_exists", "params.id", f"there is, or was, a key {asked.id!r}: ids are used once")
    good = keybook.usable(book, files)
    if len(good) >= MOST_KEYS:
        return rejected("too_many", "params.id", f"there are {MOST_KEYS} keys: revoke what is not needed")
    if not _is_point(asked.public):
        return rejected("invalid_params", "params.public", "this is no public key of ed25519")
    if any(asked.public in halves(key) for key in good.values()):
        return rejected(
            "key_exists", "params.public", "another key has this public half: make one of its own"
        )
    return _changed(book, task, "key.created", plain(made), "created")


def _rotate(book: Keybook, files: Keyring, task: Task, asked: KeyRotate) -> Change | Result:
    key = keybook.usable(book, files)[asked.id]
    if key.algorithm != "ed25519":
        detail = f"{asked.id!r} is a secret that its users share, which no log may hold: create another key"
        return rejected("shared_secret", "params.id", detail)
    logged = asked.id in book
    if logged and key.public == asked.public:
        return Change(book=book, state="rotated")
    if asked.public in halves(key) or not _is_point(asked.public):
        return rejected("invalid_params", "params.public", "a rotation needs a new public key of ed25519")
    was = None if logged else OfFile(
        public=key.public, role=key.role, sources=key.sources, groups=key.groups
    )  # fmt: skip
    until = task.delivery.received_at + timedelta(seconds=asked.grace)
    turned = KeyRotated(id=asked.id, public=asked.public, until=until, by=task.command.key, was=was)
    return _changed(book, task, "key.rotated", plain(turned), "rotated")


def _revoke(book: Keybook, files: Keyring, task: Task, asked: KeyRevoke) -> Change | Result:
    good = keybook.usable(book, files)
    if not any(manages(key) for id, key in good.items() if id != asked.id):
        detail = f"{asked.id!r} is the last key that may manage keys: create another engineer first"
        return rejected("last_key", "params.id", detail)
    gone = KeyRevoked(id=asked.id, by=task.command.key, reason=asked.reason)
    return _changed(book, task, "key.revoked", plain(gone), "revoked")


def _gone(book: Keybook, task: Task, asked: KeyRotate | KeyRevoke) -> Change | Result:
    known = book.get(asked.id)
    if known is None or known.revoked_at is None:
        return rejected("unknown_key", "params.id", f"there is no key {asked.id!r}")
    if isinstance(asked, KeyRevoke):
        return Change(book=book, state="revoked")
    return rejected("revoked", "params.id", f"the key {asked.id!r} was revoked: create another")


def _changed(book: Keybook, task: Task, type: str, data: dict[str, object], state: str) -> Change:
    draft = Draft(type=type, command=task.command.id, data=data)
    event = foreseen(msgspec.structs.replace(draft, at=task.delivery.received_at))
    # By the same fold as everybody's: what is known here is what the log will say.
    return Change(book=keybook.fold(book, event), state=state, drafts=(draft,))


def _same(key: Key, asked: KeyCreate) -> bool:
    was = (key.public, key.role, key.sources, key.groups)
    return was == (asked.public, asked.role, asked.sources, asked.groups)


def _is_point(public: str) -> bool:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(base64.b64decode(public, validate=True))
    except ValueError:
        return False
    return True
