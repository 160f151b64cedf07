"""MIDI ports of this machine, by python-rtmidi: which there are, listening to one, sending to one."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

Api = Literal["alsa", "jack"]
CLIENT = "tocsin"
KEPT = 1024
"""Messages that may wait to be read; of a flood beyond that the oldest go: what is last counts."""


class NoMidi(Exception):
    """Raised when this machine, or this Python, has no MIDI."""


class PortLost(Exception):
    """Raised when a port that is sent to is gone."""


class Cable:
    """An open surface: what it says, and a way to tell it something. `lost` once its port is gone."""

    def __init__(self, input: Any, output: Any | None, name: str) -> None:
        self.name = name
        self.dropped = 0
        self._input = input
        self._output = output
        self._heard: deque[bytes] = deque()
        self._some = threading.Event()
        input.set_callback(self._hear)

    def _hear(self, event: tuple[list[int], float], _: Any) -> None:
        # In a thread of the MIDI library: nothing here waits or raises.
        if len(self._heard) >= KEPT:
            self._heard.popleft()
            self.dropped += 1
        self._heard.append(bytes(event[0]))
        self._some.set()

    def read(self, seconds: float) -> bytes:
        """What was said since the last read; waits at most so long for something."""
        self._some.wait(seconds)
        self._some.clear()
        raw = bytearray()
        while self._heard:
            raw += self._heard.popleft()
        return bytes(raw)

    def send(self, message: bytes) -> None:
        """Tell the surface something; nothing where it has no input of its own. Raises PortLost."""
        if self._output is None:
            return
        try:
            self._output.send_message(message)
        except Exception as error:  # of rtmidi, which has errors of its own for each kind of port
            raise PortLost(f"{self.name}: {error}") from error

    def close(self) -> None:
        """Let go of both ports."""
        self._input.cancel_callback()
        for port in (self._input, self._output):
            if port is not None:
                port.close_port()
                port.delete()


class Ports:
    """The ports of one MIDI system, which change as surfaces are plugged in and out."""

    def __init__(self, api: Api | None = None) -> None:
        rtmidi, self._api = _library(api)
        self._rtmidi = rtmidi
        self._inputs = rtmidi.MidiIn(self._api, name=CLIENT)
        self._outputs = rtmidi.MidiOut(self._api, name=CLIENT)

    def inputs(self) -> list[str]:
        """Names of the ports that can be listened to."""
        return list(self._inputs.get_ports())

    def outputs(self) -> list[str]:
        """Names of the ports that can be sent to."""
        return list(self._outputs.get_ports())

    def has(self, cable: Cable) -> bool:
        """Whether its port is still there."""
        return cable.name in self.inputs()

    def open(self, part: str, output: str = "") -> Cable | None:
        """The first port whose name has this part (of any case); None where there is none now."""
        names = self.inputs()
        found = _first(part, names)
        if found is None:
            return None
        input = self._rtmidi.MidiIn(self._api, name=CLIENT)
        try:
            input.open_port(found, "in")
        except Exception:  # it went between looking and opening: the next look will tell
            input.delete()
            return None
        input.ignore_types(sysex=True, timing=True, active_sense=True)
        return Cable(input, self._sending(output or part), names[found])

    def _sending(self, part: str) -> Any | None:
        found = _first(part, self.outputs())
        if found is None:
            return None
        output = self._rtmidi.MidiOut(self._api, name=CLIENT)
        try:
            output.open_port(found, "out")
        except Exception:  # as above; a surface is of use without its lights
            output.delete()
            return None
        return output

    def close(self) -> None:
        """Let go of the MIDI system."""
        self._inputs.delete()
        self._outputs.delete()


@contextmanager
def ports(api: Api | None = None) -> Iterator[Ports]:
    """The ports of this machine, meanwhile. Raises NoMidi."""
    found = Ports(api)
    try:
        yield found
    finally:
        found.close()


def _first(part: str, names: list[str]) -> int | None:
    wanted = part.casefold()
    return next((index for index, name in enumerate(names) if wanted in name.casefold()), None)


def _library(api: Api | None) -> tuple[Any, int]:
    """python-rtmidi, and which MIDI system of it works here: ALSA's sequencer before JACK. Raises NoMidi."""
    try:
        import rtmidi
    except ImportError:
        raise NoMidi("python-rtmidi is not installed: it has wheels up to Python 3.12 only") from None
    known = {"alsa": rtmidi.API_LINUX_ALSA, "jack": rtmidi.API_UNIX_JACK}
    why = []
    for name in (api,) if api else known:
        number = known[name]
        if number not in rtmidi.get_compiled_api():
            why.append(f"{name} is not built in")
            continue
        try:
            _works(rtmidi.MidiIn, number)
        except Exception as error:  # rtmidi's own, of several kinds
            why.append(f"{name}: {error}")
            continue
        return rtmidi, number
    raise NoMidi("; ".join(why))


def _works(port: Callable[..., Any], api: int) -> None:
    probe = port(api, name=CLIENT)
    probe.get_ports()
    probe.delete()
