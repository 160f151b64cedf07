"""The line code of SAME (47 CFR 11.31): AFSK, eight bits, least significant first, no start or stop bits.

A bit is exactly four cycles of mark or three of space, so in a phase-continuous signal each tone has
the same phase in every bit: bits, and whole bursts, can be added coherently.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

BAUD = 520.0 + 5.0 / 6.0
"""Bits per second."""
MARK, SPACE = 4 * BAUD, 3 * BAUD
"""Hz; a one and a zero."""
PREAMBLE = b"\xab" * 16
"""What precedes each burst."""
START, END = b"ZCZC", b"NNNN"
"""How a header begins, and what an end-of-message burst says."""
GAP = 1.0
"""Seconds between the bursts of one message."""

Floats = npt.NDArray[np.floating[Any]]
Complexes = npt.NDArray[np.complexfloating[Any, Any]]


def bits(octets: bytes) -> npt.NDArray[np.uint8]:
    """The bits of `octets` in the order in which they are sent."""
    return np.unpackbits(np.frombuffer(octets, dtype=np.uint8), bitorder="little")


def signs(octets: bytes) -> Floats:
    """The bits of `octets` as +1 for a mark and -1 for a space."""
    return bits(octets).astype(np.float32) * 2 - 1
