"""Where in a stream of bytes Ogg begins or ends: a server may change the format in mid-stream."""

from __future__ import annotations

PAGE = b"OggS"
BEGINS = b"OggS\x00\x02"
"""The first page of a logical stream: within another format it says that the format has changed."""
_FIXED = 27
"""Bytes of a page's header before the table of its segments, whose number is in the last of them."""


class Border:
    """Reads along with a stream from its first byte on, and says where its format changes."""

    def __init__(self) -> None:
        self._is_ogg: bool | None = None
        self._head = b""
        self._left = 0

    def find(self, data: bytes) -> int | None:
        """Where in the next bytes of the stream another format begins; None: nowhere."""
        if self._is_ogg is None and data:
            self._is_ogg = data[:4] == PAGE[: len(data)]
        return self._end_of_pages(data) if self._is_ogg else self._first_page(data)

    def _first_page(self, data: bytes) -> int | None:
        at = data.find(BEGINS)
        return at if at >= 0 else None

    def _end_of_pages(self, data: bytes) -> int | None:
        """Where a page should begin and something else does."""
        at = 0
        while at < len(data):
            step = min(self._left, len(data) - at)
            at += step
            self._left -= step
            if self._left or at == len(data):
                break
            begun, had = at, len(self._head)
            wanted = _FIXED + self._head[26] if had >= _FIXED else _FIXED
            self._head += data[at : at + wanted - had]
            at = begun + len(self._head) - had
            if self._head[:4] != PAGE[: len(self._head)]:
                return begun
            if len(self._head) == _FIXED and self._head[26]:
                continue
            if len(self._head) >= _FIXED and len(self._head) == _FIXED + self._head[26]:
                self._left, self._head = sum(self._head[_FIXED:]), b""
        return None
