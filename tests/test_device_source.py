"""Sound cards as sources, over JACK without a sound card; in processes of their own, for PortAudio stays."""

from __future__ import annotations

import ctypes.util
import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from ingest.decoding.card import MISSING, NoCard, cards
from tests.fix_servers import eventually

ROOT = Path(__file__).parent.parent
LISTEN = """
import json, os, sys
from ingest.inputs import Inputs
from ingest.file_source import SourceFailed
from streams.inputs import FetchSection
from streams.vocabulary import DeviceSettings
import msgspec
inputs = Inputs(FetchSection(give_up_after=2.0))
wanted = msgspec.convert(json.loads(sys.argv[1]), DeviceSettings)
while True:
    told = {"blocks": []}
    audio = inputs.open(wanted)
    try:
        for block in audio.blocks():
            if len(block):
                told["blocks"].append(list(block.shape))
            if len(told["blocks"]) == 20 and "--on" not in sys.argv:
                break
            if len(told["blocks"]) == 5 and len(block):
                print("hears", flush=True)
        told |= {"rate": audio.rate, "channels": audio.channels, "live": audio.is_live}
    except SourceFailed as error:
        told["failed"] = str(error)
    audio.close()
    print(json.dumps(told), flush=True)
    if "--on" not in sys.argv:
        break
inputs.close()
"""

LATE = """
import json, os, signal, time
from ingest.backlog import capacity, unread
from ingest.decoding import card
from ingest.decoding.nursery import Decoder
from ingest.decoding.wire import CardTask
from tests.fix_servers import eventually
card.HELD = 10
source, target = os.pipe()
child = os.fork()
if not child:
    os._exit(card.capture(target, CardTask(device="system")))
eventually(lambda: unread(source) > capacity(source) * 0.9, "a full pipe", 20)
time.sleep(2)  # what is tested is the passing of this time: one second is kept
heard = Decoder(0, -1, os.dup(source), source, -1)
for block in heard.blocks():
    if heard.waiting.dropped:
        break
print(json.dumps({"dropped": heard.waiting.dropped, "shape": list(block.shape)}), flush=True)
os.kill(child, signal.SIGKILL)
"""
LOOP = """
import json, sys
import numpy as np
import sounddevice
from ingest.decoding.nursery import Nursery
from ingest.device_source import DeviceSource
from streams.vocabulary import DeviceSettings
card, at = sys.argv[1], 0
def tone(out, frames, when, status):
    global at
    out[:] = 0.5 * np.sin(2 * np.pi * 1000 / 48000 * np.arange(at, at + frames))[:, np.newaxis]
    at += frames
played = next(i for i, one in enumerate(sounddevice.query_devices()) if f"(hw:{card},0)" in one["name"])
wanted = DeviceSettings(device=f"(hw:{card},1)", capture_rate=48000, capture_channels=2)
with sounddevice.OutputStream(device=played, samplerate=48000, channels=2, dtype="float32", callback=tone):
    source = DeviceSource(wanted, 5.0, Nursery())
    heard = source.blocks()
    blocks = [block for block, _ in zip((one for one in heard if len(one)), range(20))]
    source.close()
sound = np.concatenate(blocks[10:])[:, 0]
spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound))))
told = {"hertz": np.argmax(spectrum) * 48000 / len(sound), "rms": float(np.sqrt(np.mean(sound**2)))}
print(json.dumps(told))
"""
CARD = Path("/proc/asound/Loopback")


class Jack:
    """A JACK server with the dummy driver, which may be killed and started again."""

    def __init__(self, output: Path) -> None:
        self._name = f"tocsin-{uuid.uuid4().hex[:8]}"
        self._output = output
        self._server: subprocess.Popen[bytes] | None = None
        os.environ["JACK_DEFAULT_SERVER"], os.environ["JACK_NO_AUDIO_RESERVATION"] = self._name, "1"

    def start(self) -> None:
        """Start it, and wait until it is there."""
        argv = ["jackd", "-n", self._name, "-r", "-d", "dummy", "-r", "48000", "-p", "1024"]
        with self._output.open("ab") as file:
            self._server = subprocess.Popen(argv, stdout=file, stderr=file)
        eventually(lambda: "system" in tocsin("source", "device", "list").stdout, "JACK to be there", 90)

    def kill(self) -> None:
        """SIGKILL it."""
        assert self._server is not None
        self._server.kill()
        self._server.wait(10)

    def end(self) -> None:
        """End it, if it runs."""
        if self._server is not None and self._server.poll() is None:
            self._server.terminate()
            self._server.wait(10)


@pytest.fixture
def jack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jack]:
    """A JACK server, by whose name the environment goes."""
    if shutil.which("jackd") is None:
        pytest.skip("real part missing: jackd")
    if ctypes.util.find_library("portaudio") is None:
        pytest.skip("real part missing: libportaudio2")
    server = Jack(tmp_path_factory.mktemp("jack") / "jack.log")
    try:
        server.start()
        yield server
    finally:
        server.end()
        del os.environ["JACK_DEFAULT_SERVER"]


def tocsin(*words: str) -> subprocess.CompletedProcess[str]:
    """The command line, in a process of its own."""
    argv = [sys.executable, "-m", "control.composition", *words]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def run(program: str, *words: str) -> str:
    """The last line that a process of its own prints."""
    argv = [sys.executable, "-c", program, *words]
    ran = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()[-1]


def listen(settings: str) -> dict[str, object]:
    """What a process tells that listens to a device for two seconds."""
    told: dict[str, object] = json.loads(run(LISTEN, settings))
    return told


@pytest.mark.usefixtures("jack")
def test_devices_are_listed_and_heard() -> None:
    """`tocsin source device list` names them; blocks of a tenth of a second come at the rate asked for."""
    [device] = json.loads(tocsin("source", "device", "list", "--json").stdout)["devices"]
    assert (device["name"], device["channels"], device["rate"]) == ("system", 2, 48_000)
    told = listen('{"kind": "device", "device": "system"}')
    assert told["blocks"] == [[4800, 2]] * 20
    assert (told["rate"], told["channels"], told["live"]) == (48_000, 2, True)
    shaped = listen('{"kind": "device", "device": "sys", "channel": 2, "rate": 24000}')
    assert (shaped["rate"], shaped["channels"]) == (24_000, 1)
    missing = listen('{"kind": "device", "device": "Scarlett"}')
    assert missing["failed"] == "there is no device 'Scarlett' here; there is 'system'"
    odd = listen('{"kind": "device", "device": "system", "capture_channels": 7}')
    assert "device 'system' cannot be opened" in str(odd["failed"])


@pytest.mark.usefixtures("jack")
def test_a_device_that_nobody_reads_says_what_it_lost() -> None:
    """A second is kept for who comes late; what the card gives beyond that is counted."""
    told = json.loads(run(LATE))
    assert 0.5 <= told["dropped"] <= 20
    assert told["shape"] == [4800, 2]


def test_a_device_that_goes_away_and_comes_back(jack: Jack) -> None:
    """The server dies, as an unplugged card does: the source fails by its name, and hears once it is back.

    What was plugged in later than the node started is found, too.
    """
    jack.kill()
    argv = [sys.executable, "-c", LISTEN, '{"kind": "device", "device": "system"}', "--on"]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert "there is no device 'system' here" in process.stdout.readline()
            for leave in (jack.kill, jack.end):
                jack.start()
                said = heard(process.stdout)
                leave()
                assert said
                assert "device 'system' gives nothing any more" in process.stdout.readline()
        finally:
            process.kill()


def heard(output: IO[str]) -> bool:
    """Whether it says at last that it hears."""
    return any(line == "hears\n" for line in output)


@pytest.mark.skipif(not CARD.exists(), reason="real part missing: ALSA's loopback")
def test_what_is_played_into_a_card_is_heard() -> None:
    """A tone that goes into one end of ALSA's loopback comes out of the other, as a source hears it."""
    told = json.loads(run(LOOP, CARD.readlink().name.removeprefix("card")))
    assert told["hertz"] == pytest.approx(1000, abs=2)
    assert told["rms"] == pytest.approx(0.5 / 2**0.5, rel=0.05)


def test_without_the_extra_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where sounddevice is not installed, the source fails with what to do, and nothing else is harmed."""
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(NoCard, match="libportaudio2") as failure:
        cards()
    assert str(failure.value) == MISSING
