"""A name server for the containers, as an engine brings one: HAProxy asks it who is where."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable

A, NO_SUCH_NAME = 1, 3


class Names:
    """Answers on `address`, port 53, what `look_up` says to who asks of a name (an address, or None)."""

    def __init__(self, address: str, look_up: Callable[[str, str], str | None]) -> None:
        self._look_up = look_up
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((address, 53))
        threading.Thread(target=self._serve, name="names", daemon=True).start()

    def close(self) -> None:
        """Answer nobody any more."""
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                asked, whom = self._socket.recvfrom(4096)
                self._socket.sendto(self._answer(whom[0], asked), whom)
            except OSError:
                return
            except (IndexError, struct.error):
                continue

    def _answer(self, whom: str, asked: bytes) -> bytes:
        labels, at = [], 12
        while length := asked[at]:
            labels.append(asked[at + 1 : at + 1 + length].decode("ascii", "replace"))
            at += 1 + length
        (kind,) = struct.unpack_from("!H", asked, at + 1)
        found = self._look_up(whom, ".".join(labels).lower())
        records = b""
        if found is not None and kind == A:
            records = struct.pack("!HHHIH", 0xC00C, A, 1, 1, 4) + socket.inet_aton(found)
        flags = 0x8580 | (0 if found is not None else NO_SUCH_NAME)
        counts = struct.pack("!HHHHH", flags, 1, 1 if records else 0, 0, 0)
        return asked[:2] + counts + asked[12 : at + 5] + records
