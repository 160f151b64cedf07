"""An ingest node's sound for the control room: what it has recorded, and what a source sounds like now."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import soundfile
from uuid_utils import uuid7

from ingest.on_air import OnAir
from ingest.ring import Ring
from ingest.sound import SoundServer
from streams.recordings import RecordingFinished

RATE = 24_000
HERTZ = 700.0
"""What the source on air sounds like."""


class Booth:
    """Serves recordings and one source by the real server of an ingest node."""

    def __init__(self, folder: Path, lane: str) -> None:
        self._folder, self._lane = folder, lane
        self.on_air = OnAir()
        self.server = SoundServer(folder, "127.0.0.1", 0, self.on_air)
        self.ring = Ring(RATE, 1, 5.0)

    def record(self, source: str, at: datetime, seconds: float, *hearings: str) -> dict[str, Any]:
        """Make a recording and return the data of its `recording.finished`."""
        id = str(uuid7())
        path = self._folder / self._lane / source / f"{at:%Y%m%dT%H%M%SZ}-alert-{id}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, tone(0.0, seconds), RATE, subtype="PCM_16")
        raw = path.read_bytes()
        finished = RecordingFinished(
            recording=id, kind="alert", file=str(path.relative_to(self._folder)), bytes=len(raw),
            sha256=sha256(raw).hexdigest(), seconds=seconds, rate=RATE, channels=1, begun_at=at,
            ended_at=at + timedelta(seconds=seconds), hearings=hearings,
        )  # fmt: skip
        told: dict[str, Any] = msgspec.to_builtins(finished)
        return told

    def play(self, source: str, stop: threading.Event) -> None:
        """Have the source on air until `stop` is set."""
        self.on_air.put(source, self.ring)
        at = 0.0
        while not stop.wait(0.1):
            self.ring.add(tone(at, 0.1))
            at += 0.1
        self.on_air.drop(source, self.ring)


def tone(at: float, seconds: float) -> np.ndarray:
    """HERTZ from `at` seconds on, at half the full scale."""
    times = at + np.arange(round(seconds * RATE)) / RATE
    return (0.5 * np.sin(2 * np.pi * HERTZ * times)).astype(np.float32)


@contextmanager
def running_booth(folder: Path, lane: str, source: str) -> Iterator[Booth]:
    """A booth whose source is on air until the block ends."""
    booth, stop = Booth(folder, lane), threading.Event()
    bodies = (booth.server.run, lambda stop: booth.play(source, stop))
    threads = [threading.Thread(target=body, args=(stop,), name="booth") for body in bodies]
    for thread in threads:
        thread.start()
    try:
        yield booth
    finally:
        stop.set()
        for thread in threads:
            thread.join(10)
