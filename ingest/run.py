"""A source that runs in a lane: its capture, what it was started by, and what was heard of it."""

from __future__ import annotations

import threading

import msgspec

from ingest.capture import Capture, Report, Watched
from ingest.decide import Seen
from ingest.watch import Watching
from streams.messages import now
from streams.vocabulary import SourceFact

RECONCILE = 3.0
"""Seconds between two comparisons of what should run with what does."""
STALLED = 2
"""Looks, RECONCILE seconds apart, between which no audio came from a source that then counts as stalled.

Looks are counted, not seconds: a process that was stopped for a while wakes to old clocks everywhere.
"""
STARVED = 3
"""Such looks between which audio was read and none of it went through the decoder."""


class Run:
    """A capture in the hands of its lane, whose lock is held around all of this."""

    def __init__(self, capture: Capture, command: str | None) -> None:
        self.capture = capture
        self.command = command
        self.heard: Report | None = None
        self.first: Report | None = None
        self.tried = threading.Event()
        """Set once the first attempt has succeeded or failed, and that was logged."""
        self.measured = Watched({})
        self._blocks = 0
        self._idle_looks = 0
        self._decoded = 0.0
        self._deaf_looks = 0
        self._before_stall: Report | None = None

    def look(self) -> Report | None:
        """What the capture cannot say itself, once: that it hangs in a read, or does so no more."""
        # In this order: what is decoded of the blocks counted here may come only afterwards.
        decoded, blocks = self.capture.decoded, self.capture.blocks
        self._idle_looks = self._idle_looks + 1 if blocks == self._blocks else 0
        if decoded != self._decoded:
            self._deaf_looks = 0
        elif blocks != self._blocks:
            self._deaf_looks += 1
        self._blocks, self._decoded = blocks, decoded
        state = self.heard.state if self.heard else None
        if state == "running" and self._idle_looks >= STALLED:
            self._before_stall = self.heard
            fact = SourceFact(reason=f"no audio for {STALLED * RECONCILE:g} s")
            return Report(state="stalled", fact=fact, at=now())
        if state == "stalled" and not self._idle_looks and self._before_stall:
            return msgspec.structs.replace(self._before_stall, at=now())
        return None

    def watching(self) -> Watching:
        """What is to be watched of it: one is starved that reads audio of which nothing is decoded."""
        return Watching(self._deaf_looks >= STARVED, self.measured.conditions)

    def seen(self) -> Seen:
        heard = self.heard
        return Seen(
            settings=self.capture.settings,
            state=heard.state if heard else None,
            reason=heard.fact.reason if heard else None,
        )
