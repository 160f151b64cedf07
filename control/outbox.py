"""Commands whose outcome their submitter does not know yet, kept so that the same bytes can be sent again."""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec

from streams.messages import MAX_VALIDITY, decode_command
from streams.submit import Signed

KEEP = MAX_VALIDITY.total_seconds() + 600
"""Seconds after which no copy is of use any more: the command has expired and its id is forgotten."""


class _Kept(msgspec.Struct, frozen=True):
    raw: str
    signature: str


class Outbox:
    """A folder with one file per command, readable by its owner alone."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def keep(self, signed: Signed) -> None:
        """Write the command down, under its id; old ones go."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._prune()
        path = self._path(signed.command.id)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(msgspec.json.encode(_Kept(signed.raw.decode(), signed.signature)))

    def recall(self, id: str) -> Signed | None:
        """The command as it was signed, None where it was not kept."""
        try:
            kept = msgspec.json.decode(self._path(id).read_bytes(), type=_Kept)
        except (FileNotFoundError, msgspec.MsgspecError):
            return None
        raw = kept.raw.encode()
        return Signed(decode_command(raw), raw, kept.signature)

    def _path(self, id: str) -> Path:
        # The id is the user's text: its hex can be no path.
        return self._directory / f"{id.encode().hex()[:200]}.json"

    def _prune(self) -> None:
        for path in self._directory.glob("*.json"):
            if time.time() - path.stat().st_mtime > KEEP:
                path.unlink(missing_ok=True)
