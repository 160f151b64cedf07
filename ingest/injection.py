"""Playing a recording through what a source's audio goes through, as a test that is marked as one.

It has a decoder, a ring and a recorder of its own beside the source's, which goes on being listened to: an
alert that comes during a test is heard.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

from ingest.chain import Chain
from ingest.evidence import Evidence
from ingest.file_source import SourceFailed
from ingest.listener import Noted
from ingest.meters import Block
from ingest.recording import Recording, opened
from ingest.signal_path import SignalPath, Wanted
from streams.alerts import AlertReceived

LONGEST = 600.0
"""Seconds of audio that a test may have."""


def inject(
    source: str,
    path: str,
    wanted: Wanted,
    evidence: Evidence,
    tell: Callable[[Noted], None],
    cancelled: threading.Event,
) -> list[str]:
    """Play the recording as fast as it goes; the headers that were heard. Raises SourceFailed.

    `wanted` is what the source's settings wish of its signal path.
    """
    recording = opened(path)
    shape = SignalPath(wanted)
    headers: list[str] = []

    def heard(noted: Noted) -> None:
        if isinstance(noted.fact, AlertReceived):
            headers.append(noted.fact.header)
        tell(noted)

    chain: Chain | None = None
    played = 0.0
    try:
        for block in _shaped(recording, shape):
            if chain is None:
                chain = Chain(
                    source, shape.rate, shape.channels, offset=0.0, live=False, evidence=evidence,
                    gauge=None, tell=heard, injected=True,
                )  # fmt: skip
            chain.add(block)
            played += len(block) / shape.rate
            if cancelled.is_set():
                raise SourceFailed(f"the test was broken off after {played:.1f} s")
            if played > LONGEST:
                raise SourceFailed(f"{path} is longer than {LONGEST:g} s: give a shorter recording")
        if chain is not None:
            chain.finish()
    finally:
        evidence.close()
    return headers


def _shaped(recording: Recording, shape: SignalPath) -> Iterator[Block]:
    """The recording as it leaves the source's signal path; what is resampled lags a little."""
    for block in recording.blocks:
        if len(shaped := shape.feed(block, recording.rate)):
            yield shaped
    if len(rest := shape.flush()):
        yield rest
