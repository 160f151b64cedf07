"""How an event joins on to the one before it: what each of the two must say of the other."""

from __future__ import annotations

import msgspec

from streams.messages import GENESIS, Event, decode_event, digest


class Joint(msgspec.Struct, frozen=True):
    """What the next event of a lane must join on to: the last one's seq, hash and token.

    An empty hash is one that nobody knows: any event with the next seq joins on.
    """

    seq: int = 0
    hash: str = GENESIS
    token: int = 0


class Broken(Exception):
    """Raised when an event does not join on; says why, as the end of a sentence about it."""


def joined(before: Joint, raw: bytes, stated: str) -> tuple[Joint, Event]:
    """The event with these bytes and this hash, and what the one after it must join on to. Raises Broken."""
    if digest(raw) != stated:
        raise Broken("its bytes do not match its hash")
    try:
        event = decode_event(raw)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise Broken(f"it cannot be decoded: {error}") from error
    if event.seq != before.seq + 1:
        raise Broken(f"seq {event.seq} stands where {before.seq + 1} belongs")
    if before.hash and event.prev != before.hash:
        raise Broken("its prev is not the hash of the event before it")
    if event.token < before.token:
        raise Broken(f"its token {event.token} is lower than {before.token} before it")
    return Joint(event.seq, stated, event.token), event
