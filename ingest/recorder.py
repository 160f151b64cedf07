"""Writing evidence: FLAC files at the source's own rate, each whole or not there at all.

A file is written beside its place, synchronised to disk and then moved there; what is to be told of it
lies beside it until it was told, for a process may be killed in between. One thread writes all of a
process; it never holds audio up, for what it has not written yet is in the sources' rings.
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
from collections import deque
from datetime import timedelta
from hashlib import file_digest
from pathlib import Path

import soundfile
import structlog

from ingest.evidence import Take
from streams.messages import canonical
from streams.recordings import RecordingFailed, RecordingFinished, RecordingStarted
from streams.sound import RecordingsSection

EVERY = 0.25
"""Seconds between two rounds."""
PIECE = 5
"""Seconds of audio that are written at once."""
SILENT = 60.0
"""Seconds without any audio after which a recording ends with what there is: its source hangs."""
PART = ".part"
"""Ends the name of a file that is not whole yet."""
UNTOLD = ".untold"
"""Ends the name of what is to be told of a file that is whole; it is gone once that was told."""
HEARD = ".heard"
"""Ends the name of the list of what was heard in a file that is not whole yet."""
FULL = 1_000_000
"""Bytes below which a disk is full: what libsndfile could not write was less."""
FLAC_MOST = (655_350, 8)
"""Hz and channels that FLAC can hold; what is more is written as WAV."""

log = structlog.get_logger(__name__)


class _Open:
    """A file that is being written."""

    def __init__(self, take: Take, path: Path) -> None:
        self.take = take
        self.path = path
        self.fed_at = time.monotonic()
        ring = take.ring
        path.parent.mkdir(parents=True, exist_ok=True)
        self.part = path.with_name(path.name + PART)
        self.untold = path.with_name(path.name + UNTOLD)
        self._heard = path.with_name(path.name + HEARD)
        self._noted = 0
        self.file = soundfile.SoundFile(
            self.part, "w", ring.rate, ring.channels, format=path.suffix[1:].upper(), subtype="PCM_16"
        )

    def write(self) -> bool:
        """Write what there is; whether there was anything. Raises OSError and soundfile's errors."""
        take = self.take
        self._note()
        most = min(take.until - take.at, PIECE * take.ring.rate)
        if most <= 0:
            return False
        begin, samples = take.ring.read(take.at, most)
        take.lost += begin - take.at
        take.at = begin + len(samples)
        if len(samples):
            self.file.write(samples)
        return len(samples) > 0

    def _note(self) -> None:
        """Keep what was heard in it beside it, for whoever finds it unfinished. Raises OSError."""
        hearings = tuple(self.take.hearings)
        if len(hearings) == self._noted:
            return
        with self._heard.open("wb") as file:
            file.write(canonical(hearings))
            file.flush()
            os.fsync(file.fileno())
        self._noted = len(hearings)

    def finish(self) -> tuple[str, int]:
        """Write the last of it; its SHA-256, and how many bytes. Raises OSError and soundfile's errors."""
        self.file.close()
        with self.part.open("rb+") as file:
            os.fsync(file.fileno())
            return file_digest(file, "sha256").hexdigest(), os.fstat(file.fileno()).st_size

    def place(self, fact: RecordingFinished) -> None:
        """Put the whole file in its place, and beside it what is to be told. Raises OSError."""
        try:
            with self.untold.open("wb") as file:
                file.write(canonical(fact))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            log.warning("only this process knows of a recording until it is told", detail=str(error))
        self.part.rename(self.path)
        self._heard.unlink(missing_ok=True)
        sync_folder(self.path.parent)

    def discard(self) -> None:
        """Leave nothing of it."""
        try:
            self.file.close()
        except (OSError, RuntimeError):
            log.debug("a recording that is given up cannot be closed", file=str(self.part))
        self.part.unlink(missing_ok=True)
        self._heard.unlink(missing_ok=True)
        self.untold.unlink(missing_ok=True)


class Recorder:
    """Writes recordings into a folder. `run` is the body of a thread; `begin` is called by any."""

    def __init__(self, folder: Path, section: RecordingsSection) -> None:
        self.folder = folder
        self._section = section
        self._new: deque[Take] = deque()
        self._open: list[_Open] = []
        self._troubled: set[str] = set()
        """The sources whose last continuous recording failed."""

    def begin(self, take: Take) -> None:
        """Write this from now on; never waits."""
        self._new.append(take)

    def run(self, stop: threading.Event) -> None:
        """Write until `stop` is set; what is being written then ends there."""
        while not stop.wait(EVERY):
            try:
                self.step()
            except Exception:  # whatever one recording brings about, others are written
                log.exception("recorder failed")
        for open in self._open:
            open.take.close()
        for take in self._new:
            take.close()
        self.step()

    def step(self) -> None:
        """One round: write what came, and finish what is over."""
        while self._new:
            self._start(self._new.popleft())
        for open in list(self._open):
            try:
                while open.write():
                    open.fed_at = time.monotonic()
                if time.monotonic() - open.fed_at > SILENT:
                    open.take.close()
                if open.take.at >= open.take.until:
                    self._open.remove(open)
                    self._finished(open, *open.finish())
            except Exception as error:  # the other recordings go on
                if open in self._open:
                    self._open.remove(open)
                open.discard()
                self._failed(open.take, error)

    def _start(self, take: Take) -> None:
        try:
            self._require_room()
            self._open.append(_Open(take, self.path_of(take)))
        except Exception as error:  # a disk that refuses harms no audio
            self._failed(take, error)
            return
        ring = take.ring
        self._troubled.discard(take.source)
        take.tell(
            RecordingStarted(
                recording=take.id, kind=take.kind, begun_at=take.begun_at, rate=ring.rate,
                channels=ring.channels, injected=take.injected,
            )
        )  # fmt: skip

    def _require_room(self) -> None:
        """Raises OSError where the disk has too little."""
        self.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.folder).free
        if free < self._section.free_megabytes * 1e6:
            raise OSError(errno.ENOSPC, f"{free // 1_000_000} MB are free")

    def path_of(self, take: Take) -> Path:
        """Where its file belongs: by lane and source, its time and id in its name."""
        rate, channels = FLAC_MOST
        kind = "flac" if take.ring.rate <= rate and take.ring.channels <= channels else "wav"
        name = (
            f"{take.begun_at:%Y%m%dT%H%M%SZ}-{take.kind}{'-test' if take.injected else ''}-{take.id}.{kind}"
        )
        return self.folder / take.lane / take.source / name

    def _finished(self, open: _Open, sha256: str, bytes: int) -> None:
        take, ring = open.take, open.take.ring
        seconds = round((take.at - take.start - take.lost) / ring.rate, 3)
        fact = RecordingFinished(
            recording=take.id,
            kind=take.kind,
            file=str(open.path.relative_to(self.folder)),
            sha256=sha256,
            bytes=bytes,
            seconds=seconds,
            rate=ring.rate,
            channels=ring.channels,
            begun_at=take.begun_at,
            ended_at=take.begun_at + timedelta(seconds=seconds),
            lost=round(take.lost / ring.rate, 3),
            hearings=tuple(take.hearings),
            injected=take.injected,
        )
        open.place(fact)
        take.tell(fact)
        open.untold.unlink(missing_ok=True)

    def _failed(self, take: Take, error: Exception) -> None:
        reason = self._why(error)
        log.error("recording failed", source=take.source, recording=take.id, detail=reason)
        take.failed = True
        # One that is tried again every minute is told of once, until it has succeeded.
        if take.kind == "alert" or take.source not in self._troubled:
            take.tell(
                RecordingFailed(recording=take.id, kind=take.kind, reason=reason, injected=take.injected)
            )
        if take.kind == "continuous":
            self._troubled.add(take.source)

    def _why(self, error: Exception) -> str:
        """What went wrong, for people: libsndfile does not say that a disk is full."""
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        try:
            full = full or shutil.disk_usage(self.folder).free < FULL
        except OSError:
            log.debug("nobody knows how full the disk is", folder=str(self.folder))
        return f"the disk is full ({error})" if full else f"{type(error).__name__}: {error}"


def sync_folder(folder: Path) -> None:
    """Make sure that the names in a folder are on disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
