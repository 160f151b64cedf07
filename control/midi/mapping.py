"""The file that says what the controls of a surface do."""

from __future__ import annotations

import tomllib
from typing import Annotated, Literal

import msgspec

from control.midi.decoder import Control, Kind

Do = Literal["start", "stop", "restart", "acknowledge", "gain"]
Latch = Literal["none", "hold", "two"]

DESTRUCTIVE: frozenset[Do] = frozenset({"stop", "restart"})
"""What takes a source off the air, and needs a latch unless its binding says otherwise."""

Seven = Annotated[int, msgspec.Meta(ge=0, le=127)]
Channel = Annotated[int, msgspec.Meta(ge=1, le=16)]
Decibels = Annotated[float, msgspec.Meta(ge=-60, le=60)]


class Named(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A control: one of `note`, `controller` and `program`, on a `channel`."""

    note: Seven | None = None
    controller: Seven | None = None
    program: Seven | None = None
    channel: Channel = 1

    def control(self) -> Control:
        """The control that is named. Raises ValueError where none is, or more than one."""
        numbers: dict[Kind, int | None] = {
            "note": self.note,
            "controller": self.controller,
            "program": self.program,
        }
        named = [Control(kind, self.channel, at) for kind, at in numbers.items() if at is not None]
        if len(named) != 1:
            raise ValueError("name one of note, controller and program")
        return named[0]


class Bind(Named, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a control does, to the sources whose id is `source` (for buttons a pattern as 'west-*' too).

    A `gain` fader goes from `low_db` to `high_db`. `light` is what shows the state; by default the control
    itself. `latch` is what guards it; by default the surface's for what takes a source off the air.
    """

    do: Do
    source: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    low_db: Decibels = -30.0
    high_db: Decibels = 12.0
    light: Named | None = None
    latch: Latch | None = None


class Lights(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The value that a light gets in each state; many surfaces choose the colour by it."""

    running: Seven = 127
    starting: Seven = 64
    stalled: Seven = 64
    failed: Seven = 1
    stopped: Seven = 0
    unknown: Seven = 0
    attention: Seven = 127
    """Of an acknowledge button: somebody should see to something."""


class Surface(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A surface: part of its port's name, its latch, its lights, and what its controls do.

    `output` is part of the name of the port that lights are sent to, where that is another.
    """

    port: Annotated[str, msgspec.Meta(min_length=1)]
    output: str = ""
    latch: Literal["hold", "two"] = "hold"
    hold_seconds: Annotated[float, msgspec.Meta(ge=0.2, le=10)] = 1.0
    arm: Named | None = None
    lights: Lights = Lights()
    bind: list[Bind]


class Bound(msgspec.Struct, frozen=True, kw_only=True):
    """A binding as it works, with its control, its light and its latch."""

    control: Control
    do: Do
    source: str
    low_db: float
    high_db: float
    light: Control | None
    latch: Latch


class Mapping(msgspec.Struct, frozen=True, kw_only=True):
    """A surface's file, found to make sense."""

    surface: Surface
    arm: Control | None
    bound: dict[Control, Bound]


class Unmappable(ValueError):
    """Raised when a mapping makes no sense; `field` is where."""

    def __init__(self, field: str, detail: str) -> None:
        super().__init__(f"{field}: {detail}" if field else detail)
        self.field = field


def parse(text: str) -> Mapping:
    """The mapping of a file (TOML). Raises Unmappable."""
    try:
        surface = msgspec.convert(tomllib.loads(text), Surface)
    except tomllib.TOMLDecodeError as error:
        raise Unmappable("", f"this is no TOML: {error}") from None
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$")
        raise Unmappable(where.lstrip(".").rstrip("`"), what) from None
    arm = _control("arm", surface.arm) if surface.arm else None
    bound: dict[Control, Bound] = {}
    for index, one in enumerate(surface.bind):
        made = _bound(f"bind[{index}]", one, surface)
        if made.control in bound or made.control == arm:
            raise Unmappable(f"bind[{index}]", f"{describe(made.control)} is bound already")
        bound[made.control] = made
    return Mapping(surface=surface, arm=arm, bound=bound)


def describe(control: Control) -> str:
    """A control in the words of a mapping."""
    return f"{control.kind} {control.number} on channel {control.channel}"


def _control(field: str, named: Named) -> Control:
    try:
        return named.control()
    except ValueError as error:
        raise Unmappable(field, str(error)) from None


def _bound(field: str, one: Bind, surface: Surface) -> Bound:
    control = _control(field, one)
    latch: Latch = one.latch or (surface.latch if one.do in DESTRUCTIVE else "none")
    if one.do == "gain" and control.kind != "controller":
        raise Unmappable(f"{field}.do", "gain needs a controller: notes and programs have no position")
    if one.do == "gain" and not one.low_db < one.high_db:
        raise Unmappable(f"{field}.low_db", f"{one.low_db} is not below high_db, {one.high_db}")
    if one.do == "gain" and any(sign in one.source for sign in "*?["):
        raise Unmappable(
            f"{field}.source", "a fader shows the gain of one source: name it, without a pattern"
        )
    if latch == "hold" and control.kind == "program":
        raise Unmappable(f"{field}.latch", "a program cannot be held: latch = 'two' with an arm control")
    if latch == "two" and surface.arm is None:
        raise Unmappable(
            "arm", f"{field} is guarded by two buttons: say which is the other, as arm = {{note = 46}}"
        )
    light = _control(f"{field}.light", one.light) if one.light else control
    return Bound(
        control=control,
        do=one.do,
        source=one.source,
        low_db=one.low_db,
        high_db=one.high_db,
        light=None if light.kind == "program" else light,
        latch=latch,
    )
