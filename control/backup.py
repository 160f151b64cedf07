"""A station in one file: its tables, its settings and, on demand, its keys and secrets."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol
from zipfile import ZIP_DEFLATED, BadZipFile, ZipFile

import msgspec

from control.station import folder as place
from control.station.folder import Folder
from streams.messages import now
from streams.settings import PostgresSection, Settings, load

FORMAT = 1
MANIFEST = "manifest.json"


class Unusable(Exception):
    """Raised when a file is no backup, is damaged, or does not fit what it is to be restored into."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup says of itself; `database` is the read side's own."""

    format: int
    station: str
    made_at: datetime
    keys: bool
    files: dict[str, str]
    """Name → SHA-256 (hex) of what stands in the station's folder."""
    database: msgspec.Raw


class Database(Protocol):
    """The read side, which knows the tables. What `dump` returns is what `load` is given, as JSON."""

    def dump(self, postgres: PostgresSection, file: ZipFile) -> Any:
        """Write all tables to `file`."""

    def load(self, postgres: PostgresSection, file: ZipFile, said: bytes) -> Any:
        """Fill an empty database from `file`. Raises ValueError where it is not empty, or `file` damaged."""


def save(path: Path, folder: Folder, settings: Settings, database: Database, *, keys: bool) -> Manifest:
    """Write the station in `folder` to `path`, in one step. Raises what `database` does, OSError."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    handle = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w+b") as raw, ZipFile(raw, "w", ZIP_DEFLATED, compresslevel=1) as file:
            files = {}
            for name, content in _contents(folder, settings, keys=keys):
                files[name] = sha256(content).hexdigest()
                file.writestr(f"folder/{name}", content)
            said = database.dump(settings.postgres, file)
            manifest = Manifest(
                format=FORMAT,
                station=settings.station.id,
                made_at=now(),
                keys=keys,
                files=files,
                database=msgspec.Raw(msgspec.json.encode(said)),
            )
            file.writestr(MANIFEST, msgspec.json.format(msgspec.json.encode(manifest)))
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    return manifest


@contextmanager
def opened(path: Path) -> Iterator[tuple[ZipFile, Manifest]]:
    """A backup and what it says of itself. Raises Unusable."""
    if not path.is_file():
        raise Unusable(f"there is no file {path}")
    try:
        with ZipFile(path) as file:
            manifest = msgspec.json.decode(file.read(MANIFEST), type=Manifest)
            if manifest.format != FORMAT:
                raise Unusable(f"{path} is a backup of format {manifest.format}, and this reads {FORMAT}")
            yield file, manifest
    except (BadZipFile, KeyError, msgspec.MsgspecError, zlib.error, EOFError) as error:
        raise Unusable(f"{path} is no backup, or is damaged: {error}") from error


def unpack(file: ZipFile, manifest: Manifest, path: Path) -> Folder:
    """Put settings and keys into the folder `path`, where there is none; what is there is kept.

    Raises Unusable where another station lives there, or a file is not what the manifest says.
    """
    folder = Folder(path.absolute())
    contents = {name: file.read(f"folder/{name}") for name in manifest.files}
    for name, content in contents.items():
        outside = not (folder.path / name).resolve().is_relative_to(folder.path.resolve())
        if outside or sha256(content).hexdigest() != manifest.files[name]:
            raise Unusable(f"{name} in the backup is not what was backed up")
    if folder.settings.exists():
        found = load(folder.settings).station.id
        if found != manifest.station:
            raise Unusable(f"the station in {path} is {found!r}, and the backup is of {manifest.station!r}")
    for name, content in contents.items():
        target = folder.path / name
        if not target.exists():
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            place.write_whole(target, content.decode())
    return place.prepare(path, manifest.station)


def _contents(folder: Folder, settings: Settings, *, keys: bool) -> Iterator[tuple[str, bytes]]:
    text = folder.settings.read_text("utf-8")
    if is_local(folder, settings):
        # What `up` writes into the settings by itself, as it is before the first start.
        text = place.with_value(text, "redis", "sentinels", "[]")
        text = place.with_value(text, "postgres", "url", '""')
        if settings.web.port == place.chosen_web_port(folder):
            text = place.with_value(text, "web", "port", "0")
    yield folder.settings.name, text.encode()
    if keys:
        for part in (folder.keys, folder.secrets):
            for path in sorted(part.iterdir()):
                if path.is_file():
                    yield str(path.relative_to(folder.path)), path.read_bytes()


def is_local(folder: Folder, settings: Settings) -> bool:
    """Whether the station's servers are its own, started by `up`."""
    return (folder.path / "postgres").exists() or not settings.postgres.url
