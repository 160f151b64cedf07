"""What travels: commands, events, answers and telemetry, and their canonical bytes.

Canonical bytes are msgspec JSON with sorted keys. What is signed and what is hashed are the
bytes as they travel, never a re-encoding, so that fields a newer version adds survive.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import msgspec
from uuid_utils import uuid7

from streams.readings import Readings

SCHEMA = 1
GENESIS = "0" * 64
"""The `prev` of a lane's first event."""

DEFAULT_VALIDITY = timedelta(seconds=60)
MAX_VALIDITY = timedelta(hours=24)
MAX_COMMAND_BYTES = 64 * 1024

Durability = Literal["memory", "replica", "disk", "archive"]
Outcome = Literal["completed", "failed", "rejected", "superseded", "expired"]
OUTCOMES: tuple[Outcome, ...] = ("completed", "failed", "rejected", "superseded", "expired")


class Command(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A signed wish. `source` is empty for commands of the `station` lane."""

    id: str
    station: str
    lane: str
    source: str
    type: str
    params: dict[str, Any]
    key: str
    issued_at: datetime
    expires_at: datetime
    schema: int
    durability: Durability | None = None
    if_sequence: int | None = None
    cause: str | None = None


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A fact in a lane's log. Its hash is SHA-256 of its bytes and stands beside them."""

    seq: int
    prev: str
    token: int
    at: datetime
    logged_at: datetime
    node: str
    type: str
    data: dict[str, Any]
    schema: int
    source: str = ""
    command: str | None = None


class Logged(msgspec.Struct, frozen=True, gc=False):
    """An event as it stands in the log: decoded, with its bytes and their hash (hex)."""

    event: Event
    raw: bytes
    hash: str


class Answer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of a command, as its submitter is told. `seq` is its result event in `lane`."""

    id: str
    lane: str
    outcome: Outcome
    sequence: int
    seq: int
    state: str | None = None
    reason: str | None = None
    field: str | None = None
    by: str | None = None
    detail: str | None = None


class Level(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One measurement of a source: levels in dBFS, None for digital silence (−∞)."""

    source: str
    at: datetime
    rms_dbfs: float | None
    peak_dbfs: float | None
    seconds: float
    """Audio read since the source started, in seconds."""
    decoded: float | None = None
    """Audio that went through the decoder of alerts since then, in seconds; None: nobody listens."""
    readings: Readings | None = None
    """What the other meters say; None: an older version, which had none."""
    spectrum: tuple[int, ...] | None = None
    """Levels in dBFS of bands of one width from 0 Hz to half the rate; None: nobody looks."""
    title: str | None = None
    """What is played, by the stream's own word; None: it says nothing."""


_encoder = msgspec.json.Encoder(order="sorted")


def canonical(message: Any) -> bytes:
    """Encode `message` as canonical JSON: sorted keys, no white space, UTF-8."""
    return _encoder.encode(message)


def digest(raw: bytes) -> str:
    """SHA-256 of `raw`, in hex."""
    return hashlib.sha256(raw).hexdigest()


decode_command = msgspec.json.Decoder(Command).decode
decode_event = msgspec.json.Decoder(Event).decode
decode_answer = msgspec.json.Decoder(Answer).decode
decode_level = msgspec.json.Decoder(Level).decode


def now() -> datetime:
    """The time now, UTC."""
    return datetime.now(UTC)


def new_command(
    *,
    station: str,
    lane: str,
    source: str,
    type: str,
    params: dict[str, Any],
    key: str,
    validity: timedelta = DEFAULT_VALIDITY,
    id: str | None = None,
    durability: Durability | None = None,
    if_sequence: int | None = None,
    cause: str | None = None,
) -> Command:
    """Build a command issued now, valid for `validity` (at most 24 h), with a UUIDv7 id."""
    issued = now()
    return Command(
        id=id or str(uuid7()),
        station=station,
        lane=lane,
        source=source,
        type=type,
        params=params,
        key=key,
        issued_at=issued,
        expires_at=issued + validity,
        schema=SCHEMA,
        durability=durability,
        if_sequence=if_sequence,
        cause=cause,
    )
