"""Whether a result in the log is that of a signed command: by the key it names, for this lane and id."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from streams.admission import UNREADABLE, UNSIGNED
from streams.messages import Event
from streams.signing import Key, signed_by


class Signatures(msgspec.Struct, frozen=True, kw_only=True):
    """How many results stand on a signature that was `checked`, and how many on one that cannot be, here.

    `elsewhere` counts those by key: it is not here, or only without its shared secret.
    """

    checked: int = 0
    elsewhere: Mapping[str, int] = {}


class _Request(msgspec.Struct, frozen=True):
    """What of the signed bytes must agree with the result."""

    id: str
    lane: str
    type: str
    key: str


_decode = msgspec.json.Decoder(_Request).decode


class Authors:
    """Checks the results of one log, one by one, with the keys at hand."""

    def __init__(self, keyring: Mapping[str, Key]) -> None:
        self._keyring = keyring
        self._checked = 0
        self._elsewhere: dict[str, int] = {}

    def counted(self) -> Signatures:
        """How many could be checked so far."""
        return Signatures(checked=self._checked, elsewhere=dict(sorted(self._elsewhere.items())))

    def problem(self, lane: str, event: Event) -> str | None:
        """What is wrong with the signature under the result `event`; None where nothing is to be seen."""
        data = event.data
        if event.type == "command.rejected" and data.get("reason") in UNSIGNED:
            return None
        request, signature = data.get("request"), data.get("signature")
        if not isinstance(request, str) or not isinstance(signature, str):
            return "it holds no signed command"
        try:
            raw = request.encode()
            stated = _decode(raw)
        except UNREADABLE as error:
            return f"the command in it cannot be read: {error}"
        except UnicodeEncodeError:
            return "the command in it is no text"
        for field, said, here in (
            ("id", stated.id, event.command),
            ("lane", stated.lane, lane),
            ("type", stated.type, data.get("type")),
        ):
            if said != here:
                return f"the command in it was signed for {field} {said!r}, not {here!r}"
        key = self._keyring.get(stated.key)
        if key is None or not (key.public if key.algorithm == "ed25519" else key.secret):
            self._elsewhere[stated.key] = self._elsewhere.get(stated.key, 0) + 1
            return None
        if not signed_by(raw, signature, key):
            return f"the signature of the command in it is not by the key {stated.key!r}"
        self._checked += 1
        return None
