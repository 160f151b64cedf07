"""A generated Required Weekly Test, to have something to listen to: for a file, never for an output device.

Header and end-of-message bursts as 47 CFR 11.31 has them: 520.83 baud AFSK, mark 2083.3 Hz, space 1562.5 Hz,
eight bits, least significant first; each burst three times, a second apart. Between them the 1050 Hz tone
of NOAA Weather Radio, and noise in the place of a voice. Sending such signals outside an authorised test
is unlawful (47 CFR 11.45).
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

from streams.messages import now

RATE = 22050
"""Samples per second."""
BAUD = 520.8333
MARK, SPACE = 2083.333, 1562.5
"""Hz."""
PREAMBLE = b"\xab" * 16
AMPLITUDE = 0.5
LOCATION = "020103"
STATION = "TOCSIN  "
"""Eight characters, as a header has them; no real station's."""

Samples = npt.NDArray[np.float32]


def header(at: datetime) -> str:
    """The header of a weekly test issued at `at` (UTC) and valid for 15 minutes."""
    return f"ZCZC-WXR-RWT-{LOCATION}+0015-{at:%j%H%M}-{STATION}-"


def burst(text: str) -> Samples:
    """The tones of one burst: preamble and text, without a break in phase."""
    octets = np.frombuffer(PREAMBLE + text.encode("ascii"), dtype=np.uint8)
    bits = np.unpackbits(octets, bitorder="little")
    count = int(len(bits) * RATE / BAUD)
    frequency = np.where(
        bits[np.minimum((np.arange(count) * BAUD / RATE).astype(int), len(bits) - 1)], MARK, SPACE
    )
    return _sounding(np.cumsum(frequency) / RATE)


def tone(hertz: float, seconds: float) -> Samples:
    """A steady tone."""
    return _sounding(np.arange(int(seconds * RATE)) * hertz / RATE)


def silence(seconds: float) -> Samples:
    """Digital silence."""
    return np.zeros(int(seconds * RATE), dtype=np.float32)


def weekly_test(at: datetime) -> Samples:
    """The whole test, about half a minute, mono at RATE."""
    opening = [burst(header(at)), silence(1.0)] * 3
    closing = [burst("NNNN"), silence(1.0)] * 3
    noise = np.random.default_rng(1).normal(0, 0.02, 6 * RATE).astype(np.float32)
    parts = [
        silence(1.0),
        *opening,
        tone(1050.0, 8.0),
        silence(0.5),
        noise,
        silence(0.5),
        *closing,
        silence(3.0),
    ]
    return np.concatenate(parts)


def write_weekly_test(path: Path) -> None:
    """Write a test issued now to `path` as 16-bit WAV. Raises OSError and soundfile's errors."""
    soundfile.write(path, weekly_test(now()), RATE, subtype="PCM_16", format="WAV")


def _sounding(cycles: npt.NDArray[np.float64]) -> Samples:
    return (AMPLITUDE * np.sin(2 * np.pi * cycles)).astype(np.float32)
