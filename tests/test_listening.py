"""Listening in: what a node sends of a source that it reads."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
import soundfile

from ingest import on_air as module
from ingest.evidence import Evidence
from ingest.on_air import MOST, RATE, Full, OnAir, header
from ingest.ring import Ring
from ingest.sound import SoundServer
from ingest.turns import LATEST
from streams.sound import RecordingsSection


def tone(hertz: float, seconds: float, rate: int, channels: int = 2) -> np.ndarray:
    """A sine of half the full scale."""
    wave = 0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)
    return np.repeat(wave[:, np.newaxis], channels, axis=1).astype(np.float32)


def ring(hertz: float = 1000.0, rate: int = 44_100) -> Ring:
    """Two seconds of a tone."""
    made = Ring(rate, 2, 5.0)
    made.add(tone(hertz, 2.0, rate))
    return made


@contextmanager
def serving(folder: Path, on_air: OnAir) -> Iterator[httpx.Client]:
    """A node's server, and a client with its pass."""
    server, stop = SoundServer(folder, "127.0.0.1", 0, on_air), threading.Event()
    thread = threading.Thread(target=server.run, args=(stop,))
    thread.start()
    headers = {"Authorization": f"Bearer {server.secret}"}
    try:
        with httpx.Client(base_url=f"http://{server.address}", headers=headers, trust_env=False) as client:
            yield client
    finally:
        stop.set()
        thread.join(10)


def test_a_listener_hears_the_newest_of_a_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A WAV that any player takes: what was heard just now, mixed, at one rate; it ends with the source."""
    monkeypatch.setattr(module, "GONE", 0.5)
    on_air, heard = OnAir(), ring()
    on_air.put("mic", heard)
    with serving(tmp_path, on_air) as node:
        with node.stream("GET", "/sources/mic") as answer:
            assert (answer.status_code, answer.headers["content-type"]) == (200, "audio/wav")
            raw = answer.read()
        assert node.get("/sources/mic", headers={"Authorization": "Bearer other"}).status_code == 401
        on_air.drop("mic", heard)
        assert node.get("/sources/mic").status_code == 404
    # As a file it has a length.
    size = len(raw) - len(header())
    whole = raw[:40] + size.to_bytes(4, "little") + raw[44:]
    samples, rate = soundfile.read(io.BytesIO(whole))
    assert rate == RATE
    assert module.FIRST * 0.8 < len(samples) / RATE <= module.FIRST
    level = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    assert abs(level.argmax() * RATE / len(samples) - 1000) < 5
    assert np.abs(samples).max() == pytest.approx(0.5, abs=0.05)


def test_a_source_that_is_opened_again_goes_on() -> None:
    """What listens goes over to the new ring, whatever its rate and channels are."""
    on_air = OnAir()
    on_air.put("mic", ring())
    with on_air.listening("mic") as pieces:
        assert next(pieces) == header()
        assert len(next(pieces)) > 0
        again = Ring(8000, 1, 5.0)
        again.add(tone(440, 0.4, 8000, channels=1))
        on_air.put("mic", again)
        assert len(next(pieces)) / 2 / RATE == pytest.approx(0.4, abs=0.1)


def test_there_are_only_so_many_listeners() -> None:
    """Each takes a thread of the node: more are refused until somebody leaves, even before it heard any."""
    on_air = OnAir()
    with ExitStack() as listeners:
        for _ in range(MOST):
            listeners.enter_context(on_air.listening("mic"))
        with pytest.raises(Full):
            listeners.enter_context(on_air.listening("mic"))
    with on_air.listening("mic") as pieces:
        assert next(pieces) == header()


def test_what_is_read_is_on_air_until_it_is_closed() -> None:
    """A source is heard from its opening to its end; another's ring of the same name is left alone."""
    on_air = OnAir()
    section = RecordingsSection()
    evidence = Evidence(("node.here", "s"), section, None, lambda fact: None, on_air=on_air)
    evidence.open(48_000, 2, 0.0, live=True)
    assert on_air.has("s")
    evidence.close()
    assert not on_air.has("s")
    evidence.open(48_000, 2, 10.0, live=True)
    other = ring()
    on_air.put("s", other)
    evidence.close()
    assert on_air.has("s")


def test_a_player_is_never_short_of_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is sent at once lasts until the next block, also where a node has so many sources that it reads
    each of them only every half second.
    """
    rate, on_air, heard = 8_000, OnAir(), Ring(8_000, 1, 5.0)
    block = tone(440, LATEST, rate, channels=1)
    clock = SimpleNamespace(now=0.0, read=LATEST)

    def sleep(seconds: float) -> None:
        """A block is read each time that one has been played."""
        clock.now += seconds
        while clock.read <= clock.now:
            heard.add(block)
            clock.read += LATEST

    for _ in range(3):
        heard.add(block)
    clock.sleep, clock.monotonic = sleep, lambda: clock.now
    monkeypatch.setattr(module, "time", clock)
    on_air.put("mic", heard)
    ahead = []
    with on_air.listening("mic") as pieces:
        next(pieces)
        sent = len(next(pieces))
        for _ in range(10):
            piece = next(pieces)
            # What had been sent until this came.
            ahead.append(sent / 2 / RATE - clock.now)
            sent += len(piece)
    assert min(ahead) > 0
