"""What the decoder hears: bursts, messages, ends of message, attention tones.

All times are seconds of audio since the decoder's first sample.
"""

from __future__ import annotations

from typing import Literal

import msgspec


class BurstHeard(msgspec.Struct, frozen=True, tag="burst"):
    """One burst as it was received, before anything is concluded from it."""

    at: float
    """Where its preamble begins."""
    until: float
    """Where its last character ends."""
    text: str
    """The characters received, from "ZCZC" on; what no header may contain stays as heard."""
    confidence: float
    """How sure every character of `text` is, together: 0 to 1."""


class MessageHeard(msgspec.Struct, frozen=True, tag="message"):
    """A message: what the bursts of one header say together. Reported once."""

    header: str
    start: float
    """Where the preamble of the first burst begins."""
    end: float
    """Where the last burst so far ends."""
    bursts: int
    """How many bursts it was read from."""
    confidence: float
    """How sure the whole header is: 0 to 1."""
    confirmed: bool
    """Two bursts agreed, or their combination is certain enough. Speaks of reception alone."""
    voted: bool
    """No two bursts said the same by themselves; the header is their combination."""


class EndHeard(msgspec.Struct, frozen=True, tag="end"):
    """End of message: the first good `NNNN` of its three."""

    at: float
    """Where its last character ends."""


class ToneHeard(msgspec.Struct, frozen=True, tag="tone"):
    """An attention signal, told when it is over."""

    kind: Literal["attention", "1050"]
    """853 and 960 Hz together, or the 1050 Hz of NOAA Weather Radio."""
    at: float
    seconds: float


Heard = BurstHeard | MessageHeard | EndHeard | ToneHeard
