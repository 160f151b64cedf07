"""Serving sound by HTTP to the web process, which asks with the pass that the heartbeat tells it.

Recordings, and what the node's sources sound like now.

The pass is made anew at each start and stands in Redis alone, with the heartbeat's time to live: who may
read there may have the sound. A part of a file may be asked for (`Range`), as players do.
"""

from __future__ import annotations

import hmac
import re
import secrets
import socket
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import structlog

from ingest.on_air import Full, OnAir
from ingest.shelf import find

PATH = re.compile(r"/recordings/([0-9a-f-]{36})")
LIVE = re.compile(r"/sources/([a-z0-9._-]{1,64})")
RANGE = re.compile(r"bytes=(\d*)-(\d*)")
TYPES = {".flac": "audio/flac", ".wav": "audio/wav"}
PIECE = 65_536
"""Bytes that are sent at once."""
IDLE = 30
"""Seconds after which a connection on which nothing comes or goes is closed."""

log = structlog.get_logger(__name__)


class SoundServer:
    """Serves a folder of recordings, and what is `on_air`. `run` is the body of a thread."""

    def __init__(self, folder: Path, host: str, port: int, on_air: OnAir | None = None) -> None:
        self.secret = secrets.token_urlsafe(32)
        self._server = ThreadingHTTPServer((host, port), partial(_Handler, folder, on_air, self.secret))
        self._server.daemon_threads = True
        bound = self._server.server_address
        # What others reach a server by that listens on all addresses is its host's name.
        name = socket.gethostname() if host in ("0.0.0.0", "::", "") else host
        self.address = f"{name}:{bound[1]}"

    def run(self, stop: threading.Event) -> None:
        """Serve until `stop` is set."""
        serving = threading.Thread(target=self._server.serve_forever, name="sound-serve", daemon=True)
        serving.start()
        stop.wait()
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = IDLE
    server_version, sys_version = "tocsin", ""

    def __init__(self, folder: Path, on_air: OnAir | None, secret: str, *args: object) -> None:
        self._folder, self._on_air, self._secret = folder, on_air, secret
        super().__init__(*args)  # type: ignore[arg-type]  # as the server hands them on

    def log_message(self, format: str, *args: object) -> None:
        """Requests are the web process's to log."""

    def do_GET(self) -> None:
        """Answer one request."""
        given = self.headers.get("Authorization", "").removeprefix("Bearer ")
        found = PATH.fullmatch(self.path)
        if not hmac.compare_digest(given.encode(), self._secret.encode()):
            self._refuse(401)
        elif live := LIVE.fullmatch(self.path):
            self._stream(live[1])
        elif found is None or (path := find(self._folder, found[1])) is None:
            self._refuse(404)
        else:
            self._send(path)

    def _refuse(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _stream(self, source: str) -> None:
        if self._on_air is None or not self._on_air.has(source):
            self._refuse(404)
            return
        try:
            with self._on_air.listening(source) as pieces:
                self.send_response(200)
                self.send_header("Content-Type", "audio/wav")
                self.send_header("Connection", "close")
                self.end_headers()
                for piece in pieces:
                    self.wfile.write(piece)
        except Full:
            self._refuse(503)
        except OSError:
            log.debug("a listener left", source=source)

    def _send(self, path: Path) -> None:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            first, last = _span(self.headers.get("Range", ""), size)
            if first >= size:
                self._refuse(416)
                return
            part = (first, last) != (0, size - 1)
            self.send_response(206 if part else 200)
            self.send_header("Content-Type", TYPES[path.suffix])
            self.send_header("Content-Length", str(last - first + 1))
            self.send_header("Accept-Ranges", "bytes")
            if part:
                self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
            self.end_headers()
            file.seek(first)
            left = last - first + 1
            while left and (piece := file.read(min(PIECE, left))):
                self.wfile.write(piece)
                left -= len(piece)


def _span(wanted: str, size: int) -> tuple[int, int]:
    """First and last byte of what is asked for; all of it where that cannot be read."""
    found = RANGE.fullmatch(wanted.strip())
    if found is None or not (found[1] or found[2]):
        return 0, size - 1
    if not found[1]:
        return max(0, size - int(found[2])), size - 1
    return int(found[1]), min(int(found[2]) if found[2] else size - 1, size - 1)
