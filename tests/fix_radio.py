"""A radio station on this machine: real MP3 and Ogg over HTTP, and everything that servers do wrong."""

from __future__ import annotations

import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import soundfile

from ingest.decoding.nursery import Nursery
from ingest.inputs import Inputs
from streams.inputs import FetchSection

RATE = 24_000
HERE = ("127.0.0.1/32",)
"""What a node must allow for these tests: its own machine is no public place."""

Answer = Callable[["Request"], None]


@cache
def tone(hertz: float, format: str = "MP3", seconds: float = 2.0, channels: int = 1) -> bytes:
    """A sine of half of full scale, encoded."""
    wave = 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE)
    # A little noise: without it so few bytes are needed that decoders wait for more.
    wave += np.random.default_rng(1).normal(0, 0.002, len(wave))
    written = io.BytesIO()
    samples = np.repeat(wave[:, np.newaxis], channels, axis=1)
    how = {"MP3": {"bitrate_mode": "CONSTANT", "compression_level": 0.9}, "OGG": {"subtype": "VORBIS"}}
    soundfile.write(written, samples, RATE, format=format, **how.get(format, {}))
    return written.getvalue()


class Request(BaseHTTPRequestHandler):
    """One request, answered by what the radio has at its path."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        radio: Radio = self.server.radio  # type: ignore[attr-defined]
        radio.asked.append((self.path, dict(self.headers)))
        self.close_connection = True
        with suppress(BrokenPipeError, ConnectionResetError):  # who listened has gone
            radio.at.get(self.path, missing)(self)

    def begin(self, status: int = 200, **headers: str) -> None:
        """Status and headers."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def whole(self, body: bytes, **headers: str) -> None:
        """An answer that ends."""
        self.begin(Content_Length=str(len(body)), **headers)
        self.wfile.write(body)

    def nothing(self, status: int, **headers: str) -> None:
        """A status and nothing else."""
        self.begin(status, Content_Length="0", **headers)

    def on(self, *parts: bytes, pause: float = 0.05) -> None:
        """Send parts, each after a pause."""
        for part in parts:
            self.wfile.write(part)
            self.radio.over.wait(pause)

    @property
    def radio(self) -> Radio:
        """The station."""
        found: Radio = self.server.radio  # type: ignore[attr-defined]
        return found

    def hang(self) -> None:
        """Say nothing more until the station is closed."""
        self.radio.over.wait(60)

    def log_message(self, format: str, *args: object) -> None:
        pass


def missing(request: Request) -> None:
    """What is not there."""
    request.nothing(404)


class Radio:
    """The station. `at` is what it has at each path; `asked` are the requests with their headers."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self.at: dict[str, Answer] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.over = threading.Event()
        self._server = ThreadingHTTPServer((host, port), Request)
        self._server.daemon_threads = True
        self._server.radio = self  # type: ignore[attr-defined]
        self.host, self.port = host, self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def url(self, path: str) -> str:
        return f"http://{self.host}:{self.port}{path}"

    def plays(self, path: str, *parts: bytes, then: str = "hang", **headers: str) -> str:
        """Have parts of a stream at a path, after which it hangs (or ends); return its address."""

        def answer(request: Request) -> None:
            request.begin(**(headers or {"Content_Type": "audio/mpeg"}))
            request.on(*parts)
            if then == "hang":
                request.hang()

        self.at[path] = answer
        return self.url(path)

    def live(self, path: str, data: bytes, seconds: float) -> str:
        """Have an endless stream at a path, in real time: `data`, which lasts `seconds`, over and over."""

        def answer(request: Request) -> None:
            request.begin(Content_Type="audio/mpeg")
            step = max(1, int(len(data) * 0.1 / seconds))
            begun, sent = time.monotonic(), 0
            while not self.over.is_set():
                at = sent % len(data)
                part = data[at : at + step]
                request.wfile.write(part)
                sent += len(part)
                self.over.wait(max(0.0, begun + sent / len(data) * seconds - time.monotonic()))

        self.at[path] = answer
        return self.url(path)

    def has(self, path: str, body: bytes | str, **headers: str) -> str:
        """Have a file at a path; return its address."""
        data = body.encode() if isinstance(body, str) else body
        self.at[path] = lambda request: request.whole(data, **headers)
        return self.url(path)

    def sends(self, path: str, status: int, **headers: str) -> str:
        """Answer with a status and nothing else."""
        self.at[path] = lambda request: request.nothing(status, **headers)
        return self.url(path)

    def close(self) -> None:
        self.over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


@pytest.fixture
def radio() -> Iterator[Radio]:
    """A station of one's own."""
    made = Radio()
    yield made
    made.close()


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """What starts decoding processes."""
    made = Nursery()
    yield made
    made.close()


@pytest.fixture
def inputs(nursery: Nursery) -> Inputs:
    """A node that may fetch from its own machine, and gives up soon."""
    fetch = FetchSection(private=HERE, stalled_after=0.5, give_up_after=1.5, connect_within=2.0)
    return Inputs(fetch, nursery=nursery)


@pytest.fixture
def mute() -> Iterator[int]:
    """The port of one that accepts and then says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        kept: list[socket.socket] = []

        def accept() -> None:
            try:
                while True:
                    kept.append(server.accept()[0])
            except OSError:
                return

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join(5)
        for connection in kept:
            connection.close()
