"""Commands with one thing wrong about them, and what is to be said of each; by keys of both algorithms."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NamedTuple

import msgspec

from streams.messages import canonical, digest, now
from streams.signing import Algorithm, Key, new_key, sign
from streams.submit import Signed
from tests.fix_streams import Hall

ALGORITHMS: tuple[Algorithm, ...] = ("hmac-sha256", "ed25519")
CLIENT = b"forger"
PLANTED = """
local entry = redis.call('XADD', KEYS[1], '*', unpack(ARGV, 3))
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2] .. ' 1 ' .. entry .. ' ')
return {{'accepted', 1, entry}}
"""
"""Whoever can write to Redis can put an entry beside `submit`, with the mark of one that was submitted."""

Said = tuple[str, str | None]
"""An outcome and its reason."""
COMPLETED: Said = ("completed", None)
REPLAYED: Said = ("rejected", "replayed")
FORGED: Said = ("rejected", "bad_signature")


class Forged(NamedTuple):
    """What is put into the lane, and each of the sets of which one answer is to come."""

    requests: list[list[Any]]
    id: str
    said: list[set[Said]]


class Forger:
    """Makes commands for a hall; `chance` draws all there is to draw."""

    def __init__(self, hall: Hall, chance: random.Random) -> None:
        self._hall, self._chance = hall, chance
        self._keys = [new_key(f"engineer-{name}", "engineer", name) for name in ALGORITHMS]
        self._viewers = [new_key(f"viewer-{name}", "viewer", name) for name in ALGORITHMS]
        self._strangers = [new_key(f"stranger-{name}", "engineer", name) for name in ALGORITHMS]
        hall.keyring |= {key.id: key for key in (*self._keys, *self._viewers)}

    def valid(self, key: Key | None = None, **changes: Any) -> Signed:
        """A command that nothing is wrong about, but for `changes` before it was signed."""
        changes = {"expires_at": now() + timedelta(hours=1), **changes}
        source = f"source-{self._chance.randrange(7)}"
        return self._hall.command("source.update", source, key=key or self._key(), **changes)

    def _key(self) -> Key:
        return self._chance.choice(self._keys)

    def submitted(self, one: Signed, **others: Any) -> list[Any]:
        """The request by which it is submitted, `others` in place of its own parts."""
        keys, raw = self._hall.keys, others.get("raw", one.raw)
        id, stated = others.get("id", one.command.id), others.get("digest", digest(raw))
        return [
            "FCALL", "tocsin_submit", 4, keys.commands, keys.ids, keys.id_expiry, keys.sequence,
            id, stated, one.command.source, raw, others.get("signature", one.signature), CLIENT, "",
        ]  # fmt: skip

    def planted(self, fields: list[bytes], marked: bool) -> list[Any]:
        """The request that puts these fields into the stream past `submit`, with a fitting mark or none."""
        keys, found = self._hall.keys, dict(zip(fields[::2], fields[1::2], strict=False))
        if not marked:
            return ["XADD", keys.commands, "*", *fields]
        return ["EVAL", PLANTED, 2, keys.commands, keys.ids, found[b"i"], digest(found[b"c"]), *fields]

    def make(self, how: str) -> Forged:
        """One that is forged in the way of that name in `WAYS`."""
        return WAYS[how](self)

    def one(self, *said: Said, **others: Any) -> Forged:
        """A valid command, submitted with `others` in place of its own parts."""
        return self.of(self.valid(), *said, **others)

    def of(self, one: Signed, *said: Said, **others: Any) -> Forged:
        id = others.get("id", one.command.id.encode()).decode("utf-8", "replace")
        return Forged([self.submitted(one, **others)], id, [set(said)])

    def flipped(self, value: bytes) -> bytes:
        """The same but for one bit."""
        at = self._chance.randrange(len(value))
        return value[:at] + bytes([value[at] ^ (1 << self._chance.randrange(8))]) + value[at + 1 :]

    def _bit_of_bytes(self) -> Forged:
        one = self.valid()
        said = [FORGED, REPLAYED, ("rejected", "malformed"), ("rejected", "unknown_key")]
        return self.of(one, *said, raw=self.flipped(one.raw))

    def _bit_of_signature(self) -> Forged:
        one = self.valid()
        return self.of(one, FORGED, signature=self.flipped(one.signature.encode()))

    def _bit_of_id(self) -> Forged:
        one = self.valid()
        return self.of(one, REPLAYED, id=self.flipped(one.command.id.encode()))

    def _capitals(self) -> Forged:
        one = self.valid()
        return self.of(one, FORGED, signature=one.signature.upper())

    def _other_signature(self) -> Forged:
        key = self._key()
        return self.of(self.valid(key), FORGED, signature=self.valid(key).signature)

    def _other_key(self) -> Forged:
        """It names one key and is signed by the other: of another algorithm, or of the same."""
        one = self.valid()
        signer = self._chance.choice([*self._keys, *self._viewers, *self._strangers])
        if signer.id == one.command.key:
            signer = self._strangers[0]
        return self.of(one, FORGED, signature=sign(one.raw, signer))

    def _public_as_secret(self) -> Forged:
        """The half that everybody knows, taken for a shared secret."""
        key = self._keys[1]
        one = self.valid(key)
        shared = msgspec.structs.replace(key, algorithm="hmac-sha256", secret=key.public)
        return self.of(one, FORGED, signature=sign(one.raw, shared))

    def _twice(self) -> Forged:
        one = self.valid()
        raw, signature, id = one.raw, one.signature.encode(), one.command.id.encode()
        again = self.planted([b"i", id, b"c", raw, b"s", signature, b"q", b"1", b"r", CLIENT], marked=False)
        return Forged([self.submitted(one), again], one.command.id, [{COMPLETED}, {REPLAYED}])

    def _rewritten(self) -> Forged:
        """Somebody changed a field and left the signature."""
        one = self.valid()
        field, value = self._chance.choice(
            [("source", "other"), ("type", "source.stop"), ("params", {"n": 1})]
        )
        raw = canonical({**msgspec.json.decode(one.raw), field: value})
        return self.of(one, FORGED, raw=raw)


def _changed(reason: str, outcome: str = "rejected", **changes: Any) -> Callable[[Forger], Forged]:
    """A command that was signed with these changes; a time is told by how far it is from now."""

    def make(forger: Forger) -> Forged:
        time = now()
        told = {name: time + one if isinstance(one, timedelta) else one for name, one in changes.items()}
        return forger.of(forger.valid(**told), (outcome, reason))

    return make


HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
WAYS: dict[str, Callable[[Forger], Forged]] = {
    "whole": lambda forger: forger.one(COMPLETED),
    "unsigned": lambda forger: forger.one(("rejected", "unsigned"), signature=b""),
    "another digest": lambda forger: forger.one(REPLAYED, digest=digest(b"other bytes")),
    "another lane": _changed("replayed", lane="p1"),
    "another station": _changed("replayed", station="elsewhere"),
    "expired": _changed("expired", "expired", issued_at=-2 * MINUTE, expires_at=-MINUTE),
    "forgotten": _changed("replayed", issued_at=-2 * HOUR, expires_at=-HOUR),
    "from the future": _changed("not_yet_valid", issued_at=HOUR, expires_at=2 * HOUR),
    "valid too long": _changed("invalid_validity", expires_at=25 * HOUR),
    "ends before it begins": _changed("invalid_validity", issued_at=MINUTE * 0, expires_at=-MINUTE),
    "a viewer's": lambda f: f.of(f.valid(f._chance.choice(f._viewers)), ("rejected", "unauthorised")),
    "a stranger's": lambda f: f.of(f.valid(f._chance.choice(f._strangers)), ("rejected", "unknown_key")),
    "a bit of the bytes": Forger._bit_of_bytes,
    "a bit of the signature": Forger._bit_of_signature,
    "a bit of the id": Forger._bit_of_id,
    "signature in capitals": Forger._capitals,
    "another's signature": Forger._other_signature,
    "another key": Forger._other_key,
    "public half as secret": Forger._public_as_secret,
    "a field": Forger._rewritten,
    "twice": Forger._twice,
}
