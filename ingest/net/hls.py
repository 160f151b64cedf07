"""HLS: playlists of segments, fetched one after the other and joined to one stream of bytes.

A live stream begins near its end: what is heard is the present. Segments that are encrypted as a whole
(AES-128) are decrypted; other ways of encryption are for devices with rights to manage.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import m3u8
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7

from ingest.file_source import SourceFailed
from ingest.net.client import Client, shown
from streams.inputs import FetchSection

BEHIND_LIVE = 3
"""Segments before the end with which a live stream begins, as RFC 8216 asks."""
KEY_BYTES = 16
SOONEST, LATEST = 0.5, 10.0
"""Seconds between two looks at a playlist, whatever it says of itself."""


class Hls:
    """One stream. `segments` gives its bytes."""

    def __init__(self, client: Client, fetch: FetchSection, stop: threading.Event) -> None:
        self._client = client
        self._fetch = fetch
        self._stop = stop
        self._keys: dict[str, bytes] = {}
        self._map: str | None = None
        self._ended: dict[str, int] = {}

    def pieces(self, url: str, text: str) -> Iterator[bytes]:
        """The bytes of its segments, each as it comes. Raises SourceFailed."""
        playlist = _parsed(url, text)
        if playlist.is_variant:
            url, text = self._playlist(_variant(playlist, url))
            playlist = _parsed(url, text)
            if playlist.is_variant:
                raise SourceFailed(f"{shown(url)}: a master playlist within a master playlist")
        after: int | None = None
        fresh = time.monotonic()
        while not self._stop.is_set():
            segments = playlist.segments
            if after is None and not playlist.is_endlist:
                segments = segments[-BEHIND_LIVE:]
            new = [one for one in segments if after is None or (one.media_sequence or 0) > after]
            for segment in new:
                yield from self._segment(segment)
                after = segment.media_sequence or 0
                fresh = time.monotonic()
            if playlist.is_endlist:
                return
            if time.monotonic() - fresh > self._fetch.give_up_after:
                raise SourceFailed(f"{shown(url)}: no new segment for {self._fetch.give_up_after:g} s")
            pause = (playlist.target_duration or 1) / (1 if new else 2)
            self._stop.wait(min(max(pause, SOONEST), LATEST))
            url, text = self._playlist(url)
            playlist = _parsed(url, text)

    def _playlist(self, url: str) -> tuple[str, str]:
        found, data = self._client.whole(url, self._fetch.playlist_bytes)
        return found, data.decode("utf-8", "replace")

    def _segment(self, segment: m3u8.Segment) -> Iterator[bytes]:
        init = segment.init_section
        if init is not None and init.absolute_uri != self._map:
            self._map = init.absolute_uri
            yield self._part(init.absolute_uri, init.byterange)
        data = self._part(segment.absolute_uri, segment.byterange)
        key = segment.key
        if key is None or key.method == "NONE":
            yield data
        elif key.method == "AES-128":
            yield self._decrypted(data, key, segment.media_sequence or 0)
        else:
            raise SourceFailed(
                f"its segments are encrypted by {key.method}, which is for devices with rights"
            )

    def _part(self, url: str, byterange: str | None) -> bytes:
        most = self._fetch.segment_bytes
        if not byterange:
            return self._client.whole(url, most)[1]
        length, _, start = byterange.partition("@")
        # Without a start it goes on where the part before it in the same file ended.
        begin = int(start) if start else self._ended.get(url, 0)
        self._ended = {url: begin + int(length)}
        return self._client.part(url, begin, int(length), most)

    def _decrypted(self, data: bytes, key: m3u8.Key, number: int) -> bytes:
        url = key.absolute_uri
        if url not in self._keys:
            found = self._client.whole(url, self._fetch.playlist_bytes)[1]
            if len(found) != KEY_BYTES:
                raise SourceFailed(f"{shown(url)}: a key has {KEY_BYTES} bytes, this has {len(found)}")
            self._keys = {url: found}
        vector = bytes.fromhex(key.iv[2:].zfill(32)) if key.iv else number.to_bytes(16)
        try:
            decryptor = Cipher(algorithms.AES(self._keys[url]), modes.CBC(vector)).decryptor()
            padded = decryptor.update(data) + decryptor.finalize()
            remove = PKCS7(128).unpadder()
            return remove.update(padded) + remove.finalize()
        except ValueError as error:
            raise SourceFailed(f"a segment cannot be decrypted: {error}") from None


def _parsed(url: str, text: str) -> m3u8.M3U8:
    try:
        return m3u8.loads(text, uri=url)
    except Exception as error:  # whatever a parser makes of what strangers write
        raise SourceFailed(f"{shown(url)} is no playlist: {error}") from None


def _variant(playlist: m3u8.M3U8, url: str) -> str:
    """Which of its variants to take: sound alone where there is such a one, else the smallest."""
    sounds = [one for one in playlist.media if one.type == "AUDIO" and one.uri]
    if sounds:
        chosen: str = next((one for one in sounds if one.default == "YES"), sounds[0]).absolute_uri
        return chosen
    variants = sorted(playlist.playlists, key=lambda one: one.stream_info.bandwidth or 0)
    if not variants:
        raise SourceFailed(f"{shown(url)} names no variant")
    heard = [one for one in variants if _is_sound(one.stream_info.codecs)]
    best: str = (heard[-1] if heard else variants[0]).absolute_uri
    return best


def _is_sound(codecs: str | None) -> bool:
    named = [one.strip().partition(".")[0] for one in (codecs or "").split(",")]
    return all(one in ("mp4a", "ac-3", "ec-3", "opus", "flac", "mp3") for one in named)
