"""What a process that hears tells the node: format, audio, losses, why it ends; each with its length."""

from __future__ import annotations

import os
import struct
from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

HEAD = struct.Struct("<cI")
FORMAT, AUDIO, LOST, FAILED = b"F", b"A", b"L", b"E"
SECONDS = struct.Struct("<d")
"""What LOST holds: how much audio was lost so far."""
MOST = 4 * 1024 * 1024
"""Bytes in one message; what says that it is longer is nonsense."""

BLOCK_SECONDS = 0.1
"""Of one AUDIO, of what comes without a break."""

WELL = "well"
"""How a decoding process has ended that came to the end of its work."""


class Task(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """What to decode, and what to make of it; `sdp` instead of bytes that come through a pipe."""

    gain_db: float | UnsetType = UNSET
    channel: int | Literal["mix"] | UnsetType = UNSET
    rate: int | UnsetType = UNSET
    sdp: str = ""


class CardTask(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """What sound card to listen to: its name, and the rate in Hz and the channels to ask of it."""

    device: str
    rate: int | UnsetType = UNSET
    channels: int | UnsetType = UNSET


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


def send(pipe: int, kind: bytes, body: bytes | memoryview) -> None:
    """Write one message, waiting until all of it is taken; `body` is not copied. Raises BrokenPipeError."""
    data = memoryview(body).cast("B")
    message = (HEAD.pack(kind, len(data)), data)
    sent = os.writev(pipe, message)
    for part in message:
        while sent < len(part):
            sent += os.write(pipe, part[sent:])
        sent -= len(part)
