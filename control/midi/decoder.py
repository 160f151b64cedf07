"""Bytes of a MIDI cable as messages: running status, real-time bytes in between, and whatever is no MIDI."""

from __future__ import annotations

from typing import Literal

import msgspec

Kind = Literal["note", "controller", "program"]

NOTE_OFF, NOTE_ON, CONTROLLER, PROGRAM, PRESSURE = 0x80, 0x90, 0xB0, 0xC0, 0xD0
EXCLUSIVE, REAL_TIME = 0xF0, 0xF8
STATUS: dict[Kind, int] = {"note": NOTE_ON, "controller": CONTROLLER, "program": PROGRAM}
PRESSED = 127


class Control(msgspec.Struct, frozen=True):
    """A thing on a surface: a note, a controller or a program of a channel (1 to 16); `number` 0 to 127."""

    kind: Kind
    channel: int
    number: int


class Heard(msgspec.Struct, frozen=True):
    """A control and its value, 0 to 127: a note's velocity (0: released), a controller's position."""

    control: Control
    value: int


class Decoder:
    """Reads one cable. What is not about notes, controllers or programs is passed over (MIDI 1.0, page 5)."""

    def __init__(self) -> None:
        self._status = 0
        self._data: list[int] = []

    def feed(self, raw: bytes) -> list[Heard]:
        """The messages that these bytes complete; any bytes may be fed, in pieces of any length."""
        found: list[Heard] = []
        for byte in raw:
            if byte >= REAL_TIME:
                continue  # may stand anywhere, in the middle of a message too
            if byte >= NOTE_OFF:
                # System messages end running status; a system exclusive's data then belong to no status.
                self._status = byte if byte < EXCLUSIVE else 0
                self._data.clear()
            elif self._status:
                self._data.append(byte)
                if len(self._data) == _length(self._status):
                    found += _heard(self._status, self._data)
                    self._data.clear()
        return found


def encoded(control: Control, value: int) -> bytes:
    """The message that gives a control this value: what lights a button or moves a fader."""
    status = {"note": NOTE_ON, "controller": CONTROLLER, "program": PROGRAM}[
        control.kind
    ] | control.channel - 1
    if control.kind == "program":
        return bytes((status, control.number))
    return bytes((status, control.number, value))


def _length(status: int) -> int:
    return 1 if status & 0xF0 in (PROGRAM, PRESSURE) else 2


def _heard(status: int, data: list[int]) -> list[Heard]:
    channel = (status & 0x0F) + 1
    match status & 0xF0:
        case 0x80:
            return [Heard(Control("note", channel, data[0]), 0)]
        case 0x90:
            return [Heard(Control("note", channel, data[0]), data[1])]
        case 0xB0:
            return [Heard(Control("controller", channel, data[0]), data[1])]
        case 0xC0:
            return [Heard(Control("program", channel, data[0]), PRESSED)]
        case _:
            return []
