"""The folder of recordings: what a process left unfinished, what is too old, what a name says."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from hashlib import file_digest
from pathlib import Path

import msgspec
import soundfile
import structlog

from ingest.recorder import HEARD, PART, UNTOLD, sync_folder
from streams.recordings import (
    RecordingFact,
    RecordingFailed,
    RecordingFinished,
    RecordingKind,
    RecordingRemoved,
)
from streams.sound import RecordingsSection

NAME = re.compile(r"(\d{8}T\d{6}Z)-(alert|continuous)(-test)?-([0-9a-f-]{36})\.(flac|wav)(\.part)?")
PIECE = 65_536
"""Frames that are read at once."""

log = structlog.get_logger(__name__)
_decode = msgspec.json.Decoder(RecordingFinished).decode
_hearings = msgspec.json.Decoder(tuple[str, ...]).decode


class Shelved(msgspec.Struct, frozen=True, kw_only=True):
    """A recording's file, by its path and name."""

    path: Path
    lane: str
    source: str
    recording: str
    kind: RecordingKind
    begun_at: datetime
    injected: bool
    whole: bool


def shelved(folder: Path) -> Iterator[Shelved]:
    """The recordings in `folder`; other files are left alone."""
    for path in sorted(folder.glob("*/*/*")):
        if (one := _shelved(path)) is not None:
            yield one


def _shelved(path: Path) -> Shelved | None:
    found = NAME.fullmatch(path.name)
    if found is None:
        return None
    return Shelved(
        path=path,
        lane=path.parent.parent.name,
        source=path.parent.name,
        recording=found[4],
        kind="alert" if found[2] == "alert" else "continuous",
        begun_at=datetime.strptime(found[1], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC),
        injected=found[3] is not None,
        whole=found[6] is None,
    )


def find(folder: Path, recording: str) -> Path | None:
    """The whole file of a recording; None where it is not there (any more)."""
    return next((one.path for one in shelved(folder) if one.recording == recording and one.whole), None)


def salvaged(folder: Path) -> Iterator[tuple[Shelved, RecordingFact]]:
    """Make whole what a process left behind that ended without warning; what became of each.

    It may have been told already: what says that it was not is deleted once the next is asked for.
    """
    for path in sorted(folder.glob(f"*/*/*{UNTOLD}")):
        yield from _untold(path)
        path.unlink(missing_ok=True)
    for one in shelved(folder):
        if one.whole:
            continue
        try:
            fact: RecordingFact = _salvage(folder, one)
        except (OSError, RuntimeError) as error:  # soundfile's errors are RuntimeErrors
            reason = f"its process ended before it was whole, and nothing of it can be read: {error}"
            fact = RecordingFailed(
                recording=one.recording, kind=one.kind, reason=reason, injected=one.injected
            )
        yield one, fact
        one.path.unlink(missing_ok=True)
        _heard(one.path).unlink(missing_ok=True)


def _untold(path: Path) -> Iterator[tuple[Shelved, RecordingFact]]:
    """A recording that is whole, and what was to be told of it; none where that cannot be read."""
    place = path.with_name(path.name.removesuffix(UNTOLD))
    part = place.with_name(place.name + PART)
    one = _shelved(place)
    try:
        fact = _decode(path.read_bytes())
        if part.exists():
            part.rename(place)
            sync_folder(place.parent)
        _heard(part).unlink(missing_ok=True)
        if one is not None and place.exists():
            yield one, fact
    except (OSError, msgspec.MsgspecError) as error:
        log.error("what was to be told of a recording cannot be read", file=str(path), detail=str(error))


def _salvage(folder: Path, one: Shelved) -> RecordingFinished:
    """Raises OSError, soundfile's errors; then there is nothing to be had."""
    path = one.path.with_name(one.path.name.removesuffix(PART))
    again = path.with_name(path.name + ".salvaged")
    with soundfile.SoundFile(one.path) as left:
        rate, channels, frames = left.samplerate, left.channels, 0
        with soundfile.SoundFile(again, "w", rate, channels, format=left.format, subtype="PCM_16") as file:
            try:
                while len(block := left.read(PIECE, dtype="int16", always_2d=True)):
                    file.write(block)
                    frames += len(block)
            except soundfile.SoundFileError:
                log.debug("a recording is cut short", file=str(path), frames=frames)
    if not frames:
        again.unlink()
        raise OSError("it holds no audio")
    with again.open("rb+") as whole:
        os.fsync(whole.fileno())
        sha256 = file_digest(whole, "sha256").hexdigest()
    again.rename(path)
    sync_folder(path.parent)
    seconds = round(frames / rate, 3)
    return RecordingFinished(
        recording=one.recording,
        kind=one.kind,
        file=str(path.relative_to(folder)),
        sha256=sha256,
        bytes=path.stat().st_size,
        seconds=seconds,
        rate=rate,
        channels=channels,
        begun_at=one.begun_at,
        ended_at=one.begun_at + timedelta(seconds=seconds),
        hearings=_heard_in(one.path),
        salvaged=True,
        injected=one.injected,
    )


def _heard(part: Path) -> Path:
    """Where the list is of what was heard in it."""
    return part.with_name(part.name.removesuffix(PART) + HEARD)


def _heard_in(part: Path) -> tuple[str, ...]:
    """What was heard in it, as far as that was kept."""
    try:
        return _hearings(_heard(part).read_bytes())
    except FileNotFoundError:
        return ()
    except (OSError, msgspec.MsgspecError) as error:
        log.error("what was heard in a recording cannot be read", file=str(part), detail=str(error))
        return ()


def outlived(
    folder: Path, section: RecordingsSection, at: datetime
) -> Iterator[tuple[Shelved, RecordingRemoved]]:
    """Delete what is older than is kept, and the oldest of what is more than is kept; each that is gone."""
    whole = [one for one in shelved(folder) if one.whole]
    sizes = {one.path: one.path.stat().st_size for one in whole}
    total, most = sum(sizes.values()), section.keep_gigabytes * 1e9
    oldest = at - timedelta(days=section.keep_days) if section.keep_days else None
    for one in sorted(whole, key=lambda one: one.begun_at):
        if oldest is not None and one.begun_at < oldest:
            reason = f"older than {section.keep_days:g} days"
        elif most and total > most:
            reason = f"recordings took more than {section.keep_gigabytes:g} GB"
        else:
            continue
        one.path.unlink(missing_ok=True)
        one.path.with_name(one.path.name + UNTOLD).unlink(missing_ok=True)
        total -= sizes[one.path]
        yield one, RecordingRemoved(recording=one.recording, reason=reason)
