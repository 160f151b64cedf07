"""A source that crashes, floods, stalls or lies harms itself only: its neighbours lose no sample."""

from __future__ import annotations

import io
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import psutil
import pytest
import soundfile

from ingest.capture import Capture
from ingest.decoding.nursery import Nursery
from ingest.inputs import Inputs
from ingest.meters import Block
from streams.inputs import FetchSection
from streams.vocabulary import StreamSettings
from tests.fix_ingest import Heard, equipment, unrecorded
from tests.fix_radio import HERE, RATE, Radio, Request, tone
from tests.fix_servers import eventually

SECONDS, MORE = 3.0, 1.5
"""How long a neighbour is listened to, and how much more is sent: decoders hold back the last of it."""


@contextmanager
def capturing(inputs: Inputs, heard: Heard, url: str) -> Iterator[Capture]:
    """A capture of a stream, meanwhile."""
    settings = StreamSettings(url=url)
    capture = Capture(
        "s", settings, report=heard.report, hear=heard.hear, watch=heard.watch, telemetry=heard,
        equipment=equipment(), evidence=unrecorded(), inputs=inputs,
    )  # fmt: skip
    capture.start()
    try:
        yield capture
    finally:
        capture.stop()


@pytest.fixture
def inputs(nursery: Nursery) -> Inputs:
    """A node that may fetch from its own machine, and waits as long as any."""
    return Inputs(FetchSection(private=HERE, give_up_after=4.0), nursery=nursery)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Failures are followed by short pauses."""
    monkeypatch.setattr("ingest.capture.FIRST_PAUSE", 0.1)


def decoders() -> list[int]:
    """The decoding processes that run."""
    nursery = next(
        child for child in psutil.Process().children() if "ingest.decoding.forking" in child.cmdline()
    )
    return [child.pid for child in nursery.children()]


def flood(request: Request) -> None:
    """As many bytes of sound as are taken."""
    request.begin(Content_Type="audio/mpeg")
    while not request.radio.over.is_set():
        request.wfile.write(tone(500))


def liar(request: Request) -> None:
    """WAV by its header with 4,000,000,000 Hz and 60,000 channels, without end."""
    request.begin(Content_Type="audio/wav")
    format = b"WAVEfmt \x10\0\0\0\x01\0\x60\xea\0\x28\x6b\xee\0\0\0\0\x02\0\x10\0"
    header = b"RIFF\xff\xff\xff\xff" + format + b"data\xff\xff\xff\xff"
    request.wfile.write(header)
    while not request.radio.over.is_set():
        request.wfile.write(bytes(4096))
        request.radio.over.wait(0.01)


class Neighbour:
    """Listens to a stream that is sent in its own time, and keeps every sample of it."""

    def __init__(self, inputs: Inputs, radio: Radio) -> None:
        noise = np.random.default_rng(2).integers(-20_000, 20_000, round((SECONDS + MORE) * RATE)) / 32768
        self.sent = noise.astype(np.float32)
        written = io.BytesIO()
        soundfile.write(written, self.sent, RATE, format="FLAC", subtype="PCM_16")
        data = written.getvalue()
        parts = [data[at : at + 4096] for at in range(0, len(data), 4096)]
        pause = (SECONDS + MORE) / len(parts)

        def answer(request: Request) -> None:
            request.begin(Content_Type="audio/flac")
            request.on(*parts, pause=pause)
            request.hang()

        radio.at["/neighbour"] = answer
        self.source = inputs.open(StreamSettings(url=radio.url("/neighbour")))
        self.blocks: list[Block] = []
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        for block in self.source.blocks():
            if len(block):
                self.blocks.append(block[:, 0].copy())
            if self.heard >= SECONDS:
                return

    @property
    def heard(self) -> float:
        """Seconds."""
        return sum(map(len, self.blocks)) / RATE

    def has_lost_nothing(self) -> bool:
        """Wait for its end, and compare what was heard with what was sent."""
        self._thread.join(30)
        self.source.close()
        got = np.concatenate(self.blocks)
        return bool(len(got) >= RATE * SECONDS and np.array_equal(got, self.sent[: len(got)]))


def test_a_decoder_that_crashes(inputs: Inputs, radio: Radio) -> None:
    """SIGSEGV to one source's decoding process: it says why and comes back; the other loses no sample."""
    one = Heard()
    with capturing(inputs, one, radio.live("/one", tone(500, seconds=4.0), 4.0)):
        eventually(lambda: one.levels, "one to be heard")
        [decoder] = decoders()
        other = Neighbour(inputs, radio)
        eventually(lambda: other.heard, "the other to be heard")
        os.kill(decoder, signal.SIGSEGV)
        eventually(lambda: one.states() == ["running", "failed", "running"], "one to come back")
        assert one.reports[1].fact.reason == "its decoder ended: killed by SIGSEGV"
        assert other.has_lost_nothing()


def test_bad_neighbours(inputs: Inputs, radio: Radio, mute: int) -> None:
    """One that floods, one that lies about its format, one that says nothing: the other loses no sample."""
    radio.at["/flood"], radio.at["/liar"] = flood, liar
    flooding, lying, silent = Heard(), Heard(), Heard()
    with (
        capturing(inputs, flooding, radio.url("/flood")) as capture,
        capturing(inputs, lying, radio.url("/liar")),
        capturing(inputs, silent, f"http://127.0.0.1:{mute}/"),
    ):
        assert Neighbour(inputs, radio).has_lost_nothing()
        # What it may be ahead is taken at once; from then on it is read as fast as it plays.
        eventually(lambda: capture.decoded >= 59.0, "what it may be ahead")
        assert capture.decoded < 90.0
        eventually(lambda: lying.states()[:1] == silent.states()[:1] == ["failed"], "their failures")
