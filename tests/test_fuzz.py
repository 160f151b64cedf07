"""Envelopes with anything in them: nothing crashes, and nothing that was not signed is admitted.

`TOCSIN_FUZZ` says how many are made (default 100,000); `TOCSIN_FUZZ_SEED` makes the same ones again.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec

from streams.admission import Refusal, Task, admit, parse_delivery
from streams.messages import canonical, digest, new_command, now
from streams.signing import create_key
from streams.submit import Signed, signed
from tests.fix_streams import LANE

COUNT = int(os.environ.get("TOCSIN_FUZZ", "100000"))
SEED = int(os.environ.get("TOCSIN_FUZZ_SEED") or random.SystemRandom().randrange(2**32))
ODD: tuple[bytes, ...] = (
    b"", b"\0", b"\xff\xfe", b"null", b"{}", b"[]", b'"', b"-1", b"1e999", b"9" * 400, b"[" * 3000,
    b'{"id":' * 500, "\N{SNOWMAN}\N{RIGHT-TO-LEFT OVERRIDE}".encode(), b"\\ud800", b"9999-12-31T23:59:59Z",
    b"0001-01-01T00:00:00Z", b"+99:99", b" ", b"tocsin", b"%s%n", b"${jndi:x}", b"x" * 70_000,
)  # fmt: skip
FIELDS = [b"i", b"c", b"s", b"q", b"r"]


def altered(chance: random.Random, value: bytes) -> bytes:
    """`value` with something wrong about it: bits, bytes, pieces, or something else altogether."""
    what = chance.randrange(8)
    at = chance.randrange(len(value) + 1)
    if what == 0 and value:
        at = chance.randrange(len(value))
        return value[:at] + bytes([value[at] ^ (1 << chance.randrange(8))]) + value[at + 1 :]
    if what == 1:
        return value[:at]
    if what == 2:
        return value[:at] + chance.choice(ODD) + value[at:]
    if what == 3:
        return value[at:] + value[:at]
    if what == 4:
        return value[:at] + value[min(len(value), at + chance.randrange(1, 9)) :]
    if what == 5:
        return chance.choice(ODD)
    if what == 6:
        return value.replace(
            chance.choice([b'"', b":", b",", b"{", b"0", b"-", b"T"]), chance.choice(ODD[:8])
        )
    return chance.randbytes(chance.randrange(60))


def rewritten(chance: random.Random, raw: bytes) -> bytes:
    """Signed bytes with one field that says something else, encoded as well as ever."""
    fields = msgspec.json.decode(raw)
    name = chance.choice([*fields, "new", "if_sequence", "durability", "cause"])
    other: tuple[Any, ...] = (
        None,
        -1,
        2**63,
        1.5,
        True,
        "",
        "x",
        [],
        {},
        {"a": {}},
        "source.stop",
        "2999-01-01T00:00:00Z",
        "p1",
    )
    if chance.random() < 0.2:
        fields.pop(name, None)
    else:
        fields[name] = chance.choice(other)
    return canonical(fields)


def fuzzed(chance: random.Random, original: Signed, entry: bytes) -> tuple[bytes, int, bytes, list[bytes]]:
    """What the lane might deliver of `original` after somebody had their hands on it."""
    values = [original.command.id.encode(), original.raw, original.signature.encode(), b"1", b"client"]
    if chance.random() < 0.3:
        values[1] = rewritten(chance, values[1])
    for _ in range(chance.randrange(3)):
        at = chance.choice([0, 1, 1, 1, 2, 2, 3, 4])
        values[at] = altered(chance, values[at])
    # Whoever can write to Redis can also make the mark fit: only the signature stands in their way.
    mark = f"{digest(values[1])} 1 {entry.decode()} ".encode()
    if chance.random() < 0.1:
        mark = altered(chance, mark)
    names = list(FIELDS)
    if chance.random() < 0.1:
        chance.shuffle(names)
    fields = [part for pair in zip(names, values, strict=True) for part in pair]
    if chance.random() < 0.05:
        del fields[chance.randrange(len(fields))]
    return entry, chance.choice([1, 1, 1, 2, 3, 4, 2**40]), mark, fields


def test_whatever_is_delivered_is_refused_or_was_signed(tmp_path: Path) -> None:
    """No envelope raises; whatever is admitted has the very bytes that were signed, and their signature."""
    chance = random.Random(SEED)
    keys = [
        create_key(tmp_path, "service", "engineer"),
        create_key(tmp_path, "operator", "engineer", "ed25519"),
    ]
    keyring = {key.id: key for key in keys}
    time = now()
    originals = [
        signed(
            new_command(station="s", lane=LANE, source=f"s{n}", type=type, params={"n": n}, key=key.id), key
        )
        for n in range(20)
        for type in ("source.start", "source.update")
        for key in keys
    ]
    true = {(original.raw, original.signature) for original in originals}
    verdicts: Counter[str] = Counter()
    for n in range(COUNT):
        entry = f"{int(time.timestamp() * 1000) + chance.randrange(-5, 5)}-{n}".encode()
        row = fuzzed(chance, chance.choice(originals), entry)
        try:
            delivery = parse_delivery(*row)
            verdict = admit(delivery, keyring=keyring, station="s", lane=LANE, time=time)
        except Exception as error:
            raise AssertionError(f"envelope {n} of seed {SEED}: {row!r:.500}") from error
        if isinstance(verdict, Task):
            assert (delivery.raw, delivery.signature) in true, f"envelope {n} of seed {SEED} was never signed"
            assert verdict.command.id == delivery.id
            verdicts["admitted"] += 1
        else:
            assert isinstance(verdict, Refusal)
            verdicts[verdict.reason] += 1
    # Else this test would say little: what is whole is admitted, and each guard has had its turn.
    assert COUNT < 1000 or {
        "admitted", "replayed", "malformed", "bad_signature", "unsigned", "unknown_key", "parked"
    } <= set(verdicts), verdicts  # fmt: skip
