"""What guards a button that takes something off the air. Pure: times come from outside."""

from __future__ import annotations

from control.midi.decoder import Control
from control.midi.mapping import Latch

NEVER = float("inf")


class Guard:
    """Knows which buttons are down since when, and lets a press pass or not."""

    def __init__(self, hold_seconds: float, arm: Control | None) -> None:
        self._hold = hold_seconds
        self._arm = arm
        self._down: set[Control] = set()
        self._held: dict[Control, float] = {}

    def touch(self, control: Control, *, down: bool) -> None:
        """Any button of the surface went down or up, whatever it does.

        With a second one down nothing is held any more: an elbow is no finger, nor is a cable's nonsense.
        """
        if down:
            self._down.add(control)
            if len(self._down) > 1:
                self._held = dict.fromkeys(self._held, NEVER)
        else:
            self._down.discard(control)
            self._held.pop(control, None)

    def press(self, control: Control, latch: Latch, at: float) -> bool:
        """Whether this press acts at once; one that is to be held acts once `matured`.

        Pressed again without a release it is held from then on: a finger does not do that.
        """
        if latch == "hold":
            self._held[control] = at if self._down <= {control} else NEVER
            return False
        return latch == "none" or self._arm in self._down

    def matured(self, at: float) -> list[Control]:
        """Buttons that have been held for long enough by now, each once."""
        ripe = [control for control, since in self._held.items() if at - since >= self._hold]
        for control in ripe:
            # Held on, it acts no second time: only a press after its release does.
            self._held[control] = NEVER
        return ripe

    def forget(self) -> None:
        """The surface is gone: nothing is down."""
        self._down.clear()
        self._held.clear()
