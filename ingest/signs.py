"""What a live source's audio says of its connection: healthy, silent, stalled, or faster than real time."""

from __future__ import annotations

import time

import msgspec
import numpy as np

from ingest.meters import Block
from streams.vocabulary import SourceState

SILENT_AFTER = 10.0
"""Seconds of silence after which that is told."""


class Sign(msgspec.Struct, frozen=True):
    """The state of a connection; `reason` says what is wrong with it, None where nothing is."""

    state: SourceState
    reason: str | None = None


HEALTHY = Sign("running")
FAST = Sign("running", "faster than real time: it is held back")


class Signs:
    """Follows one connection from when it is opened. Each call returns a sign where that has changed.

    Below `silence` (dBFS, RMS) nothing is played, as for the meters.
    """

    def __init__(self, stalled_after: float, silence: float) -> None:
        self._stalled_after = stalled_after
        self._loud = 10.0 ** (silence / 20.0)
        self._silent = Sign(
            "running",
            f"connected, but silent: below {silence:g} dBFS for {SILENT_AFTER:g} s".replace("-", "−"),
        )
        self._heard_at = time.monotonic()
        self._quiet = 0
        self._now: Sign | None = None

    def heard(self, block: Block, rate: int, held: bool) -> Sign | None:
        """Audio came; `held` says that it would come faster than it plays."""
        self._heard_at = time.monotonic()
        flat = block.reshape(-1)
        loud = float(np.dot(flat, flat)) >= self._loud**2 * len(flat)
        self._quiet = 0 if loud else self._quiet + len(block)
        return self._told(FAST if held else self._silent if self._quiet >= SILENT_AFTER * rate else HEALTHY)

    def nothing(self, status: str) -> Sign | None:
        """Nothing came, and is still waited for; `status` says how far the connection is."""
        if time.monotonic() - self._heard_at < self._stalled_after:
            return None
        if self._now is not None and self._now.state == "stalled":
            return None
        return self._told(Sign("stalled", f"{status}, but nothing came for {self._stalled_after:g} s"))

    def _told(self, sign: Sign) -> Sign | None:
        before, self._now = self._now, sign
        return sign if sign != before else None
