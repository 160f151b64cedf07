"""A real icecast2, and an encoder that feeds it."""

from __future__ import annotations

import base64
import os
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest

from control.station.ports import free_port
from tests.fix_servers import eventually, listens

PASSWORD = "hackme"
LOGIN = base64.b64encode(f"source:{PASSWORD}".encode()).decode()
ADMIN = base64.b64encode(f"admin:{PASSWORD}".encode()).decode()
CONFIGURATION = """<icecast>
  <limits><clients>20</clients><sources>4</sources><burst-size>65535</burst-size></limits>
  <authentication>
    <source-password>{password}</source-password><relay-password>{password}</relay-password>
    <admin-user>admin</admin-user><admin-password>{password}</admin-password>
  </authentication>
  <hostname>127.0.0.1</hostname>
  <listen-socket><port>{port}</port><bind-address>127.0.0.1</bind-address></listen-socket>
  <paths>
    <basedir>/</basedir><logdir>/tmp</logdir><webroot>/usr/share/icecast2/web</webroot>
    <adminroot>/usr/share/icecast2/admin</adminroot>
  </paths>
  <logging><accesslog>-</accesslog><errorlog>-</errorlog><loglevel>2</loglevel></logging>
  <security><chroot>0</chroot>{owner}</security>
</icecast>
"""
OWNER = "<changeowner><user>nobody</user><group>nogroup</group></changeowner>"


class Icecast:
    """The server, by its port."""

    def __init__(self, port: int) -> None:
        self.port = port

    def url(self, mount: str) -> str:
        return f"http://127.0.0.1:{self.port}{mount}"

    @contextmanager
    def fed(self, mount: str, data: bytes, seconds: float, kind: str) -> Iterator[None]:
        """An encoder meanwhile: `data`, which lasts `seconds`, over and over in real time."""
        stop = threading.Event()
        with socket.create_connection(("127.0.0.1", self.port)) as wire:
            head = f"PUT {mount} HTTP/1.1\r\nAuthorization: Basic {LOGIN}\r\nContent-Type: {kind}\r\n"
            wire.sendall(f"{head}Expect: 100-continue\r\n\r\n".encode())
            assert b" 100 " in wire.recv(1000)
            thread = threading.Thread(target=_feed, args=(wire, data, seconds, stop))
            thread.start()
            try:
                yield
            finally:
                stop.set()
                thread.join(5)

    def title(self, mount: str, song: str) -> None:
        """Say what is being played."""
        asked = f"/admin/metadata?mount={quote(mount)}&mode=updinfo&charset=UTF-8&song={quote(song)}"
        request = urllib.request.Request(self.url(asked), headers={"Authorization": f"Basic {ADMIN}"})
        with urllib.request.urlopen(request, timeout=5) as answer:
            assert answer.status == 200


def _feed(wire: socket.socket, data: bytes, seconds: float, stop: threading.Event) -> None:
    begun, sent, step = time.monotonic(), 0, len(data) // max(1, round(seconds * 10))
    while not stop.is_set():
        at = sent % len(data)
        wire.sendall(data[at : at + step])
        sent += len(data[at : at + step])
        # Two seconds ahead, as encoders are that have just begun.
        stop.wait(max(0.0, begun + sent / len(data) * seconds - time.monotonic() - 2.0))


@pytest.fixture
def icecast(tmp_path: Path) -> Iterator[Icecast]:
    """A server of one's own."""
    program = shutil.which("icecast2")
    if program is None:
        pytest.skip("real part missing: icecast2")
    port = free_port()
    configuration = tmp_path / "icecast.xml"
    owner = OWNER if os.geteuid() == 0 else ""
    configuration.write_text(CONFIGURATION.format(port=port, password=PASSWORD, owner=owner))
    process = subprocess.Popen(
        [program, "-c", str(configuration)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        eventually(lambda: listens(port), "icecast2 to listen", 15)
        yield Icecast(port)
    finally:
        process.terminate()
        process.wait(10)
