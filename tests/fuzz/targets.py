"""Each target takes bytes as from outside and raises nothing but what its decoder says that it raises.

Pure functions: they run under atheris (`make fuzz`), and by hand on any bytes that it found.
"""

from __future__ import annotations

import atexit
import base64
import shutil
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import msgspec

from control.http import Asked
from ingest.decide import decide
from ingest.same import header
from ingest.state import fold
from projections.projection import ALL, fold_all
from streams import checkpoint, export
from streams.admission import Refusal, Task, admit, parse_delivery
from streams.chain import Broken, Joint, joined
from streams.messages import Logged, canonical, decode_answer, decode_event, decode_level, digest, new_command
from streams.settings import InvalidSettings, load
from streams.signing import InvalidKey, Key, load_key, sign

UNREADABLE = (msgspec.MsgspecError, RecursionError, UnicodeDecodeError)
"""What msgspec raises for what is not what it should be, and for JSON that is too deep."""
NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
SECRET = base64.b64encode(bytes(32)).decode()
KEYRING = {"k": Key(id="k", algorithm="hmac-sha256", role="engineer", secret=SECRET)}


def _entry(raw: bytes, signature: str, sequence: bytes, *, mark: bytes | None = None) -> Task | Refusal:
    known = b"%b %b 1-0 " % (digest(raw).encode(), b"1")
    fields = [b"i", b"id", b"c", raw, b"s", signature.encode(), b"q", sequence, b"r", b"client"]
    delivery = parse_delivery(b"1-0", 1, known if mark is None else mark, fields)
    return admit(delivery, keyring=KEYRING, station="station", lane="p0", time=NOW)


def entry(data: bytes) -> None:
    """A stream entry of which every field may be anything: it is admitted or refused."""
    fields = data.split(b"\xff")
    delivery = parse_delivery(b"1-0", 1, fields[0], fields[1:])
    told = admit(delivery, keyring=KEYRING, station="station", lane="p0", time=NOW)
    assert not isinstance(told, Task), "admitted without a signature"


def signed_command(data: bytes) -> None:
    """Any bytes, rightly signed: what is admitted can be decided over."""
    told = _entry(data, sign(data, KEYRING["k"]), b"1")
    if isinstance(told, Task):
        decide(None, told.command)


def unsigned_command(data: bytes) -> None:
    """A good command, under a signature of any bytes: never admitted."""
    raw = _good()
    told = _entry(raw, data.decode("utf-8", "replace"), b"1")
    assert not isinstance(told, Task), "admitted under a wrong signature"


@cache
def _good() -> bytes:
    command = new_command(
        station="station", lane="p0", source="a", type="source.stop", params={}, key="k",
        validity=timedelta(hours=1),
    )  # fmt: skip
    return canonical(command)


def event(data: bytes) -> None:
    """Any bytes as an event: it joins on or is named as broken; what does is folded by everyone."""
    try:
        _, found = joined(Joint(0, "", 0), data, digest(data))
    except Broken:
        try:
            found = decode_event(data)
        except UNREADABLE:
            return
    logged = Logged(found, data, digest(data))
    for projection in ALL:
        fold_all(projection, {}, [logged])
    if found.source is not None:
        fold(None, found)


def answer(data: bytes) -> None:
    """Any bytes as a reply."""
    try:
        decode_answer(data)
    except UNREADABLE:
        return


def level(data: bytes) -> None:
    """Any bytes as telemetry."""
    try:
        decode_level(data)
    except UNREADABLE:
        return


def body(data: bytes) -> None:
    """Any bytes as the body of a write over HTTP."""
    try:
        msgspec.json.decode(data, type=Asked)
    except UNREADABLE:
        return


def same(data: bytes) -> None:
    """Any text as an alert's header: it is read, with its problems, and nothing is raised."""
    header.parse(data.decode("latin-1"), NOW)


def settings(data: bytes) -> None:
    """Any bytes as station.toml: settings, or an error that names the field."""
    path = _scratch() / "station.toml"
    path.write_bytes(data)
    try:
        load(path, {})
    except InvalidSettings as error:
        if not error.field:
            raise


def key(data: bytes) -> None:
    """Any bytes as a key file."""
    path = _scratch() / "k.json"
    path.write_bytes(data)
    path.chmod(0o600)
    try:
        load_key(path.parent, "k")
    except InvalidKey:
        return


def a_checkpoint(data: bytes) -> None:
    """Any text as a checkpoint."""
    try:
        checkpoint.parse(data.decode("utf-8", "replace"))
    except checkpoint.InvalidCheckpoint:
        return


def exported(data: bytes) -> None:
    """Any bytes as an export: it is checked to its end, and found bad."""
    path = _scratch() / "export.jsonl"
    path.write_bytes(data)
    export.check(path)


@cache
def _scratch() -> Path:
    # In memory where there is such a place: these are written a hundred thousand times.
    place = Path("/dev/shm")
    made = tempfile.mkdtemp(prefix="tocsin-fuzz-", dir=place if place.is_dir() else None)
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return Path(made)


TARGETS: dict[str, tuple[Callable[[bytes], None], int]] = {
    "entry": (entry, 150_000),
    "signed-command": (signed_command, 150_000),
    "unsigned-command": (unsigned_command, 50_000),
    "event": (event, 150_000),
    "answer": (answer, 50_000),
    "level": (level, 50_000),
    "body": (body, 50_000),
    "same": (same, 150_000),
    "settings": (settings, 60_000),
    "key": (key, 40_000),
    "checkpoint": (a_checkpoint, 50_000),
    "export": (exported, 50_000),
}
"""Name → the target, and its part of a million inputs."""
SEEDS: dict[str, tuple[bytes, ...]] = {
    "entry": (b"x 1 1-0 \xffi\xffid\xffc\xff{}\xffs\xff00\xffq\xff1", _good()),
    "signed-command": (_good(),),
    "unsigned-command": (sign(_good(), KEYRING["k"])[:-1].encode(),),
    "event": (
        canonical(
            {
                "seq": 1, "prev": "0" * 64, "token": 1, "at": "2026-01-01T00:00:00Z",
                "logged_at": "2026-01-01T00:00:00Z", "node": "n", "type": "source.added", "source": "a",
                "data": {"settings": {"kind": "file", "path": "x.wav"}, "name": "A"}, "schema": 1,
            }
        ),
    ),
    "answer": (b'{"id":"a","lane":"p0","outcome":"completed","sequence":1,"seq":2}',),
    "level": (b'{"source":"a","at":"2026-01-01T00:00:00Z","rms_dbfs":-20.5,"peak_dbfs":null,"seconds":1.5}',),
    "body": (b'{"timeout":5,"expires":60,"id":"x","durability":"replica","if_sequence":3}',),
    "same": (b"ZCZC-WXR-TOR-048201-048157+0030-1521200-KHGX/NWS-",),
    "settings": (b'[station]\nid = "a"\n[redis]\nurl = "redis://h:1/0"\n[notify]\nrules = []\n',),
    "key": (b'{"id":"k","algorithm":"hmac-sha256","role":"operator","secret":"%b"}' % SECRET.encode(),),
    "checkpoint": (b"tocsin checkpoint 1\nstation a\n",),
    "export": (b'{"manifest":{},"signature":""}\n',),
}  # fmt: skip
"""Something like a right one, to begin from."""
