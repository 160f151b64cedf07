"""A control surface on real MIDI ports: JACK without a sound card."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from control.midi.decoder import Control, Decoder, encoded
from tests.fix_servers import eventually


class Surface:
    """A surface with buttons, faders and lights, plugged in and out under one name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.shown: dict[Control, int] = {}
        self.heard = 0
        self._decoder = Decoder()
        self._ports: list[Any] = []

    def plug(self) -> None:
        """Plug it in: nothing is lit."""
        import rtmidi

        out = rtmidi.MidiOut(rtmidi.API_UNIX_JACK, name=self.name)
        out.open_virtual_port("keys")
        lights = rtmidi.MidiIn(rtmidi.API_UNIX_JACK, name=self.name)
        lights.open_virtual_port("lights")
        lights.set_callback(self._light)
        self._ports, self.shown = [out, lights], {}

    def unplug(self) -> None:
        """Pull the plug."""
        for port in self._ports:
            port.close_port()
            port.delete()
        self._ports = []

    def say(self, control: Control, value: int) -> None:
        """Touch a control."""
        self._ports[0].send_message(encoded(control, value))

    def raw(self, message: bytes) -> None:
        """Say any bytes."""
        self._ports[0].send_message(message)

    def tap(self, control: Control) -> None:
        """Press a button and let it go."""
        self.say(control, 100)
        time.sleep(0.05)
        self.say(control, 0)

    def _light(self, event: tuple[list[int], float], _: Any) -> None:
        for one in self._decoder.feed(bytes(event[0])):
            self.heard += 1
            self.shown[one.control] = one.value


@pytest.fixture(scope="session")
def jack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A JACK server of the tests' own, without a sound card; the environment that names it."""
    pytest.importorskip("rtmidi", reason="real part missing: python-rtmidi")
    if shutil.which("jackd") is None:
        pytest.skip("real part missing: jackd")
    name = f"tocsin-{uuid.uuid4().hex[:8]}"
    env = {"JACK_DEFAULT_SERVER": name, "JACK_NO_START_SERVER": "1", "JACK_NO_AUDIO_RESERVATION": "1"}
    output: Path = tmp_path_factory.mktemp("jack") / "output"
    with output.open("wb") as file:
        # Large periods: it shares its processors with other tests, and MIDI needs no quick ones.
        server = subprocess.Popen(
            ["jackd", "-n", name, "-r", "-d", "dummy", "-r", "8000", "-p", "64"], stdout=file, stderr=file
        )
    before = {key: os.environ.get(key) for key in env}
    os.environ.update(env)
    try:
        eventually(lambda: _answers(server, output), "a JACK server", 20)
        yield env
    finally:
        server.terminate()
        server.wait(10)
        for key, value in before.items():
            os.environ.pop(key, None) if value is None else os.environ.update({key: value})


def _answers(server: subprocess.Popen[bytes], output: Path) -> bool:
    import rtmidi

    if server.poll() is not None:
        print(output.read_text()[-300:])
        pytest.skip("real part missing: jackd that starts")
    try:
        probe = rtmidi.MidiIn(rtmidi.API_UNIX_JACK, name="probe")
        probe.get_ports()
        probe.delete()
    except Exception:  # of rtmidi: not there yet
        return False
    return True


@pytest.fixture
def surface(jack: dict[str, str]) -> Iterator[Surface]:
    """A surface that is plugged in."""
    made = Surface(f"nano{uuid.uuid4().hex[:4]}")
    made.plug()
    yield made
    made.unplug()
