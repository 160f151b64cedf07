"""A checkpoint: a few signed lines that fix the history of all lanes up to a moment, to be kept elsewhere.

    tocsin checkpoint 1
    station station
    at 2026-05-01T12:00:00.000000Z
    lane node.local 1234 0f8a…
    root 5c1d…
    key auditor 3q2+7w…
    signature 9b1e…

A lane's line names its last archived event and the first half of its hash, which is enough to say which
lane differs and too much to be forged; the root is the Merkle root over the whole hashes. What is signed
(Ed25519) are the bytes of all lines before the last, each with its line end.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime

import msgspec

from streams import merkle
from streams.signing import InvalidKey, Key, sign, verifies
from streams.tail import Position

FIRST_LINE = "tocsin checkpoint 1"
SHOWN = 32
"""Characters of a hash that stand in a lane's line: 128 bits."""
LONGEST = 64 * 1024
"""Bytes; a checkpoint of 64 lanes takes 5,000."""

_FORM = re.compile(
    rf"{FIRST_LINE}\n"
    r"station (?P<station>[a-z0-9-]{1,32})\n"
    r"at (?P<at>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z)\n"
    rf"(?P<lanes>(?:lane [a-z0-9.-]{{1,40}} [1-9]\d{{0,18}} [0-9a-f]{{{SHOWN}}}\n)+)"
    r"root (?P<root>[0-9a-f]{64})\n"
    r"key (?P<key>[A-Za-z0-9._-]{1,64}) (?P<public>[A-Za-z0-9+/]{43}=)\n"
    r"signature (?P<signature>[0-9a-f]{128})\n",
    re.ASCII,
)


class InvalidCheckpoint(ValueError):
    """Raised when a text is no checkpoint, or its signature is not that of the key it names."""


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """What a checkpoint says. `lanes`: the last archived event of each, the first half of its hash."""

    station: str
    at: str
    lanes: dict[str, Position]
    root: str
    key: str
    public: str
    text: str
    """All of it, as it is printed."""


def root_of(heads: Mapping[str, Position]) -> str:
    """The Merkle root (hex) over the lanes' last events, in the order of the lanes' names."""
    return merkle.root([f"{lane} {at.seq} {at.hash}".encode() for lane, at in sorted(heads.items())]).hex()


def checkpoint(station: str, heads: Mapping[str, Position], at: datetime, key: Key) -> Checkpoint:
    """Sign the lanes' last archived events; lanes without any are left out.

    Raises InvalidKey where `key` is not an ed25519 key with its secret, InvalidCheckpoint where there is
    nothing to sign.
    """
    if key.algorithm != "ed25519":
        raise InvalidKey(f"key {key.id!r} is {key.algorithm}: a checkpoint is signed with an ed25519 key")
    heads = {lane: head for lane, head in heads.items() if head.seq}
    if not heads:
        raise InvalidCheckpoint("no event is archived yet: there is nothing to sign")
    lines = [
        FIRST_LINE,
        f"station {station}",
        f"at {at:%Y-%m-%dT%H:%M:%S.%f}Z",
        *(f"lane {lane} {head.seq} {head.hash[:SHOWN]}" for lane, head in sorted(heads.items())),
        f"root {root_of(heads)}",
        f"key {key.id} {key.public}",
    ]
    signed = "".join(f"{line}\n" for line in lines)
    return parse(f"{signed}signature {sign(signed.encode(), key)}\n")


def parse(text: str) -> Checkpoint:
    """Read a checkpoint and check its signature by the key it names; raises InvalidCheckpoint.

    Whether that key is the right one is for whoever kept it to say.
    """
    found = _FORM.fullmatch(text)
    if found is None:
        raise InvalidCheckpoint("this is no checkpoint: a line is missing, or does not have its form")
    rows = [line.split(" ")[1:] for line in found["lanes"].splitlines()]
    lanes = {lane: Position(int(seq), shown) for lane, seq, shown in rows}
    if [lane for lane, *_ in rows] != sorted(lanes):
        raise InvalidCheckpoint("its lanes are not each there once, in order")
    signed = text[: text.rindex("signature ")].encode()
    key = Key(id=found["key"], algorithm="ed25519", role="auditor", public=found["public"])
    if not verifies(signed, found["signature"], key):
        raise InvalidCheckpoint(f"its signature is not by the key {key.id!r} that it names")
    return Checkpoint(
        station=found["station"],
        at=found["at"],
        lanes=lanes,
        root=found["root"],
        key=key.id,
        public=key.public,
        text=text,
    )


def differences(made: Checkpoint, found: Mapping[str, Mapping[int, str]]) -> Iterable[tuple[str, int, str]]:
    """Where a log is not the one that was signed: lane, seq, and what is wrong there.

    `found` are the hashes of the log's events by lane and seq; a lane that it lacks was not looked at.
    """
    differs = False
    for lane, signed in made.lanes.items():
        if lane not in found:
            differs = True
            continue
        here = found[lane].get(signed.seq)
        if here is None:
            differs = True
            yield lane, signed.seq, f"it is missing; the checkpoint of {made.at} signed it"
        elif here[:SHOWN] != signed.hash:
            differs = True
            yield (
                lane,
                signed.seq,
                f"it is another than the checkpoint of {made.at} signed: history was rewritten",
            )
    if not differs:
        heads = {lane: Position(at.seq, found[lane][at.seq]) for lane, at in made.lanes.items()}
        if root_of(heads) != made.root:
            lane, at = next(iter(made.lanes.items()))
            yield (
                lane,
                at.seq,
                f"the root over all lanes is not the one that the checkpoint of {made.at} signed",
            )
