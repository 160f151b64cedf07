"""What a decoding process tells the node, each with its length: format, audio, what was lost, why it ends."""

from __future__ import annotations

import struct
from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

HEAD = struct.Struct("<cI")
FORMAT, AUDIO, FAILED, LOST = b"F", b"A", b"E", b"L"
SECONDS = struct.Struct("<d")
"""How much audio was lost on its way, so far."""
MOST = 4 * 1024 * 1024
"""Bytes in one message: a tenth of a second of 64 channels at 192 kHz is more than that, and refused."""

WELL = "well"
"""How a decoding process has ended that came to the end of its work."""


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What to decode, and what to make of it; `sdp` instead of bytes that come through a pipe."""

    gain_db: float | UnsetType = UNSET
    channel: int | Literal["mix"] | UnsetType = UNSET
    rate: int | UnsetType = UNSET
    sdp: str = ""


class Format(msgspec.Struct, frozen=True, kw_only=True):
    """What is decoded (`codec`, `container`, `given_rate` in Hz, `given_channels`), and what comes of it.

    `title` is what is played, as Ogg and ID3 tell it in the audio itself.
    """

    codec: str
    container: str
    given_rate: int
    given_channels: int
    rate: int
    channels: int
    title: str | None = None


def packed(kind: bytes, body: bytes) -> bytes:
    """One message."""
    return HEAD.pack(kind, len(body)) + body
