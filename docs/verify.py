#!/usr/bin/env python3
"""Check an export of a Tocsin station without any of its code: Python 3.11 or newer and `cryptography`.

    python verify.py EXPORT [--key PUBLIC] [--checkpoint FILE]...

It is for whoever was handed the export, and is written to be read. What it checks:

1. the last line is a manifest, signed (Ed25519) by the key that it names; by --key, where that is given;
2. every other line holds an event whose SHA-256 stands beside it; within a lane, the events are numbered
   1, 2, 3 … without a gap, each names the hash of the one before it, and the token of the writer never falls;
3. no command has two results, and under each result stands the command with the signature of whoever gave
   it: those by Ed25519 keys that the manifest names are checked, the others are counted;
4. the lines are, byte by byte, those that the manifest signs;
5. with a checkpoint that was kept elsewhere: the history is still the one that was signed then.

Exit code 0: all of that holds. 3: it does not; the first bad line is named. It keeps 16 bytes for each
result, so that a million results take some 100 MB.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import re
import sys
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

LINE = re.compile(rb'\{"lane":"([a-z0-9.-]{1,40})","hash":"([0-9a-f]{64})","event":(\{[^\n]*\})\}\n')
LAST = re.compile(rb'\{"manifest":(\{[^\n]*\}),"signature":"([0-9a-f]{128})"\}\n')
CHECKPOINT = re.compile(
    r"tocsin checkpoint 1\n"
    r"station ([a-z0-9-]{1,32})\n"
    r"at (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z)\n"
    r"((?:lane [a-z0-9.-]{1,40} [1-9]\d{0,18} [0-9a-f]{32}\n)+)"
    r"root ([0-9a-f]{64})\n"
    r"key ([A-Za-z0-9._-]{1,64}) ([A-Za-z0-9+/]{43}=)\n"
    r"signature ([0-9a-f]{128})\n",
    re.ASCII,
)
LONGEST_LINE = 16 * 1024 * 1024
UNSIGNED = {"malformed", "too_large", "unsigned", "unknown_key", "bad_signature", "replayed"}
"""Reasons of a rejection that says itself that the command is not to be trusted."""
EVENT = {
    "seq": int, "prev": str, "token": int, "at": str, "logged_at": str, "node": str, "type": str,
    "data": dict, "schema": int,
}  # fmt: skip
MANIFEST = {
    "format": str, "station": str, "at": str, "events": int, "lanes": list, "root": str,
    "sha256": str, "keys": dict, "key": str, "public": str,
}  # fmt: skip


class Bad(Exception):
    """What is wrong, and in which line (from 1 on)."""

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(f"line {line}: {problem}")
        self.line = line
        self.problem = problem


def signed_by(public: str, signature: str, message: bytes) -> bool:
    """Whether `signature` (hex) is the Ed25519 signature of `message` by the key `public` (base64)."""
    try:
        raw = bytes.fromhex(signature)
        Ed25519PublicKey.from_public_bytes(base64.b64decode(public)).verify(raw, message)
    except (ValueError, InvalidSignature):
        return False
    return raw.hex() == signature


def merkle_root(leaves: list[bytes]) -> bytes:
    """RFC 6962, section 2.1."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\0" + leaves[0]).digest()
    half = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\1" + merkle_root(leaves[:half]) + merkle_root(leaves[half:])).digest()


def root_of(heads: dict[str, tuple[int, str]]) -> str:
    """The root over the last events of all lanes."""
    return merkle_root([f"{lane} {seq} {hash}".encode() for lane, (seq, hash) in sorted(heads.items())]).hex()


class Lane:
    """What is known of a lane so far, while its lines go by."""

    def __init__(self, name: str, keys: dict[str, str], wanted: set[int]) -> None:
        self.name = name
        self.seq = 0
        self.hash = "0" * 64
        self.token = 0
        self.marks: dict[int, str] = {}
        self._keys = keys
        self._wanted = wanted
        self._results: set[bytes] = set()

    def take(self, raw: bytes, stated: str, counts: dict[str, int]) -> str | None:
        """What is wrong with the lane's next event, None where nothing is."""
        if hashlib.sha256(raw).hexdigest() != stated:
            return "its bytes do not match its hash"
        try:
            event = json.loads(raw.decode())
        except (ValueError, RecursionError) as error:
            return f"it cannot be decoded: {error}"
        for name, kind in EVENT.items():
            if type(event.get(name)) is not kind:
                return f"it cannot be decoded: its {name} is missing or of another kind"
        if not isinstance(event.get("command"), str | None):
            return "it cannot be decoded: its command is no text"
        if event["seq"] != self.seq + 1:
            return f"seq {event['seq']} stands where {self.seq + 1} belongs"
        if event["prev"] != self.hash:
            return "its prev is not the hash of the event before it"
        if event["token"] < self.token:
            return f"its token {event['token']} is lower than {self.token} before it"
        if event["type"].startswith("command."):
            if command := event.get("command"):
                id = hashlib.blake2b(command.encode("utf-8", "replace"), digest_size=16).digest()
                if id in self._results:
                    return f"a second result of command {command}"
                self._results.add(id)
            if wrong := self._unsigned(event, counts):
                return wrong
        self.seq, self.hash, self.token = event["seq"], stated, event["token"]
        if self.seq in self._wanted:
            self.marks[self.seq] = stated
        return None

    def _unsigned(self, event: dict[str, object], counts: dict[str, int]) -> str | None:
        """What is wrong with the command under a result, and with its signature."""
        data = event["data"]
        assert isinstance(data, dict)  # noqa: S101
        if event["type"] == "command.rejected" and data.get("reason") in UNSIGNED:
            return None
        request, signature = data.get("request"), data.get("signature")
        if not isinstance(request, str) or not isinstance(signature, str):
            return "it holds no signed command"
        try:
            raw = request.encode()
            command = json.loads(request)
            stated = [command[name] for name in ("id", "lane", "type", "key")]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            return f"the command in it cannot be read: {error!r}"
        for name, said, here in zip(
            ("id", "lane", "type"), stated, (event.get("command"), self.name, data.get("type")), strict=False
        ):
            if said != here:
                return f"the command in it was signed for {name} {said!r}, not {here!r}"
        public = self._keys.get(stated[3])
        if public is None:
            counts["elsewhere"] += 1
        elif not any(signed_by(half, signature, raw) for half in public.split()):
            return f"the signature of the command in it is not by the key {stated[3]!r}"
        else:
            counts["checked"] += 1
        return None


def read_manifest(path: Path) -> tuple[dict, int, int]:
    """The manifest, checked against its signature; where it begins; and how many lines there are."""
    with path.open("rb") as file:
        total = sum(piece.count(b"\n") for piece in iter(lambda: file.read(1 << 20), b""))
        start = max(0, path.stat().st_size - LONGEST_LINE)
        file.seek(start)
        tail = file.read()
    at = tail.rfind(b"\n", 0, -1) + 1
    found = LAST.fullmatch(tail[at:])
    if found is None:
        raise Bad(max(total, 1), "it does not end with a manifest")
    try:
        manifest = json.loads(found[1])
    except (ValueError, RecursionError) as error:
        raise Bad(total, f"its manifest cannot be read: {error}") from None
    if {name: type(value) for name, value in manifest.items()} != MANIFEST:
        raise Bad(total, "its manifest cannot be read: it has other fields")
    if not signed_by(manifest["public"], found[2].decode(), found[1]):
        raise Bad(total, f"the signature of its manifest is not by the key {manifest['key']!r} that it names")
    return manifest, start + at, total


def check(path: Path, wanted: dict[str, set[int]]) -> tuple[dict, dict[str, int], dict[str, dict[int, str]]]:
    """Check a whole export; returns the manifest, counts, and the hashes wanted. Raises Bad."""
    manifest, end, total = read_manifest(path)
    counts = {"events": 0, "checked": 0, "elsewhere": 0}
    whole = hashlib.sha256()
    heads: dict[str, tuple[int, str]] = {}
    marks: dict[str, dict[int, str]] = {}
    lane = Lane("", {}, set())
    number = 0
    with path.open("rb") as file:
        while end and (line := file.readline(min(end, LONGEST_LINE))):
            end -= len(line)
            number += 1
            whole.update(line)
            found = LINE.fullmatch(line)
            if found is None:
                raise Bad(number, "it is not a line of an export")
            name = found[1].decode()
            if name != lane.name:
                if name <= lane.name:
                    raise Bad(number, f"lane {name} stands behind lane {lane.name}")
                lane = Lane(name, manifest["keys"], wanted.get(name, set()))
                marks[name] = lane.marks
            if wrong := lane.take(found[3], found[2].decode(), counts):
                raise Bad(number, f"lane {name}: {wrong}")
            heads[name] = lane.seq, lane.hash
            counts["events"] += 1
    if manifest["format"] != "tocsin export 1":
        raise Bad(total, f"its format is {manifest['format']!r}, not 'tocsin export 1'")
    if whole.hexdigest() != manifest["sha256"]:
        raise Bad(total, "the lines before it are not those that it signs")
    stated = {one["lane"]: (one["seq"], one["hash"]) for one in manifest["lanes"]}
    if stated != heads or manifest["events"] != counts["events"]:
        raise Bad(total, "the lanes in it are not those of the lines before it")
    if root_of(heads) != manifest["root"]:
        raise Bad(total, "its root is not that of its lanes")
    return manifest, counts, marks


def read_checkpoint(path: Path) -> tuple[dict[str, tuple[int, str]], re.Match[str]]:
    """The lanes of a checkpoint, its signature checked. Raises SystemExit."""
    text = path.read_bytes().decode("utf-8", "replace")
    found = CHECKPOINT.fullmatch(text)
    if found is None:
        raise SystemExit(f"{path} is no checkpoint")
    if not signed_by(found[6], found[7], text[: text.rindex("signature ")].encode()):
        raise SystemExit(f"the signature of {path} is not by the key {found[5]!r} that it names")
    rows = [line.split(" ")[1:] for line in found[3].splitlines()]
    return {lane: (int(seq), hash) for lane, seq, hash in rows}, found


def compare(lanes: dict[str, tuple[int, str]], made: re.Match[str], marks: dict[str, dict[int, str]]) -> None:
    """Compare the export with a checkpoint; raises Bad (line 0: it is of no line)."""
    for lane, (seq, shown) in lanes.items():
        here = marks.get(lane, {}).get(seq)
        if here is None:
            raise Bad(0, f"lane {lane}: event {seq}, which the checkpoint of {made[2]} signed, is missing")
        if here[:32] != shown:
            raise Bad(0, f"lane {lane}: event {seq} is another than the checkpoint of {made[2]} signed")
    if root_of({lane: (seq, marks[lane][seq]) for lane, (seq, _) in lanes.items()}) != made[4]:
        raise Bad(0, f"the root over all lanes is not the one that the checkpoint of {made[2]} signed")


def main() -> int:
    """Check what the command line names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("export", type=Path)
    parser.add_argument("--key", help="the public key (base64) that must have signed, as you were told it")
    parser.add_argument("--checkpoint", type=Path, action="append", default=[], metavar="FILE")
    given = parser.parse_args()
    kept = [read_checkpoint(path) for path in given.checkpoint]
    wanted: dict[str, set[int]] = {}
    for lanes, _ in kept:
        for lane, (seq, _) in lanes.items():
            wanted.setdefault(lane, set()).add(seq)
    try:
        manifest, counts, marks = check(given.export, wanted)
        signers = {manifest["public"], *(made[6] for _, made in kept)}
        if given.key and signers != {given.key}:
            raise Bad(0, f"it is signed by another key than {given.key}: {', '.join(sorted(signers))}")
        for lanes, made in kept:
            if made[1] != manifest["station"]:
                raise Bad(0, f"the checkpoint is of station {made[1]}, the export of {manifest['station']}")
            compare(lanes, made, marks)
    except Bad as bad:
        print(f"BAD: {bad.problem if bad.line == 0 else bad}")  # noqa: T201
        return 3
    print(  # noqa: T201
        f"sound: station {manifest['station']}, {counts['events']} events in {len(manifest['lanes'])} lanes, "
        f"exported {manifest['at']}\n"
        f"signed by {manifest['key']} {manifest['public']}"
        + (" (as given)" if given.key else " (compare this key with what you were told)")
        + f"\ncommands: {counts['checked']} signatures checked, {counts['elsewhere']} not checkable here"
        + "".join(f"\nthe checkpoint of {made[2]} is part of it" for _, made in kept)
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
