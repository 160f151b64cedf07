"""Logs for auditors: whole lanes with commands that are really signed, in memory and on paper."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from streams.messages import GENESIS, Command, Event, canonical, digest
from streams.signing import Algorithm, Key, sign

Entry = tuple[bytes, bytes]
EPOCH = datetime(2026, 5, 1, 12, tzinfo=UTC)


def a_key(id: str, algorithm: Algorithm = "ed25519", seed: int = 1, role: str = "engineer") -> Key:
    """A key that is the same each time."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    secret = bytes([seed]) * 32
    public = Ed25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()
    return Key(
        id=id,
        algorithm=algorithm,
        role=role,  # type: ignore[arg-type]
        secret=base64.b64encode(secret).decode(),
        public=base64.b64encode(public).decode() if algorithm == "ed25519" else "",
    )


ALICE, BOB = a_key("alice"), a_key("bob", "hmac-sha256", 2)
AUDITOR = a_key("auditor", seed=3, role="auditor")
KEYRING = {key.id: key for key in (ALICE, BOB, AUDITOR)}


class Lane:
    """Makes the entries of one lane, each joined to the one before, a second apart."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.entries: list[Entry] = []
        self.token = 1
        self._prev = GENESIS

    def fact(self, type: str = "source.running", **fields: Any) -> Entry:
        """One event."""
        seq = len(self.entries) + 1
        at = EPOCH + timedelta(seconds=seq)
        event: dict[str, Any] = {
            "seq": seq, "prev": self._prev, "token": self.token, "at": at, "logged_at": at,
            "node": "one", "type": type, "data": {}, "schema": 1, "source": "kwfm",
        }  # fmt: skip
        raw = canonical(Event(**(event | fields)))
        self._prev = digest(raw)
        self.entries.append((raw, self._prev.encode()))
        return self.entries[-1]

    def result(
        self,
        id: str,
        key: Key = ALICE,
        outcome: str = "completed",
        *,
        signature: str | None = None,
        cause: str | None = None,
        stated: dict[str, Any] | None = None,
        **data: Any,
    ) -> Entry:
        """The result of a command that `key` signed; `stated` is laid over what it signed."""
        issued = EPOCH + timedelta(seconds=len(self.entries))
        fields: dict[str, Any] = {
            "id": id, "station": "station", "lane": self.name, "source": "kwfm", "type": "source.start",
            "params": {}, "key": key.id, "issued_at": issued, "expires_at": issued + timedelta(seconds=60),
            "schema": 1, "cause": cause,
        }  # fmt: skip
        raw = canonical(Command(**(fields | (stated or {}))))
        held = {
            "type": "source.start", "sequence": 1, "request": raw.decode(),
            "signature": sign(raw, key) if signature is None else signature,
            "received_at": issued.isoformat(timespec="milliseconds"),
        }  # fmt: skip
        return self.fact(f"command.{outcome}", command=id, data=held | data)


@st.composite
def lanes(draw: st.DrawFn, least: int = 1) -> dict[str, list[Entry]]:
    """Some lanes, each with some events: facts, and results of commands of either algorithm."""
    names = draw(st.lists(st.sampled_from(["node.a", "p0", "p1", "station"]), unique=True, min_size=1))
    found: dict[str, list[Entry]] = {}
    for name in names:
        lane = Lane(name)
        for step in draw(st.lists(st.integers(0, 3), min_size=least, max_size=5)):
            number = len(lane.entries)
            if step == 3:
                lane.token += 1
            if step in (0, 3):
                lane.fact()
            else:
                lane.result(f"{name}-{number}", ALICE if step == 1 else BOB)
        found[name] = lane.entries
    return found


def flipped(content: bytes) -> Iterator[bytes]:
    """Every content that differs from this one in a single byte, by one bit (a different one each time)."""
    for at in range(len(content)):
        yield content[:at] + bytes([content[at] ^ (1 << at % 8)]) + content[at + 1 :]
