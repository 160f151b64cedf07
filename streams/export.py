"""An export: all events of some lanes as JSON lines with a signed manifest at the end, to be handed on.

    {"lane":"p0","hash":"…","event":{…}}
    {"manifest":{…},"signature":"…"}

`event` are the very bytes that were hashed. The manifest names the SHA-256 of all lines before it, each
lane's last event, and the public keys by which signatures of commands can be checked; the signature
(Ed25519) is of the manifest's bytes as they stand. `docs/verify.py` checks an export without this code.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

import msgspec

from streams.admission import UNREADABLE
from streams.audit import Verdict, verify
from streams.authorship import Authors, Signatures
from streams.checkpoint import root_of
from streams.messages import canonical, now
from streams.signing import Earlier, InvalidKey, Key, Keyring, halves, sign, verifies
from streams.tail import Position

FORMAT = "tocsin export 1"
LONGEST_LINE = 16 * 1024 * 1024
"""Bytes; the longest event is far shorter."""

_LINE = re.compile(rb'\{"lane":"([a-z0-9.-]{1,40})","hash":"([0-9a-f]{64})","event":(\{[^\n]*\})\}\n')
_LAST = re.compile(rb'\{"manifest":(\{[^\n]*\}),"signature":"([0-9a-f]{128})"\}\n')


class Unsound(Exception):
    """Raised when the log to be exported does not verify; no file is left."""

    def __init__(self, verdict: Verdict) -> None:
        fault = verdict.fault
        super().__init__(f"lane {verdict.lane}: event {fault.seq if fault else 0}: {fault and fault.problem}")
        self.verdict = verdict


class Head(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A lane's last event in the export."""

    lane: str
    seq: int
    hash: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is signed. `root` is the Merkle root over the lanes; `keys` are ed25519 public keys by id.

    Of a key that was rotated all halves stand there, the newest first, with blanks between them.

    `key` and `public` (base64) name who signed the manifest.
    """

    format: str
    station: str
    at: str
    events: int
    lanes: list[Head]
    root: str
    sha256: str
    keys: dict[str, str]
    key: str
    public: str


class BadLine(msgspec.Struct, frozen=True, kw_only=True):
    """The first bad line of an export, from 1 on, and what is wrong with it."""

    line: int
    problem: str


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """What was found in an export. `manifest` is None where it cannot be read or was not signed so."""

    events: int
    manifest: Manifest | None
    signatures: Signatures
    marks: dict[str, dict[int, str]]
    fault: BadLine | None = None


def write(
    path: Path,
    lanes: Mapping[str, Iterable[tuple[bytes, bytes]]],
    *,
    station: str,
    keyring: Keyring,
    key: Key,
) -> Manifest:
    """Export the lanes (bytes and hash of each event, from the first on) into `path`, all of it or nothing.

    Each lane is verified on the way. Raises Unsound, InvalidKey, OSError, and what reading raises.
    """
    if key.algorithm != "ed25519":
        raise InvalidKey(f"key {key.id!r} is {key.algorithm}: an export is signed with an ed25519 key")
    fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            manifest = _write(file, lanes, station, keyring, key)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
    return manifest


def _write(
    file: BinaryIO,
    lanes: Mapping[str, Iterable[tuple[bytes, bytes]]],
    station: str,
    keyring: Keyring,
    key: Key,
) -> Manifest:
    whole = hashlib.sha256()
    heads: dict[str, Position] = {}
    events = 0

    def copied(lane: str, entries: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
        for raw, stated in entries:
            line = b'{"lane":"%b","hash":"%b","event":%b}\n' % (lane.encode(), stated, raw)
            whole.update(line)
            file.write(line)
            yield raw, stated
            if not _LINE.fullmatch(line):
                raise ValueError(f"an event of lane {lane!r} does not fit on a line of JSON")

    for lane, entries in sorted(lanes.items()):
        verdict = verify(lane, copied(lane, entries), authors=Authors(keyring))
        if verdict.fault:
            raise Unsound(verdict)
        if verdict.seq:
            heads[lane] = Position(verdict.seq, verdict.hash)
            events += verdict.events
    manifest = Manifest(
        format=FORMAT,
        station=station,
        at=f"{now():%Y-%m-%dT%H:%M:%S.%f}Z",
        events=events,
        lanes=[Head(lane=lane, seq=at.seq, hash=at.hash) for lane, at in heads.items()],
        root=root_of(heads),
        sha256=whole.hexdigest(),
        keys={id: " ".join(halves(one)) for id, one in sorted(keyring.items()) if one.algorithm == "ed25519"},
        key=key.id,
        public=key.public,
    )
    raw = canonical(manifest)
    file.write(b'{"manifest":%b,"signature":"%b"}\n' % (raw, sign(raw, key).encode()))
    return manifest


def check(
    path: Path,
    *,
    station: str = "",
    keyring: Keyring | None = None,
    marks: Mapping[str, Collection[int]] | None = None,
    passing: Callable[[Iterator[bytes], int], Iterable[bytes]] = lambda lines, total: lines,
) -> Checked:
    """Check an export from its manifest to its last byte; names the first bad line.

    Commands are checked with the keys of the manifest. Where it is an export of `station`, those of
    `keyring` count too, and one that has another public half under the same id is a fault. `passing`
    sees the lines go by, of how many the manifest tells. Raises OSError, SpillFailed.
    """
    with path.open("rb") as file:
        return _Check(file, station, keyring or {}, marks or {}).run(passing)


class _Check:
    """One reading of an export."""

    def __init__(
        self, file: BinaryIO, station: str, keyring: Keyring, marks: Mapping[str, Collection[int]]
    ) -> None:
        self._file = file
        self._station = station
        self._keyring = keyring
        self._wanted = marks
        self._marks: dict[str, dict[int, str]] = {}
        self._heads: dict[str, Position] = {}
        self._whole = hashlib.sha256()
        self._line = 0
        self._lane = ""
        self._ahead: tuple[bytes, bytes] | None = None
        """The first entry of the next lane, read already."""
        self._bad: str | None = None
        """What is wrong with the line that was read last."""

    def run(self, passing: Callable[[Iterator[bytes], int], Iterable[bytes]]) -> Checked:
        start, last = _last_line(self._file)
        self._file.seek(0)
        total = sum(piece.count(b"\n") for piece in iter(lambda: self._file.read(1 << 20), b""))
        manifest = _manifest(last)
        authors = Authors({})

        def checked(line: int, problem: str | None) -> Checked:
            return Checked(
                events=sum(at.seq for at in self._heads.values()),
                manifest=manifest if isinstance(manifest, Manifest) else None,
                signatures=authors.counted(),
                marks=self._marks,
                fault=BadLine(line=line, problem=problem) if problem else None,
            )

        if isinstance(manifest, str):
            return checked(max(total, 1), manifest)
        known = self._keyring if manifest.station == self._station else {}
        publics = {**manifest.keys, manifest.key: manifest.public}
        for id, public in publics.items():
            if id in known and not set(public.split()) <= set(halves(known[id])):
                return checked(total, f"its key {id!r} is not the one of that name that is here")
        authors = Authors({**{id: _verifying(id, public) for id, public in manifest.keys.items()}, **known})
        self._file.seek(0)
        lines = iter(passing(self._body(start), manifest.events))
        self._ahead = self._next(lines)
        while self._ahead is not None:
            begun, lane = self._line, self._lane
            verdict = verify(lane, self._entries(lines), authors=authors, marks=self._wanted.get(lane, ()))
            self._heads[lane] = Position(verdict.seq, verdict.hash)
            self._marks[lane] = verdict.marks
            if verdict.fault:
                return checked(begun + verdict.fault.seq - 1, f"lane {lane}: {verdict.fault.problem}")
        if self._bad:
            return checked(self._line, self._bad)
        return checked(total, self._disagreement(manifest))

    def _body(self, end: int) -> Iterator[bytes]:
        """The lines before the manifest, which begins at `end`."""
        left = end
        while left and (line := self._file.readline(min(left, LONGEST_LINE))):
            left -= len(line)
            self._whole.update(line)
            yield line

    def _next(self, lines: Iterator[bytes]) -> tuple[bytes, bytes] | None:
        """The next entry, whose lane is then `_lane`; None at the end and at a line that is none."""
        line = next(lines, None)
        if line is None:
            return None
        self._line += 1
        found = _LINE.fullmatch(line)
        if found is None:
            self._bad = "it is not a line of an export"
            return None
        lane = found[1].decode()
        if lane != self._lane and lane <= self._lane:
            self._bad = f"lane {lane} stands behind lane {self._lane}"
            return None
        self._lane = lane
        return found[3], found[2]

    def _entries(self, lines: Iterator[bytes]) -> Iterator[tuple[bytes, bytes]]:
        """The entries of the lane that begins with the one read already."""
        lane = self._lane
        while self._ahead is not None and self._lane == lane:
            yield self._ahead
            self._ahead = self._next(lines)

    def _disagreement(self, manifest: Manifest) -> str | None:
        """How the lines are not those of the manifest; None where they are."""
        heads = {head.lane: Position(head.seq, head.hash) for head in manifest.lanes}
        if manifest.format != FORMAT:
            return f"its format is {manifest.format!r}, not {FORMAT!r}"
        if self._whole.hexdigest() != manifest.sha256:
            return "the lines before it are not those that it signs"
        if heads != self._heads or manifest.events != sum(at.seq for at in heads.values()):
            return "the lanes in it are not those of the lines before it"
        if root_of(heads) != manifest.root:
            return "its root is not that of its lanes"
        return None


def _last_line(file: BinaryIO) -> tuple[int, bytes]:
    """Where the last line begins, and the line."""
    size = file.seek(0, os.SEEK_END)
    start = file.seek(max(0, size - LONGEST_LINE))
    tail = file.read()
    at = tail.rfind(b"\n", 0, -1) + 1
    return start + at, tail[at:]


def _manifest(line: bytes) -> Manifest | str:
    """The manifest, or what is wrong with it."""
    found = _LAST.fullmatch(line)
    if found is None:
        return "it does not end with a manifest"
    try:
        manifest = msgspec.json.decode(found[1], type=Manifest)
    except UNREADABLE as error:
        return f"its manifest cannot be read: {error}"
    if not verifies(found[1], found[2].decode(), _verifying(manifest.key, manifest.public)):
        return f"the signature of its manifest is not by the key {manifest.key!r} that it names"
    return manifest


def _verifying(id: str, public: str) -> Key:
    newest, *before = public.split() or [""]
    earlier = tuple(Earlier(public=half, until=datetime.max) for half in before)  # noqa: DTZ901  # for ever
    return Key(id=id, algorithm="ed25519", role="auditor", public=newest, earlier=earlier)
