"""Playlists that name streams: M3U and PLS; and telling what it is that a server sends."""

from __future__ import annotations

import re
from typing import Literal
from urllib.parse import urljoin, urlsplit

Kind = Literal["hls", "m3u", "pls", "sdp", "media"]

ENOUGH = 16
"""Bytes by which what comes can be told."""
MOST_ENTRIES = 20
_M3U_TYPES = frozenset({"audio/x-mpegurl", "audio/mpegurl", "application/x-mpegurl"})
_HLS_TYPE = "application/vnd.apple.mpegurl"
_FILE = re.compile(r"^File(\d+)\s*=\s*(.+)$", re.IGNORECASE)


def kind_of(head: bytes, content_type: str, url: str) -> Kind:
    """What it is that begins with `head`; an M3U may still be one of HLS."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    declared = content_type.partition(";")[0].strip().lower()
    path = urlsplit(url).path.lower()
    if text.startswith(b"[playlist]"):
        return "pls"
    if text.startswith(b"#extm3u"):
        return "m3u"
    if text.startswith(b"v=0") or declared == "application/sdp":
        return "sdp"
    looks_like_text = bool(text) and all(32 <= byte < 127 or byte in b"\r\n\t" for byte in text)
    if looks_like_text and (
        declared in _M3U_TYPES or declared == _HLS_TYPE or path.endswith((".m3u", ".m3u8"))
    ):
        return "m3u"
    return "media"


def is_hls(text: str) -> bool:
    """Whether an M3U is one of HLS."""
    return "#EXT-X-" in text


def entries(kind: Kind, text: str, base: str) -> list[str]:
    """The addresses that a playlist names, as it orders them."""
    lines = [line.strip() for line in text.lstrip("\ufeff").splitlines()]
    if kind == "pls":
        named = sorted((int(entry[1]), entry[2]) for line in lines if (entry := _FILE.match(line)))
        found = [url for _, url in named]
    else:
        found = [line for line in lines if line and not line.startswith("#")]
    return [urljoin(base, url) for url in found[:MOST_ENTRIES]]
