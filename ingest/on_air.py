"""Who wants to hear a source gets it live: its newest audio as a WAV without an end, mono, 16 bits."""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import soxr

from ingest.ring import Ring, quantised

RATE = 24_000
"""Hz of what is sent: more than any voice needs, and little to send."""
FIRST = 1.0
"""Seconds that are sent at once, so that a player has something to go on with."""
PERIOD = 0.1
"""Seconds between two pieces."""
GONE = 3.0
"""Seconds without any audio after which it ends: the source was stopped, or stalls."""
MOST = 16
"""Listeners at once: each takes a thread."""
ENDLESS = 0xFFFFFFFF
"""The size that a WAV says which has none."""


class Full(Exception):
    """Raised when there are as many listeners as there may be."""


class OnAir:
    """The rings of the sources that this node reads now. Any thread may ask."""

    def __init__(self) -> None:
        self._rings: dict[str, Ring] = {}
        self._lock = threading.Lock()
        self.listeners = 0
        """How many listen now."""

    def put(self, source: str, ring: Ring) -> None:
        """The source's audio is in this ring from now on."""
        self._rings[source] = ring

    def drop(self, source: str, ring: Ring) -> None:
        """No more comes in that ring."""
        if self._rings.get(source) is ring:
            self._rings.pop(source, None)

    def has(self, source: str) -> bool:
        """Whether the source is read here now."""
        return source in self._rings

    @contextmanager
    def listening(self, source: str) -> Iterator[Iterator[bytes]]:
        """A header, then pieces as they come, until none comes any more. Raises Full.

        A source that is opened again meanwhile goes on. What is lost to a slow listener is passed over.
        """
        with self._lock:
            if self.listeners >= MOST:
                raise Full
            self.listeners += 1
        try:
            yield self._pieces(source)
        finally:
            with self._lock:
                self.listeners -= 1

    def _pieces(self, source: str) -> Iterator[bytes]:
        yield header()
        ring, last = None, time.monotonic()
        while time.monotonic() - last < GONE:
            current = self._rings.get(source)
            if current is not None and current is not ring:
                ring, at = current, max(0, current.written - round(FIRST * current.rate))
                resampler = soxr.ResampleStream(ring.rate, RATE, 1, dtype="float32")
            if ring is not None:
                begin, samples = ring.read(at, ring.frames)
                at = begin + len(samples)
                if len(samples):
                    last = time.monotonic()
                    mono = samples.mean(axis=1, dtype=np.float32) / np.float32(32768)
                    yield quantised(resampler.resample_chunk(mono)[:, np.newaxis]).tobytes()
            time.sleep(PERIOD)


def header() -> bytes:
    """That of a WAV of RATE Hz, mono, 16 bits, whose length nobody knows."""
    shape = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, RATE, RATE * 2, 2, 16)
    return struct.pack("<4sI4s", b"RIFF", ENDLESS, b"WAVE") + shape + struct.pack("<4sI", b"data", ENDLESS)
