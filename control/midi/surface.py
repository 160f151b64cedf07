"""A surface's logic: what is heard becomes intents, what is so becomes lights. Pure, with the time given."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from collections.abc import Mapping as MappingOf
from fnmatch import fnmatchcase

import msgspec

from control.midi.coalesce import Coalescer
from control.midi.decoder import Control, Heard, encoded
from control.midi.latch import Guard
from control.midi.mapping import Bound, Do, Lights, Mapping

HALF = 64
"""A controller used as a button is down from here on."""
AGAIN = 0.2
"""Seconds within which a second press of a button without a release is the same one."""
HAND = 1.5
"""Seconds for which a motor fader is left to the hand that moved it."""


class SourceNow(msgspec.Struct, frozen=True, kw_only=True):
    """What a surface shows of a source; `gain_db` None where it has none."""

    state: str
    gain_db: float | None = None


class View(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of the station: its sources, and episode → source of what nobody sees to yet.

    `known` is False where nobody can tell now: then lights show that they do not know.
    """

    known: bool
    sources: MappingOf[str, SourceNow] = {}
    open: MappingOf[int, str] = {}


NOTHING_KNOWN = View(known=False)


class Intent(msgspec.Struct, frozen=True):
    """What somebody wants by a control: for the sources like `source`; `gain_db` of a fader."""

    do: Do
    source: str
    gain_db: float | None = None


class Logic:
    """One surface: not thread-safe, without input or output."""

    def __init__(self, mapping: Mapping) -> None:
        self._mapping = mapping
        self._guard = Guard(mapping.surface.hold_seconds, mapping.arm)
        self._faders: Coalescer[Control] = Coalescer()
        self._pressed: dict[Control, float] = {}
        self._positions: dict[Control, int] = {}
        self._moved: dict[Control, float] = {}
        self._shown: dict[Control, int] = {}

    def hear(self, heard: Heard, at: float) -> list[Intent]:
        """What is wanted by it at once."""
        control, bound = heard.control, self._mapping.bound.get(heard.control)
        if control.kind == "note":
            self._guard.touch(control, down=heard.value > 0)
        elif control.kind == "controller" and (
            control == self._mapping.arm or (bound and bound.do != "gain")
        ):
            self._guard.touch(control, down=heard.value >= HALF)
        if bound is None:
            return []
        if bound.do == "gain":
            self._moved[control] = at
            self._faders.move(control, heard.value, at)
            return []
        return self._button(bound, heard.value, at)

    def tick(self, at: float) -> list[Intent]:
        """What is wanted by what was held, and by faders that came to rest."""
        held = [self._mapping.bound[control] for control in self._guard.matured(at)]
        intents = [Intent(one.do, one.source) for one in held]
        for control, value in self._faders.due(at):
            bound = self._mapping.bound[control]
            intents.append(Intent("gain", bound.source, to_db(value, bound)))
        return intents

    def lights(self, view: View, at: float) -> list[bytes]:
        """The messages that make the surface show the view: for what it does not show already."""
        messages = []
        for bound in self._mapping.bound.values():
            if bound.light is None:
                continue
            value = _light(bound, view, self._mapping.surface.lights)
            if value is None or self._shown.get(bound.light) == value:
                continue
            if bound.do == "gain" and at - self._moved.get(bound.control, -HAND) < HAND:
                continue
            self._shown[bound.light] = value
            messages.append(encoded(bound.light, value))
        return messages

    def forget(self) -> None:
        """The surface was gone: nothing is held or moving, and nothing is known of what it shows."""
        self._guard.forget()
        self._faders.forget()
        self._pressed.clear()
        self._positions.clear()
        self._moved.clear()
        self._shown.clear()

    def _button(self, bound: Bound, value: int, at: float) -> list[Intent]:
        control = bound.control
        down = value >= HALF if control.kind == "controller" else value > 0
        before = self._positions.get(control, 0)
        self._positions[control] = value
        # What the surface lit by itself at a press or release is not what we last sent.
        if bound.light == control:
            self._shown.pop(control, None)
        if not down:
            self._pressed.pop(control, None)
            return []
        if control.kind == "controller" and before >= HALF:
            return []
        if at - self._pressed.get(control, -AGAIN) < AGAIN:
            return []
        self._pressed[control] = at
        if not self._guard.press(control, bound.latch, at):
            return []
        return [Intent(bound.do, bound.source)]


def to_db(value: int, bound: Bound) -> float:
    """The gain that a fader's position means, in steps of a tenth of a decibel."""
    return round(bound.low_db + (bound.high_db - bound.low_db) * value / 127, 1)


def to_value(gain_db: float, bound: Bound) -> int:
    """The position at which a fader shows a gain."""
    part = (gain_db - bound.low_db) / (bound.high_db - bound.low_db)
    return min(max(round(part * 127), 0), 127)


def like(pattern: str, sources: Iterable[str]) -> Iterator[str]:
    """The sources that a binding is about."""
    return (id for id in sources if id == pattern or fnmatchcase(id, pattern))


def _light(bound: Bound, view: View, lights: Lights) -> int | None:
    """The value that shows what is so; None where that is nothing to show."""
    if bound.do == "gain":
        source = view.sources.get(bound.source) if view.known else None
        # A fader stays where it is while nobody knows better.
        return None if source is None or source.gain_db is None else to_value(source.gain_db, bound)
    if not view.known:
        return lights.unknown
    if bound.do == "acknowledge":
        waiting = any(True for _ in like(bound.source, view.open.values()))
        return lights.attention if waiting else 0
    states = {view.sources[id].state for id in like(bound.source, view.sources)}
    if not states:
        return lights.unknown
    if bound.do == "stop":
        return lights.running if states == {"stopped"} else 0
    if bound.do == "restart":
        return lights.starting if "starting" in states else 0
    worst = next((state for state in ("failed", "stalled", "starting") if state in states), None)
    mixed = "starting" if len(states) > 1 else next(iter(states))
    return int(getattr(lights, worst or mixed, lights.unknown))
