"""What a source has received and nobody has read yet, and when that says that it is read too slowly."""

from __future__ import annotations

import array
import fcntl
import termios
import time

import msgspec

FULL = 0.5
"""How much of what can wait must wait, for its listener to count as behind."""
BEHIND_AFTER = 5.0
"""Seconds in a row after which it does: what a server sends ahead waits too, and is soon read."""


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds of audio that wait, that could (0: nobody knows), and that were thrown away so far."""

    seconds: float = 0.0
    most: float = 0.0
    dropped: float = 0.0


NOTHING = Waiting()


class Backlog:
    """Follows one opened source."""

    def __init__(self) -> None:
        self._since: float | None = None

    def seen(self, waiting: Waiting, held: bool) -> Waiting:
        """What waits, where that is too much; else without saying how much could.

        `held` is what waits because our clock has it wait, not because it is read too slowly.
        """
        if held or waiting.seconds <= FULL * waiting.most:
            self._since = None
        elif self._since is None:
            self._since = time.monotonic()
        if self._since is None or time.monotonic() - self._since < BEHIND_AFTER:
            return msgspec.structs.replace(waiting, most=0.0)
        return waiting


def unread(pipe: int) -> int:
    """Bytes that wait in a pipe; none where it is closed."""
    count = array.array("i", [0])
    try:
        fcntl.ioctl(pipe, termios.FIONREAD, count)
    except OSError:
        return 0
    return count[0]


def capacity(pipe: int) -> int:
    """Bytes that a pipe can hold."""
    return fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ)
