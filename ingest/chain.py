"""What the audio of a source goes through once it is read: evidence, the decoder of alerts, the meters."""

from __future__ import annotations

from collections.abc import Callable

from ingest.backlog import Waiting
from ingest.evidence import Evidence
from ingest.listener import Listener, Noted
from ingest.meters import Block, Gauge
from ingest.turns import TURN


class Chain:
    """One opening of a source, at `rate` Hz with so many channels. Called by the audio's thread alone.

    `offset` are the seconds of its audio before, `live` whether a second of audio takes a second. `tell`
    gets each fact of an alert. `gauge` measures it, where it is measured. `injected` marks all that is
    heard as a test.
    """

    def __init__(
        self,
        source: str,
        rate: int,
        channels: int,
        *,
        offset: float,
        live: bool,
        evidence: Evidence,
        gauge: Gauge | None,
        tell: Callable[[Noted], None],
        injected: bool = False,
    ) -> None:
        self._evidence, self._gauge, self._tell = evidence, gauge, tell
        self._noted: list[Noted] = []
        evidence.open(rate, channels, offset, live=live)
        self._listener = Listener(source, rate, offset=offset, live=live, tell=self._heard, injected=injected)

    @property
    def decoded(self) -> float:
        """Seconds of audio that went through the decoder."""
        return self._listener.decoded

    @property
    def full(self) -> bool:
        """Whether the meters are so far behind that they would leave out what comes next."""
        return self._gauge is not None and self._gauge.full

    def add(self, block: Block, waiting: Waiting | None = None, title: str | None = None) -> None:
        """Take the newest block, shape (frames, channels); it must not be changed afterwards.

        `waiting` is what stands behind it, where that is known; `title` what is played.
        """
        self._evidence.make_room(len(block))
        with TURN:
            # First of all it is kept: a recording begins before what is heard in it.
            self._evidence.add(block)
            self._listener.add(block)
        self._tell_all()
        if self._gauge is not None:
            self._gauge.decoded, self._gauge.title = self.decoded, title
            if waiting is not None:
                self._gauge.buffer(waiting.seconds, waiting.most, waiting.dropped)
            self._gauge.add(block)

    def finish(self) -> None:
        """The audio ends here: tell what was still being listened to."""
        with TURN:
            self._listener.finish()
        self._tell_all()

    def close(self) -> None:
        """Measure what is there, and no more."""
        if self._gauge is not None:
            self._gauge.finish()

    def _heard(self, noted: Noted) -> None:
        self._evidence.note(noted.fact)
        # Told once it is another's turn: who is told may wait for a disk.
        self._noted.append(noted)

    def _tell_all(self) -> None:
        noted, self._noted = self._noted, []
        for one in noted:
            self._tell(one)
