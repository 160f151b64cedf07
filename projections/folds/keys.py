"""The projection `keys`: who may sign commands, and who could.

Only the public half is in the log. The keys that are files on a machine are not in it, but for their end.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from projections.folds.data import identifier, printable, text, texts
from streams.messages import Event, Logged

NAME = "keys"
VERSION = 2
"""Raised whenever the same events give other rows; they are then rebuilt from the archive."""

TYPES = frozenset({"key.created", "key.rotated", "key.revoked"})


class KeyRow(msgspec.Struct, frozen=True, kw_only=True):
    """One key. Times are UTC; None where it has not happened, or is not known (it was a file once).

    `sources` and `groups` are its limits, `…_by` names the key that signed the change.
    """

    id: str
    role: str | None
    algorithm: str | None
    public: str | None
    sources: list[str]
    groups: list[str]
    created_at: datetime | None
    created_by: str | None
    rotated_at: datetime | None
    revoked_at: datetime | None
    revoked_by: str | None
    reason: str | None
    seq: int


def concerns(event: Event) -> str | None:
    """The id of the row that `event` may change, or None."""
    return identifier(text(event.data, "id")) if event.type in TYPES else None


def fold(row: KeyRow | None, logged: Logged) -> KeyRow | None:
    """The row after `logged`: a key is created once, and is revoked for good."""
    event = logged.event
    id = concerns(event)
    if id is None:
        return row
    by = text(event.data, "by")
    if event.type == "key.created":
        if row is not None:
            return row
        return KeyRow(
            id=id,
            role=text(event.data, "role"),
            algorithm=text(event.data, "algorithm"),
            public=text(event.data, "public"),
            sources=[one for one in texts(event.data, "sources") if one is not None],
            groups=[one for one in texts(event.data, "groups") if one is not None],
            created_at=event.at,
            created_by=by,
            rotated_at=None,
            revoked_at=None,
            revoked_by=None,
            reason=None,
            seq=event.seq,
        )
    if event.type == "key.rotated":
        row = row or _turned(id, event)
        if row is None or row.revoked_at is not None:
            return row
        public = text(event.data, "public") or row.public
        return msgspec.structs.replace(row, public=public, rotated_at=event.at, seq=event.seq)
    if row is not None and row.revoked_at is not None:
        return row
    gone = row or _of_file(id, event)
    why = text(event.data, "reason")
    reason = printable(why) if why else None
    return msgspec.structs.replace(gone, revoked_at=event.at, revoked_by=by, reason=reason, seq=event.seq)


def _turned(id: str, event: Event) -> KeyRow | None:
    """The row of a key that was a file until `event`, which says what it was."""
    was = event.data.get("was")
    if not isinstance(was, dict):
        return None
    return msgspec.structs.replace(
        _of_file(id, event),
        role=text(was, "role"), algorithm="ed25519", public=text(was, "public"),
        sources=[one for one in texts(was, "sources") if one is not None],
        groups=[one for one in texts(was, "groups") if one is not None],
    )  # fmt: skip


def _of_file(id: str, event: Event) -> KeyRow:
    return KeyRow(
        id=id, role=None, algorithm=None, public=None, sources=[], groups=[], created_at=None,
        created_by=None, rotated_at=None, revoked_at=None, revoked_by=None, reason=None, seq=event.seq,
    )  # fmt: skip
