"""Whether a command may be executed: a pure decision over what stands in the lane.

The verdict is logged with the command and never computed again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime, timedelta

import msgspec

from streams.authority import forbidden, in_no_group
from streams.messages import MAX_COMMAND_BYTES, MAX_VALIDITY, Command, Outcome, decode_command, digest
from streams.names import STATION_LANE
from streams.signing import Keyring, signed_by
from streams.vocabulary import COMMANDS, STATION_COMMANDS

CLOCK_TOLERANCE = timedelta(seconds=1)
"""How far in the future `issued_at` may lie."""
FORGET = timedelta(minutes=10)
"""How long an id is remembered after its command's validity has ended."""
LATEST = datetime(9998, 1, 1, tzinfo=UTC)
"""Times after this one are taken for it: there must be room to add to them."""
UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What decoding bytes from anywhere may raise (RecursionError: nested too deeply)."""
UNSIGNED = frozenset({"malformed", "too_large", "unsigned", "unknown_key", "bad_signature", "replayed"})
"""Reasons of a rejection that says itself that the bytes are not to be trusted: nothing is to be checked."""
NOTHING: Mapping[str, int] = {}
MAX_DELIVERIES = 3
"""A command delivered more often without a result is parked."""


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """A command as the lane delivers it: the stream entry, its fields, and the mark of its id."""

    entry: str
    raw: bytes
    signature: str
    id: str
    client: str
    sequence: int
    deliveries: int
    mark: str
    received_at: datetime
    """The server's time of submit, taken from the stream entry's id."""


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """Why a command is not executed. `marked` tells whether the id's mark is this command's own."""

    outcome: Outcome
    reason: str
    field: str | None = None
    detail: str | None = None
    marked: bool = True
    command: Command | None = None

    @property
    def attributed(self) -> bool:
        """Whether the refusal is of the command with this id, for good.

        What cannot be read, and what may be the second use of a forgotten id, is nobody's command:
        else submitting it once more would put a second result of one id into the log.
        """
        return self.command is not None and self.reason != "replayed"


class _Never(threading.Event):
    """Of what nothing can overtake: it never comes to waiting for its turn."""

    def set(self) -> None:
        raise RuntimeError("a command that is not waiting for its turn cannot be overtaken")


NEVER = _Never()


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """A command that may be executed. `cancelled` is set when a newer one overtakes it."""

    command: Command
    delivery: Delivery
    cancelled: threading.Event = NEVER

    @property
    def sequence(self) -> int:
        """The number of the command among those of its source."""
        return self.delivery.sequence

    @property
    def deliveries(self) -> int:
        """How often the command has been delivered, this time included."""
        return self.delivery.deliveries


def parse_delivery(entry: bytes, deliveries: int, mark: bytes, fields: list[bytes]) -> Delivery:
    """Read a stream entry as `take` returns it; what is missing or odd becomes empty, to be refused."""
    found = dict(zip(fields[::2], fields[1::2], strict=False))
    text = {name: found.get(name, b"").decode("utf-8", "replace") for name in (b"i", b"s", b"r", b"q")}
    seconds = min(int(entry.split(b"-")[0]) / 1000, LATEST.timestamp())
    if text[b"i"].encode() != found.get(b"i", b""):
        # The mark stands under bytes that no id of ours can be.
        mark = b""
    return Delivery(
        entry=entry.decode(),
        raw=found.get(b"c", b""),
        signature=text[b"s"],
        id=text[b"i"],
        client=text[b"r"],
        sequence=int(text[b"q"]) if text[b"q"].isdecimal() and len(text[b"q"]) <= 15 else 0,
        deliveries=deliveries,
        mark=mark.decode("utf-8", "replace"),
        received_at=datetime.fromtimestamp(seconds, UTC),
    )


def settled_answer(delivery: Delivery) -> str | None:
    """The answer that already stands for this very entry, if any."""
    _, _, entry, answer = [*delivery.mark.split(" ", 3), "", "", "", ""][:4]
    return answer if answer and entry == delivery.entry else None


def has_answer(mark: bytes) -> bool:
    """Whether the answer of the command stands in this mark: digest, sequence, entry, and then the answer."""
    return not mark.endswith(b" ")


def valid_until(delivery: Delivery) -> datetime:
    """When the command's validity ends, as its bytes say; else as late as it could be.

    The mark of its id is kept for FORGET longer, and a command that comes later than that is
    refused as replayed: so no id is ever used twice.
    """
    return validity_end(delivery.raw, delivery.received_at)


def validity_end(raw: bytes, received_at: datetime) -> datetime:
    """The same of a command's bytes, wherever they stand."""
    try:
        stated = _decode_validity(raw).expires_at
    except UNREADABLE:
        stated = None
    if stated is None or stated.tzinfo is None:
        return min(received_at + MAX_VALIDITY, LATEST)
    return min(stated, LATEST)


class _Validity(msgspec.Struct, frozen=True):
    expires_at: datetime | None = None


_decode_validity = msgspec.json.Decoder(_Validity).decode


def admit(
    delivery: Delivery,
    *,
    keyring: Keyring,
    station: str,
    lane: str,
    time: datetime,
    begun: bool = False,
    groups: Callable[[str], Collection[str]] = in_no_group,
    put_back: Mapping[str, int] = NOTHING,
) -> Task | Refusal:
    """Decide over one delivery at the server's time `time`.

    `begun` where the command is known to have been tried, though it was delivered only once; `groups`
    tells those of a source, `put_back` the highest sequence of its commands that were completed and put back.
    """
    marked_digest, _, marked_entry, _ = [*delivery.mark.split(" ", 3), "", "", "", ""][:4]
    if marked_entry != delivery.entry or marked_digest != digest(delivery.raw):
        return Refusal(
            outcome="rejected", reason="replayed", marked=False, detail="the lane did not accept it by submit"
        )
    if min(delivery.received_at, time) >= valid_until(delivery) + FORGET:
        return Refusal(
            outcome="rejected",
            reason="replayed",
            field="expires_at",
            detail="its validity ended so long ago that its id may have been forgotten",
        )
    if len(delivery.raw) > MAX_COMMAND_BYTES:
        return Refusal(outcome="rejected", reason="too_large", detail=f"over {MAX_COMMAND_BYTES} bytes")
    try:
        command = decode_command(delivery.raw)
    except UNREADABLE as error:
        return Refusal(outcome="rejected", reason="malformed", detail=str(error))
    refusal = _distrust(command, delivery, keyring, time, groups) or _misplaced(
        command, delivery, station, lane
    )
    tried = begun or delivery.deliveries > 1
    refusal = refusal or _exhausted(command, delivery) or _untimely(command, time, tried)
    refusal = refusal or _outrun(command, delivery.sequence, put_back.get(command.source, 0))
    refusal = refusal or _unusable(command)
    return refusal or Task(command=command, delivery=delivery)


def _distrust(
    command: Command,
    delivery: Delivery,
    keyring: Keyring,
    time: datetime,
    groups: Callable[[str], Collection[str]],
) -> Refusal | None:
    def refuse(reason: str, field: str, detail: str) -> Refusal:
        return Refusal(outcome="rejected", reason=reason, field=field, detail=detail, command=command)

    if not delivery.signature:
        return refuse("unsigned", "signature", "commands are signed")
    key = keyring.get(command.key)
    if key is None:
        return refuse("unknown_key", "key", f"no key {command.key!r} is known here")
    if not signed_by(delivery.raw, delivery.signature, key, time):
        return refuse("bad_signature", "signature", "the bytes are not those that were signed")
    if why := forbidden(key, command, groups):
        return refuse("unauthorised", "key", why)
    return None


def _misplaced(command: Command, delivery: Delivery, station: str, lane: str) -> Refusal | None:
    for field, stated, here in (
        ("station", command.station, station),
        ("lane", command.lane, lane),
        ("id", command.id, delivery.id),
    ):
        if stated != here:
            return Refusal(
                outcome="rejected",
                reason="replayed",
                field=field,
                detail=f"it was signed for {field} {stated!r}, not {here!r}",
                command=command,
            )
    return None


def _untimely(command: Command, time: datetime, tried: bool) -> Refusal | None:
    if command.issued_at.tzinfo is None or command.expires_at.tzinfo is None:
        return Refusal(outcome="rejected", reason="malformed", field="issued_at", detail="times need a zone")
    if command.issued_at > time + CLOCK_TOLERANCE:
        return Refusal(
            outcome="rejected",
            reason="not_yet_valid",
            field="issued_at",
            detail=f"{command.issued_at.isoformat()} lies ahead of the server's {time.isoformat()}",
            command=command,
        )
    if not timedelta(0) <= command.expires_at - command.issued_at <= MAX_VALIDITY:
        return Refusal(
            outcome="rejected",
            reason="invalid_validity",
            field="expires_at",
            detail=f"{command.expires_at.isoformat()} is before issued_at or more than 24 h after it",
            command=command,
        )
    return late(command, tried=tried) if command.expires_at <= time else None


def _outrun(command: Command, sequence: int, put_back: int) -> Refusal | None:
    """Two primaries may have given two commands one sequence: the one whose result stands came first."""
    if command.if_sequence is None or sequence > put_back:
        return None
    return Refusal(
        outcome="rejected",
        reason="sequence",
        field="if_sequence",
        detail=f"{command.source!r} is at sequence {put_back}, not {command.if_sequence}: what came before"
        " was lost in a failover and put back",
        command=command,
    )


def late(command: Command, *, tried: bool) -> Refusal:
    """What is said of a command whose validity has ended: `expired` only where it was never tried.

    One that was delivered before may have been begun, and what it began may go on: nobody can tell,
    because what was begun need not have come into the log before its owner died.
    """
    until = command.expires_at.isoformat()
    if not tried:
        return Refusal(
            outcome="expired",
            reason="expired",
            field="expires_at",
            detail=f"it was valid until {until}",
            command=command,
        )
    return Refusal(
        outcome="failed",
        reason="interrupted",
        field="expires_at",
        detail=f"its owner died or lost the lane, perhaps while it was being executed, and it was valid only"
        f" until {until}: it may have had an effect",
        command=command,
    )


def _exhausted(command: Command, delivery: Delivery) -> Refusal | None:
    """Asked before its validity is: what was tried three times is not `expired`, which was never tried."""
    if delivery.deliveries <= MAX_DELIVERIES:
        return None
    return Refusal(
        outcome="failed",
        reason="parked",
        detail=f"delivered {MAX_DELIVERIES} times without a result",
        command=command,
    )


def _unusable(command: Command) -> Refusal | None:
    known = STATION_COMMANDS if command.lane == STATION_LANE else COMMANDS
    if command.type in known:
        return None
    if command.type in COMMANDS or command.type in STATION_COMMANDS:
        return Refusal(
            outcome="rejected",
            reason="wrong_lane",
            field="lane",
            detail=f"{command.type!r} is not for lane {command.lane!r}",
            command=command,
        )
    # A newer version may have signed it: it is kept until one is here that knows it.
    return Refusal(
        outcome="failed",
        reason="parked",
        field="type",
        detail=f"unknown type {command.type!r}: a newer version may know it",
        command=command,
    )
