"""The streaming decoder: samples in, what was heard out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ingest.same.burst import LEAD, Burst, OpenBurst
from ingest.same.filterbank import HOP, Filterbank
from ingest.same.group import Group
from ingest.same.heard import BurstHeard, EndHeard, Heard, MessageHeard
from ingest.same.line import GAP
from ingest.same.preamble import Candidate, PreambleSearch
from ingest.same.sync import Sync, needed, synchronise
from ingest.same.tape import Tape
from ingest.same.tones import ToneSearch

HELD = 12.0
"""Seconds of the filters' outputs that are kept: the longest burst takes 5, and 4.5 may come at once."""
APART = 4.0
"""Seconds without a burst after which the next one belongs to another message."""
NO_MORE = 2.0
"""Seconds without a burst after which no other will come to help: bursts begin a second apart."""
END_AGAIN = 8.0
"""Seconds in which another end of message is the same."""

INTERRUPTS = 0.5
"""How well a preamble and its word must fit to end a burst that is still open."""


class Decoder:
    """Decodes one source. Feed it mono samples at `rate` (8 to 96 kHz) in pieces of any length.

    What is heard, and when, depends on the samples alone, never on how they are cut into pieces.
    """

    def __init__(self, rate: float) -> None:
        self._bank = bank = Filterbank(rate)
        self._search = PreambleSearch(bank.out_rate)
        self._tape = Tape(
            int(HELD * bank.out_rate), bank.mark_at / bank.out_rate, bank.space_at / bank.out_rate
        )
        self._tones = ToneSearch(rate, bank.hop, bank.block)
        self._candidates: list[Candidate] = []
        self._open: OpenBurst | None = None
        self._group: Group | None = None
        self._heard_until = -APART
        """Where the last burst of the group ended, in seconds."""
        self._ended = -END_AGAIN
        self._over = 0.0
        """Tape position at which the last burst ended."""
        self.samples = 0
        """How many samples went through."""
        self.last_burst: float | None = None
        """Where the last burst ended, in seconds of audio; None before the first."""

    def feed(self, samples: npt.NDArray[np.float32]) -> list[Heard]:
        """What these samples complete."""
        self.samples += len(samples)
        heard: list[Heard] = []
        for spectra, mark, space in self._bank.feed(samples):
            before, over = self._tape.end, self._tones.feed(spectra)
            self._tape.add(mark, space)
            self._candidates += self._search.feed(mark, space)
            for row in range(len(spectra)):
                if (row in over) or self._candidates or self._open or self._group:
                    self._tape.limit = before + (row + 1) * HOP
                    heard += over.get(row, [])
                    heard += self._advance(final=False)
            self._tape.limit = self._tape.end
        return heard

    def finish(self) -> list[Heard]:
        """What is heard when nothing follows any more."""
        heard = self.feed(np.zeros(int(self._bank.rate), dtype=np.float32))
        return [*heard, *self._tones.finish(), *self._advance(final=True)]

    def _advance(self, *, final: bool) -> list[Heard]:
        heard: list[Heard] = []
        rate = self._bank.out_rate
        while self._candidates and (final or needed(self._candidates[0], rate) <= self._tape.limit):
            sync = synchronise(self._tape, self._candidates.pop(0), rate)
            if sync is not None and sync.at - LEAD / 2 * sync.bit > self._over:
                heard += self._begun(sync)
        if self._open is not None:
            heard += self._read(self._open, final=final)
        silent = self._bank.time(self._tape.limit) - self._heard_until
        if self._group and (final or (self._open is None and silent > APART)):
            heard += self._closed()
        elif self._open is None and not self._candidates and silent > NO_MORE:
            heard += self._settled(self._group)
        return heard

    def _begun(self, sync: Sync) -> list[Heard]:
        if self._open is not None and not (sync.word and sync.score > INTERRUPTS):
            return []
        heard: list[Heard] = []
        if self._open is not None and sync.at - LEAD * sync.bit > self._open.sync.at + LEAD * sync.bit:
            heard = self._read(self._open, final=True)
        self._open = None
        if sync.word != "NNNN":
            self._open = OpenBurst(sync, self._tape, self._bank.out_rate)
            return heard
        self._over = sync.at + 32 * sync.bit
        at = self._bank.time(self._over)
        heard += self._closed()
        if at > self._ended + END_AGAIN:
            heard.append(EndHeard(at))
        self._ended = self.last_burst = at
        return heard

    def _read(self, opened: OpenBurst, *, final: bool) -> list[Heard]:
        burst = opened.advance(final=final)
        if burst is None:
            if final or opened.dropped:
                self._open = None
            return []
        self._open = None
        return self._receive(burst)

    def _receive(self, burst: Burst) -> list[Heard]:
        heard: list[Heard] = []
        begin, until = self._bank.time(burst.begin), self._bank.time(burst.until)
        self.last_burst, self._ended, self._over = until, -END_AGAIN, burst.until
        before = ""
        if self._group and begin > self._heard_until + APART:
            heard += self._closed()
        elif self._group and not self._group.takes(burst):
            left = self._group
            heard += self._closed()
            before = left.told if len(left.bursts) == 2 else ""
        # Where there was time for another between two, that was the second of three.
        last = begin > self._heard_until + GAP + (until - begin) / 2
        self._group = self._group or Group(burst, before)
        self._heard_until = until
        heard.append(BurstHeard(begin, until, burst.text, burst.reading.confidence))
        if self._group.certain and not self._group.told:
            heard.append(self._message(self._group, confirmed=True))
        elif last:
            heard += self._settled(self._group)
        return heard

    def _settled(self, group: Group | None) -> list[Heard]:
        """The message, if what was heard is enough for one to which no burst will be added."""
        if group is None or group.told or not group.enough:
            return []
        return [self._message(group, confirmed=True)]

    def _closed(self) -> list[Heard]:
        group, self._group = self._group, None
        if group is None or group.told or group.repeated:
            return []
        return [self._message(group, confirmed=group.enough)]

    def _message(self, group: Group, *, confirmed: bool) -> MessageHeard:
        group.told, confidence = group.header
        return MessageHeard(
            group.told,
            self._bank.time(group.bursts[0].begin),
            self._bank.time(group.bursts[-1].end_of(group.told)),
            len(group.bursts),
            confidence,
            confirmed,
            not group.agreed,
        )
