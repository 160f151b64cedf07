"""Asking for one thing over HTTP, through the fence: every redirect is checked like the first address."""

from __future__ import annotations

import base64
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpcore
import msgspec

from ingest.file_source import SourceFailed
from ingest.net.fence import Fence
from streams.inputs import FetchSection

AGENT = "tocsin"
SHOUTCAST, HTTP = b"ICY 200", b"HTTP/1.0 200"
"""How Shoutcast's first version begins its answer, and what that means."""
REDIRECTS = frozenset({301, 302, 303, 307, 308})
_FILE_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


class TooLarge(SourceFailed):
    """Raised where more comes than the node's configuration lets be fetched."""


class Response(msgspec.Struct, frozen=True):
    """What a server answered: from which address in the end, with which headers, and its bytes."""

    url: str
    status: int
    headers: Mapping[str, str]
    data: Iterator[bytes]


class Client:
    """The connections of one source. `close` may be called from any thread, and ends every wait.

    `gather` says for how many seconds a stream's audio gathers with the kernel before all of it is read.
    """

    def __init__(self, fence: Fence, fetch: FetchSection, gather: Callable[[], float]) -> None:
        self._fence = fence
        self._fetch = fetch
        self._open: set[_Wire] = set()
        self._closed = threading.Event()
        self._gather = gather
        self.gathers = False
        """Whether what comes now is a stream's audio."""
        # None is kept for the next request: servers close what is idle, and each new one is checked anew.
        self._pool = httpcore.ConnectionPool(
            ssl_context=_trust(fetch.ca_file), network_backend=_Backend(self), max_keepalive_connections=0
        )

    @contextmanager
    def get(self, url: str, extra: Mapping[str, str] | None = None) -> Iterator[Response]:
        """Ask for what is at `url`, with `extra` headers. Raises SourceFailed, Fenced."""
        for _ in range(self._fetch.redirects + 1):
            self._fence.check(url)
            with self._answer(url, extra or {}) as answer:
                headers = {name.decode().lower(): value.decode("latin-1") for name, value in answer.headers}
                if answer.status in REDIRECTS and "location" in headers:
                    url = urljoin(url, headers["location"])
                    continue
                if answer.status not in (200, 206):
                    raise SourceFailed(_refused(answer.status, url))
                yield Response(url, answer.status, headers, self._read(answer, url))
                return
        raise SourceFailed(f"{shown(url)}: more than {self._fetch.redirects} redirects")

    def whole(self, url: str, most: int) -> tuple[str, bytes]:
        """All of what is at `url`, and where that was. Raises TooLarge beyond `most` bytes, SourceFailed."""
        with self.get(url) as response:
            return response.url, all_of(response.data, most, response.url)

    def part(self, url: str, begin: int, length: int, most: int) -> bytes:
        """Some of the bytes of what is at `url`; as `whole`."""
        with self.get(url, {"Range": f"bytes={begin}-{begin + length - 1}"}) as response:
            data = all_of(response.data, most, response.url)
        return (
            data[:length] if response.status == HTTPStatus.PARTIAL_CONTENT else data[begin : begin + length]
        )

    def close(self) -> None:
        """End all connections, also those that another thread waits for."""
        self._closed.set()
        for wire in list(self._open):
            wire.cut()

    def gather(self) -> float:
        """Let audio gather, unless all is closed meanwhile; for how many seconds."""
        seconds = self._gather()
        self._closed.wait(seconds)
        return seconds

    @contextmanager
    def _answer(self, url: str, extra: Mapping[str, str]) -> Iterator[httpcore.Response]:
        limits = self._fetch
        timeout = {
            "connect": limits.connect_within,
            "read": limits.give_up_after,
            "write": 10.0,
            "pool": 10.0,
        }
        headers = {"User-Agent": AGENT, "Accept": "*/*", "Accept-Encoding": "identity", **extra}
        known = self._credentials(urlsplit(url).hostname or "")
        if known:
            headers["Authorization"] = f"Basic {base64.b64encode(known).decode()}"
        try:
            with self._pool.stream(
                "GET", url, headers=list(headers.items()), extensions={"timeout": timeout}
            ) as answer:
                yield answer
        except httpcore.ReadTimeout:
            raise SourceFailed(
                f"{shown(url)}: connected, but there was no answer for {limits.give_up_after:g} s"
            ) from None
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
            raise SourceFailed(f"{shown(url)}: {_told(error)}") from None

    def _read(self, answer: httpcore.Response, url: str) -> Iterator[bytes]:
        try:
            yield from answer.iter_stream()
        except httpcore.ReadTimeout:
            raise SourceFailed(
                f"{shown(url)}: connected, but nothing came for {self._fetch.give_up_after:g} s"
            ) from None
        except (httpcore.NetworkError, httpcore.ProtocolError) as error:
            raise SourceFailed(f"{shown(url)}: the connection broke: {_told(error)}") from None

    def _credentials(self, host: str) -> bytes | None:
        folder = self._fetch.credentials_directory
        if not folder or not _FILE_NAME.fullmatch(host):
            return None
        try:
            return (Path(folder) / host).read_bytes().strip()
        except OSError:
            return None

    def connect(self, host: str, port: int, timeout: float | None, **options: Any) -> _Wire:
        """Connect to a host, at an address that was checked. Raises SourceFailed, httpcore.NetworkError."""
        last: Exception | None = None
        for address in self._fence.addresses(host, port):
            try:
                stream = httpcore.SyncBackend().connect_tcp(address, port, timeout, **options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                last = error
                continue
            return self._kept(stream)
        raise httpcore.ConnectError(f"{host}:{port}: {_told(last)}") from None

    def _kept(self, stream: httpcore.NetworkStream) -> _Wire:
        wire = _Wire(self, stream)
        if self._closed.is_set():
            wire.cut()
        return wire


class _Backend(httpcore.NetworkBackend):
    def __init__(self, client: Client) -> None:
        self._client = client

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Any = None,
    ) -> httpcore.NetworkStream:
        return self._client.connect(host, port, timeout, socket_options=socket_options)


class _Wire(httpcore.NetworkStream):
    """A connection that can be cut from another thread, and that understands Shoutcast's greeting."""

    def __init__(self, client: Client, stream: httpcore.NetworkStream) -> None:
        self._client = client
        self._stream = stream
        self._greeted = False
        client._open.add(self)

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if self._client.gathers and not self._some():
            gathered = self._client.gather()
            timeout = None if timeout is None else max(timeout - gathered, gathered)
        data = self._stream.read(max_bytes, timeout)
        if not self._greeted:
            self._greeted = True
            if data.startswith(SHOUTCAST):
                data = HTTP + data[len(SHOUTCAST) :]
        return data

    def _some(self) -> bool:
        """Whether there is something to read now."""
        encrypted = self._stream.get_extra_info("ssl_object")
        return bool(encrypted is not None and encrypted.pending()) or bool(
            self._stream.get_extra_info("is_readable")
        )

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, timeout)

    def close(self) -> None:
        self._client._open.discard(self)
        self._stream.close()

    def cut(self) -> None:
        """Let every wait for it end."""
        raw = self._stream.get_extra_info("socket")
        with suppress(OSError):  # it has ended by itself
            socket.socket.shutdown(raw, socket.SHUT_RDWR)

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        self._client._open.discard(self)
        return self._client._kept(self._stream.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def all_of(data: Iterator[bytes], most: int, url: str) -> bytes:
    """The bytes in one. Raises TooLarge."""
    found = bytearray()
    for part in data:
        found += part
        if len(found) > most:
            raise TooLarge(
                f"{shown(url)} is larger than the {most} bytes that the node's [fetch] lets be read"
            )
    return bytes(found)


def shown(url: str) -> str:
    """An address as people may see it: what stands behind a question mark may be a secret."""
    return url.partition("?")[0][:200]


def _trust(ca_file: str) -> ssl.SSLContext:
    """Whom to trust; read anew where the file has changed, raises OSError where there is none."""
    return _trusting(ca_file, Path(ca_file).stat().st_mtime_ns if ca_file else 0)


@lru_cache(maxsize=4)
def _trusting(ca_file: str, _changed: int) -> ssl.SSLContext:
    # One for all sources: the certificates of all the world take half a megabyte and some milliseconds.
    return ssl.create_default_context(cafile=ca_file or None)


def _refused(status: int, url: str) -> str:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "?"
    more = ""
    if status == HTTPStatus.UNAUTHORIZED:
        host = urlsplit(url).hostname
        more = f"; put user:password into a file {host!r} in the credentials_directory of the node's [fetch]"
    return f"HTTP {status} {phrase} from {shown(url)}{more}"


def _told(error: Exception | None) -> str:
    text = str(error) or type(error).__name__
    return re.sub(r"^\[(Errno -?\d+|SSL: \w+)\] |\(_ssl\.c:\d+\)$", "", text).strip()
