"""What Icecast and Shoutcast weave into their audio: after every so many bytes, what is being played."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import unescape

from ingest.decoding.words import printable

_TITLE = re.compile(rb"StreamTitle='(.*?)';", re.DOTALL)


class Icy:
    """Takes the metadata out of a stream's bytes; `title` is the last one told."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        stated = headers.get("icy-metaint", "")
        self._every = int(stated) if stated.isdecimal() and 0 < int(stated) < 10_000_000 else 0
        self._left = self._every
        self._wanted = -1
        self._block = b""
        self.title: str | None = None

    def audio(self, data: bytes) -> bytes:
        """The audio in the next bytes."""
        if not self._every:
            return data
        found = bytearray()
        at = 0
        while at < len(data):
            if self._left:
                step = data[at : at + self._left]
                found += step
                self._left -= len(step)
                at += len(step)
            elif self._wanted < 0:
                self._wanted = data[at] * 16
                at += 1
            if not self._left and self._wanted >= 0:
                step = data[at : at + self._wanted - len(self._block)]
                self._block += step
                at += len(step)
                if len(self._block) == self._wanted:
                    self._tell()
        return bytes(found)

    def _tell(self) -> None:
        told = _TITLE.search(self._block)
        if told:
            # Stations write UTF-8 or Latin-1, and say nowhere which.
            try:
                title = told[1].decode()
            except UnicodeDecodeError:
                title = told[1].decode("latin-1")
            # What Latin-1 has not, Icecast writes as &#8211;.
            self.title = printable(unescape(title)) or None
        self._block, self._wanted, self._left = b"", -1, self._every
