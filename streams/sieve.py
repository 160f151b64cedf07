"""Finding the first key that is given twice, in memory that does not grow with the number of keys."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator
from hashlib import blake2b
from io import FileIO
from types import TracebackType

import msgspec

LIMIT = 8_192
"""Keys held in memory; fewer never touch the disk."""

DIGEST = 16
RECORD = DIGEST + 8
PIECE = 64
"""Records read at once from a run."""


class SpillFailed(Exception):
    """Raised when the temporary file cannot be made or has no room."""


class _Run(msgspec.Struct):
    """Sorted records in the file, from `at` up to `end`; `at` moves as they are read."""

    at: int
    end: int


class Sieve:
    """Takes keys one by one, and says at the end what was told with the first repeated one.

    A record is 16 bytes of BLAKE2b of the key and the place of what was told with it. Full buffers are
    sorted and spilled as runs into a file that has no name. The digest is keyed anew each time: nobody can
    choose keys that crowd together, and two keys of one digest, a false alarm, are not to be expected
    (for a thousand million keys the chance is below 10⁻²⁰).

    Disk: 28 bytes for each key, and what was told with it. Raises SpillFailed.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._secret = secrets.token_bytes(16)
        self._records: list[bytes] = []
        self._told = bytearray()
        self._base = 0
        """Where in the file `_told` will stand."""
        self._runs: list[_Run] = []
        self._file: FileIO | None = None

    def __enter__(self) -> Sieve:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file:
            self._file.close()

    @property
    def held(self) -> int:
        """How many records stand in memory."""
        return len(self._records)

    def add(self, key: str, told: str) -> None:
        """Take one key, and what to tell if it is the first repeated one."""
        if len(self._records) >= self._limit:
            self._spill()
        place = self._base + len(self._told)
        record = blake2b(key.encode(), digest_size=DIGEST, key=self._secret).digest()
        self._records.append(record + place.to_bytes(8, "big"))
        text = told.encode()
        self._told += len(text).to_bytes(4, "big") + text

    def first_repeated(self) -> str | None:
        """What was told with the earliest key that had been given before; None where all differ.

        To be asked once, at the end.
        """
        if self._file is None:
            found = _earliest(iter(sorted(self._records)))
            return None if found is None else _text(self._told[found:])
        self._spill()
        descriptor = self._file.fileno()
        # Digests are evenly spread, so a part holds about half of what the buffer may.
        total = sum(run.end - run.at for run in self._runs) // RECORD
        parts = 2 * total // self._limit + 1
        found = None
        for part in range(1, parts + 1):
            bound = part * (1 << 64) // parts
            here = _earliest(self._below(bound, descriptor))
            if here is not None and (found is None or here < found):
                found = here
        if found is None:
            return None
        length = int.from_bytes(os.pread(descriptor, 4, found), "big")
        return os.pread(descriptor, length, found + 4).decode()

    def _spill(self) -> None:
        self._records.sort()
        start = self._base + len(self._told)
        try:
            if self._file is None:
                # Unbuffered: what was not written for lack of room must not be tried again at the end.
                self._file = tempfile.TemporaryFile(prefix="tocsin-", buffering=0)  # noqa: SIM115
            _write(self._file, self._told)
            _write(self._file, b"".join(self._records))
        except OSError as error:
            raise SpillFailed(f"a temporary file cannot be written: {error}") from error
        self._base = start + len(self._records) * RECORD
        self._runs.append(_Run(start, self._base))
        self._records.clear()
        self._told.clear()

    def _below(self, bound: int, descriptor: int) -> Iterator[bytes]:
        """The records not yet read whose digest begins below `bound`: run by run, oldest run first."""
        # One more than any digest begins with has no 8 bytes: then there is no bound.
        edge = bound.to_bytes(8, "big") if bound < 1 << 64 else None
        for run in self._runs:
            while run.at < run.end:
                piece = os.pread(descriptor, min(PIECE * RECORD, run.end - run.at), run.at)
                records = [piece[at : at + RECORD] for at in range(0, len(piece), RECORD)]
                if edge is not None and records[-1] >= edge:
                    records = [record for record in records if record < edge]
                    run.at += len(records) * RECORD
                    yield from records
                    break
                run.at += len(piece)
                yield from records


def _earliest(records: Iterator[bytes]) -> int | None:
    """The lowest place of a record whose digest came before; equal digests come in the order of place."""
    seen: set[bytes] = set()
    found: int | None = None
    for record in records:
        digest = record[:DIGEST]
        if digest in seen:
            place = int.from_bytes(record[DIGEST:], "big")
            found = place if found is None else min(found, place)
        else:
            seen.add(digest)
    return found


def _write(file: FileIO, content: bytes | bytearray) -> None:
    """All of it: one write may take only a part where the disk is nearly full."""
    written = 0
    while written < len(content):
        written += file.write(memoryview(content)[written:])


def _text(framed: bytearray) -> str:
    return framed[4 : 4 + int.from_bytes(framed[:4], "big")].decode()
