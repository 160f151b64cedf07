"""The meters of all sources of a process: audio goes in from each source's thread, levels come out of one.

0 dBFS is full scale, a sample of ±1.0; a full-scale sine therefore has an RMS level of −3.01 dBFS
(the convention of ITU-T P.56 and of most recorders, not that of AES17, which adds 3.01 dB).
Several channels are measured as one signal: the RMS is that of all samples of all channels
together (the mean of the channels' powers), peaks are those of the loudest channel, loudness is their
weighted sum (ITU-R BS.1770-5). Digital silence has the level −∞.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

import numpy as np
import structlog
from numpy.typing import NDArray

from ingest.bank import Bank, Measured, Outside
from ingest.turns import TURN, gathering
from streams.alerts import MeasuredKind
from streams.messages import Level, now
from streams.readings import Readings
from streams.sound import MetersSection

Block = NDArray[np.float32] | NDArray[np.float64]
"""Samples, full scale ±1.0: one row a frame, one column a channel (or one dimension for mono)."""

PERIOD = 0.1
"""Seconds between two rounds, at least."""
HELD = 30.0
"""Seconds of a source's audio that may wait for its meter; what is more is not measured."""
ROUNDS = 300
"""Chunks of a source in one round, at most: all that may wait."""
TURNS = 20
"""Chunks of a source, at most, before it is another bank's turn."""
SETTLING = 30.0
"""Seconds after which a source's clock is watched: what a stream sends ahead is over by then."""
CLOCKED = (300.0, 900.0)
"""Seconds of audio from which on drift is told, and that it is told of."""
CLOCK_EVERY = 5.0
"""Seconds between two readings of a source's clock."""

Watch = Callable[[Mapping[MeasuredKind, str]], None]

log = structlog.get_logger(__name__)


class Gauge:
    """One source's place at the meters, from when it was opened. `add` is called by the audio's thread.

    `put` takes each level and `watch` the open conditions whenever they change, both from the meters'
    thread: they must not block.
    """

    def __init__(
        self, source: str, rate: int, *, offset: float, live: bool, clocked: bool,
        put: Callable[[Level], None], watch: Watch,
    ) -> None:  # fmt: skip
        self.source = source
        self.rate = rate
        self.decoded: float | None = None
        """Seconds of audio that went through the decoder."""
        self.title: str | None = None
        """What is played, by its own word, from the block on that is added next."""
        self._titled: str | None = None
        self.unmetered = 0
        """Samples that were not measured, because the meters did not keep up."""
        self._put, self._watch = put, watch
        self._offset, self.live, self._clocked = offset, live, clocked
        self.closed = False
        self.finished = False
        self._pending: deque[tuple[Block, float, str | None]] = deque()
        """What waits to be measured, with how full the source's buffer was then, and the title then."""
        self._rest: Block | None = None
        self._added = self._taken = 0
        self._begun = time.monotonic()
        self._clock: deque[tuple[float, float]] = deque(maxlen=round(CLOCKED[1] / CLOCK_EVERY))
        self._read_clock = self._begun + SETTLING
        self.drift: float | None = None
        self._buffered = self._full = self._filled = self._dropped = self._dropped_before = 0.0

    @property
    def full(self) -> bool:
        """Whether so much waits to be measured that no more is taken."""
        return self._added - self._taken > HELD * self.rate

    def add(self, block: Block) -> None:
        """Take a block in; it must not be changed afterwards."""
        if self.full:
            self.unmetered += len(block)
            return
        self._pending.append((block, self._full, self.title))
        self._added += len(block)
        if self._clocked and time.monotonic() >= self._read_clock:
            self._note_clock(time.monotonic())

    def buffer(self, seconds: float, most: float, dropped: float) -> None:
        """Say how much audio waits to be read, how much could, and how much was thrown away so far.

        It concerns the block that is added next.
        """
        self._buffered, self._full, self._dropped = seconds, seconds / most if most else 0.0, dropped

    def finish(self) -> None:
        """There is no more audio: what is there is still measured, then the place is given up."""
        self.finished = True

    def close(self) -> None:
        """Give the place up; what is being measured now may still be told."""
        self.closed = True

    def _note_clock(self, at: float) -> None:
        self._read_clock = at + CLOCK_EVERY
        self._clock.append((at, self._added / self.rate))
        self.drift = drift(self._clock)

    # What follows is called by the meters' thread.

    def waiting(self, chunk: int) -> int:
        """How many chunks there are to measure; the last of all may be shorter."""
        # Asked first: what is added before it has finished must count.
        finished = self.finished
        left = self._added - self._taken
        return -(-left // chunk) if finished else left // chunk

    def fill(self, into: NDArray[np.float32]) -> int:
        """Take the next chunk into `into` (channels × samples); how many samples there were."""
        at, chunk = 0, into.shape[1]
        while at < chunk:
            if self._rest is None:
                self._rest, self._filled, self._titled = self._pending.popleft()
            block = self._rest
            part = block[: chunk - at]
            into[:, at : at + len(part)] = part.T if part.ndim == 2 else part
            at += len(part)
            self._rest = block[len(part) :] if len(part) < len(block) else None
            if self._rest is None and not self._pending:
                break
        into[:, at:] = 0.0
        self._taken += at
        return at

    @property
    def dropped(self) -> float:
        """Seconds that were thrown away, by the source or because the meters did not keep up."""
        return self._dropped + self.unmetered / self.rate

    def dropping(self, seconds: float) -> bool:
        """Whether audio is thrown away, asked after each `seconds`: a lost second is said for a second."""
        left = self.dropped - self._dropped_before
        self._dropped_before += min(left, seconds)
        return left > 0

    @property
    def filled(self) -> float:
        """How full its buffer was when what was taken last had come: 0 to 1."""
        return self._filled

    def tell(self, measured: Measured, place: int, peak: float, true_peak: float, momentary: float) -> None:
        """Put a level; the last three are the highest of the round."""
        flat = float(measured.flatness[place])
        readings = Readings(
            true_peak_dbtp=stated(decibels(true_peak)),
            momentary_lufs=stated(momentary),
            short_term_lufs=stated(float(measured.short_term[place])),
            integrated_lufs=stated(float(measured.integrated[place])),
            range_lu=round(float(measured.range[place]), 1),
            clipped=int(measured.clipped[place]),
            dc_offset=round(float(measured.dc[place]), 5),
            flatness=None if math.isnan(flat) else round(flat, 3),
            silent_seconds=round(float(measured.silent[place]), 1),
            buffered_seconds=round(self._buffered, 2),
            dropped_seconds=round(self.dropped, 2),
            drift_ppm=None if self.drift is None else round(self.drift, 1),
        )
        level = Level(
            source=self.source,
            at=now(),
            rms_dbfs=stated(decibels(float(measured.rms[place]))),
            peak_dbfs=stated(decibels(peak)),
            seconds=round(self._offset + self._taken / self.rate, 3),
            decoded=None if self.decoded is None else round(self.decoded, 3),
            readings=readings,
            spectrum=tuple(measured.spectra[place]) if place in measured.spectra else None,
            title=self._titled,
        )
        self._put(level)

    def warn(self, conditions: Mapping[MeasuredKind, str]) -> None:
        """Tell which conditions are open now."""
        self._watch(conditions)


class Meters:
    """All gauges of a process. `run` is the body of a thread; gauges are made by any."""

    def __init__(self, thresholds: MetersSection | None = None) -> None:
        self._thresholds = thresholds or MetersSection()
        self.silence = self._thresholds.silence_dbfs
        """dBFS: below it a source is silent."""
        self._banks: dict[tuple[int, int], list[Bank]] = {}
        self._places: dict[Bank, dict[int, Gauge]] = {}
        self._new: deque[tuple[Gauge, int]] = deque()
        self._stepping = threading.Lock()
        self._looked_at: Collection[str] = ()

    def gauge(
        self,
        source: str,
        rate: int,
        channels: int,
        *,
        offset: float = 0.0,
        live: bool = True,
        clocked: bool = True,
        put: Callable[[Level], None],
        watch: Watch = lambda conditions: None,
    ) -> Gauge:
        """A place for a source that was opened, `offset` seconds of its audio having been read before.

        `live` is what takes as long as it plays, `clocked` what does so by a clock of its own.
        """
        gauge = Gauge(source, rate, offset=offset, live=live, clocked=clocked, put=put, watch=watch)
        self._new.append((gauge, channels))
        return gauge

    def look_at(self, sources: Collection[str]) -> None:
        """Say whose spectrum somebody looks at, from now on."""
        self._looked_at = sources

    def run(self, stop: threading.Event) -> None:
        """Measure until `stop` is set."""
        due = time.monotonic()
        while not stop.is_set():
            try:
                self.step()
            except Exception:  # one source's audio must not end the meters of all
                log.exception("meters failed")
            sources = sum(map(len, self._places.values()))
            due = max(due + max(PERIOD, gathering(sources)), time.monotonic())
            stop.wait(due - time.monotonic())

    def step(self) -> None:
        """One round: measure what came, of all sources."""
        with self._stepping:
            while self._new:
                self._place(*self._new.popleft())
            running = [self._measure(bank, places) for bank, places in self._places.items()]
            while running:
                running = [one for one in running if next(one, False)]
            for bank, places in self._places.items():
                for row in [row for row, gauge in places.items() if _done(gauge, bank)]:
                    del places[row]
                    bank.free.append(row)

    def _place(self, gauge: Gauge, channels: int) -> None:
        banks = self._banks.setdefault((gauge.rate, channels), [])
        bank = next((bank for bank in banks if bank.free), None)
        if bank is None:
            bank = Bank(gauge.rate, channels, self._thresholds)
            banks.append(bank)
            self._places[bank] = {}
        row = bank.free.pop()
        bank.clear(row)
        self._places[bank][row] = gauge

    def _measure(self, bank: Bank, places: Mapping[int, Gauge]) -> Iterator[bool]:
        """Measure what there is of a bank's sources; yields True where it is the other banks' turn."""
        highest: dict[int, tuple[float, ...]] = {}
        last: dict[int, tuple[Measured, int]] = {}
        # What comes meanwhile is the next round's: otherwise the other banks wait for as long as this one is
        # slower than its audio, and each turn has fewer sources in it, at nearly the same cost.
        there = {row: gauge.waiting(bank.chunk) for row, gauge in places.items()}
        for turn in range(min(max(there.values(), default=0), ROUNDS)):
            ready = [row for row, gauge in places.items() if there[row] > turn and not gauge.closed]
            if not ready:
                break
            with TURN:
                measured = bank.measure(*self._round(bank, [places[row] for row in ready], ready))
            for place, row in enumerate(ready):
                columns = measured.peak, measured.true_peak, measured.momentary
                found = tuple(float(column[place]) for column in columns)
                before = highest.get(row, found)
                highest[row] = tuple(max(one) for one in zip(before, found, strict=True))
                last[row] = measured, place
                if places[row].live:
                    # Each tenth is told, also where several come late.
                    places[row].tell(measured, place, *highest.pop(row))
                    del last[row]
            for place in measured.changed:
                places[ready[place]].warn(bank.open(ready[place]))
            if turn % TURNS == TURNS - 1:
                yield True
        for row, (measured, place) in last.items():
            places[row].tell(measured, place, *highest[row])

    def _round(
        self, bank: Bank, gauges: list[Gauge], rows: Iterable[int]
    ) -> tuple[NDArray[np.intp], NDArray[np.float32], NDArray[np.float64], Outside, list[int]]:
        """The next chunk of each gauge, and what else is known of it."""
        audio = np.empty((len(gauges), bank.channels, bank.chunk), np.float32)
        valid = [gauge.fill(into) for gauge, into in zip(gauges, audio, strict=True)]
        drifts = [math.nan if gauge.drift is None else gauge.drift for gauge in gauges]
        outside = Outside(
            np.array([gauge.dropping(bank.seconds) for gauge in gauges]),
            np.array([gauge.filled for gauge in gauges]),
            np.array(drifts),
        )
        looked_at = [place for place, gauge in enumerate(gauges) if gauge.source in self._looked_at]
        return np.array(rows), audio, np.array(valid, np.float64), outside, looked_at


def _done(gauge: Gauge, bank: Bank) -> bool:
    return gauge.closed or (gauge.finished and not gauge.waiting(bank.chunk))


def drift(clock: Collection[tuple[float, float]]) -> float | None:
    """By how many millionths a source's clock is fast: seconds of ours, and of audio that came by then.

    None before there is enough to tell. A straight line through all of them: audio comes in pieces.
    """
    points = np.array(clock)
    if len(points) < 2 or points[-1, 0] - points[0, 0] < CLOCKED[0]:
        return None
    at, audio = points[:, 0] - points[:, 0].mean(), points[:, 1] - points[:, 1].mean()
    return float((at @ audio / (at @ at) - 1) * 1e6)


def decibels(amplitude: float) -> float:
    """20·log10 of an amplitude; −∞ for 0."""
    return 20.0 * math.log10(amplitude) if amplitude > 0 else -math.inf


def stated(level: float) -> float | None:
    """A level as it leaves the process: two decimals, None for −∞ (JSON has no infinity)."""
    return None if level == -math.inf else round(level, 2)
