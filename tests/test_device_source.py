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

import pytest

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
told = {"blocks": []}
try:
    audio = inputs.open(msgspec.convert(json.loads(sys.argv[1]), DeviceSettings))
    for block in audio.blocks():
        if len(block):
            told["blocks"].append(list(block.shape))
        if len(told["blocks"]) == 20 and "--on" not in sys.argv:
            break
        if len(told["blocks"]) == 5 and "--on" in sys.argv:
            print("hears", flush=True)
    told |= {"rate": audio.rate, "channels": audio.channels, "live": audio.is_live}
    audio.close()
except SourceFailed as error:
    told["failed"] = str(error)
print(json.dumps(told), flush=True)
if "--on" in sys.argv:
    os._exit(0)  # PortAudio waits for a server that is no more
"""

LATE = """
import json
import msgspec
from ingest import device_source
from streams.vocabulary import DeviceSettings
from tests.fix_servers import eventually
device_source.HELD = 10
audio = device_source.DeviceSource(DeviceSettings(device="system"), 2.0)
eventually(lambda: audio.lost >= 5, "blocks to be lost", 20)
audio._stream.stop()
told = {"waiting": msgspec.to_builtins(audio.waiting), "lost": audio.lost * 0.1}
audio.close()
print(json.dumps(told))
"""
LOOP = """
import json, sys
import numpy as np
import sounddevice
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
    source = DeviceSource(wanted, 5.0)
    heard = source.blocks()
    blocks = [block for block, _ in zip((one for one in heard if len(one)), range(20))]
    source.close()
sound = np.concatenate(blocks[10:])[:, 0]
spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound))))
told = {"hertz": np.argmax(spectrum) * 48000 / len(sound), "rms": float(np.sqrt(np.mean(sound**2)))}
print(json.dumps(told))
"""
CARD = Path("/proc/asound/Loopback")


@pytest.fixture
def jack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[bytes]]:
    """A JACK server with the dummy driver, by whose name the environment goes."""
    if shutil.which("jackd") is None:
        pytest.skip("real part missing: jackd")
    if ctypes.util.find_library("portaudio") is None:
        pytest.skip("real part missing: libportaudio2")
    name, output = f"tocsin-{uuid.uuid4().hex[:8]}", tmp_path_factory.mktemp("jack") / "jack.log"
    os.environ["JACK_DEFAULT_SERVER"], os.environ["JACK_NO_AUDIO_RESERVATION"] = name, "1"
    with output.open("wb") as file:
        server = subprocess.Popen(
            ["jackd", "-n", name, "-r", "-d", "dummy", "-r", "48000", "-p", "1024"], stdout=file, stderr=file
        )
    try:
        eventually(lambda: "system" in tocsin("source", "device", "list").stdout, "JACK to be there", 90)
        yield server
    finally:
        if server.poll() is None:
            server.terminate()
        server.wait(10)
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
    assert told["waiting"] == {"seconds": 1.0, "most": 1.0, "dropped": pytest.approx(told["lost"])}
    assert told["lost"] >= 0.5


def test_a_device_that_goes_away(jack: subprocess.Popen[bytes]) -> None:
    """The server dies, as an unplugged card does: the source fails by its own name."""
    argv = [sys.executable, "-c", LISTEN, '{"kind": "device", "device": "system"}', "--on"]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "hears\n"
        jack.kill()
        try:
            assert process.wait(30) == 0
        finally:
            process.kill()
        assert "device 'system' gives nothing any more" in process.stdout.read()


@pytest.mark.skipif(not CARD.exists(), reason="real part missing: ALSA's loopback")
def test_what_is_played_into_a_card_is_heard() -> None:
    """A tone that goes into one end of ALSA's loopback comes out of the other, as a source hears it."""
    told = json.loads(run(LOOP, CARD.readlink().name.removeprefix("card")))
    assert told["hertz"] == pytest.approx(1000, abs=2)
    assert told["rms"] == pytest.approx(0.5 / 2**0.5, rel=0.05)


def test_without_the_extra_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where sounddevice is not installed, the source fails with what to do, and nothing else is harmed."""
    from ingest.device_source import MISSING, devices
    from ingest.file_source import SourceFailed

    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(SourceFailed, match="libportaudio2") as failure:
        devices()
    assert str(failure.value) == MISSING
