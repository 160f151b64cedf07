"""What somebody on the network could try at the published port; more in docs/threat-model.md."""

from __future__ import annotations

import re
import socket
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from streams.names import InvalidName, source_id
from tests.fix_web import Web

ROOT = Path(__file__).parent.parent
SLOW = 200
OUT = (
    "../../pyproject.toml", "..%2f..%2fpyproject.toml", "%2e%2e/%2e%2e/pyproject.toml",
    "....//pyproject.toml", "/etc/passwd", "%2fetc%2fpasswd", "..%5c..%5cpyproject.toml", "page.css%00.py",
    "../http.py",
)  # fmt: skip


def exchange(url: str, request: bytes) -> bytes:
    """What a raw request is answered: no client of ours tidies its path."""
    where = urlsplit(url)
    with socket.create_connection((where.hostname, where.port), 5) as connection:
        connection.sendall(request)
        return connection.recv(65536)


def test_clients_that_never_finish_keep_nobody_waiting(web: Web) -> None:
    """Two hundred that send half a request: others are answered as ever, and the process goes on."""
    where = urlsplit(web.url)
    slow = []
    try:
        for number in range(SLOW):
            connection = socket.create_connection((where.hostname, where.port), 5)
            whole = b"POST /api/audio/sources/a/start HTTP/1.1\r\nHost: x\r\nContent-Length: 4000\r\n"
            connection.sendall(whole if number % 2 else whole + b"\r\n{")
            slow.append(connection)
        began = time.monotonic()
        assert web.client.get("/healthz").status_code == 200
        assert web.client.get("/api/audio/sources").status_code in (200, 503)
        assert time.monotonic() - began < 10
    finally:
        for connection in slow:
            connection.close()
    assert web.answers()


def test_no_address_leads_out_of_the_page(web: Web) -> None:
    """Only the page's own files are there, by their names."""
    for path in (prefix + path for path in OUT for prefix in ("/page/", "/")):
        said = exchange(web.url, f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        assert said.split(b" ", 2)[1] in (b"400", b"404"), f"{path}: {said[:200]!r}"
        assert b"[project]" not in said
        assert b"root:" not in said


@pytest.mark.parametrize(
    "id", [".", "..", "../x", "a/b", "/etc/passwd", "a\0b", "a\nb", "-", "", "A", "x" * 65]
)
def test_no_id_leads_out_of_a_folder(id: str) -> None:
    """Ids stand in keys, paths and addresses: what could mean something there is no id."""
    with pytest.raises(InvalidName):
        source_id(id)


def test_what_the_threat_model_names_exists() -> None:
    """Each test that docs/threat-model.md names is there under that name."""
    named = re.findall(
        r"`(test_\w+\.py)(?:::(test_\w+))?`", (ROOT / "docs" / "threat-model.md").read_text("utf-8")
    )
    assert len(named) > 30
    for file, test in named:
        text = (ROOT / "tests" / file).read_text("utf-8")
        assert not test or f"def {test}(" in text, f"{file} has no {test}"
