"""Redis filled to the high-water mark, as people meet it: refused at once, with the reason and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from control.station.folder import Folder
from streams.connection import connect
from streams.names import StationKeys
from streams.settings import load
from tests.fix_cli import Obedient, Terminal
from tests.fix_web import Web


@contextmanager
def filled(folder: Folder) -> Iterator[None]:
    """Nine tenths of Redis' memory in use, meanwhile; the source `demo` lives there."""
    link = connect(load(folder.settings).redis, "test")
    link.call("HSET", StationKeys("station").sources, "demo", "node.local")
    used = int(link.call("INFO", "memory").decode().split("used_memory:")[1].split()[0])
    link.call("CONFIG", "SET", "maxmemory", int(used / 0.9))
    try:
        yield
    finally:
        link.call("CONFIG", "SET", "maxmemory", 0)
        link.close()


def test_at_the_prompt(tocsin: Terminal, station_folder: Folder, obedient: Obedient) -> None:
    """The exit code is that of a station which takes nothing now, and nothing was submitted."""
    with filled(station_folder):
        ran = tocsin("source", "start", "demo", "--json")
    assert ran.code == 8
    assert ran.json["error"]["reason"] == "full"
    assert "archive.high_water" in ran.json["error"]["why"]
    assert obedient.executed == []
    assert tocsin("source", "start", "demo").code == 0


def test_over_http(web: Web) -> None:
    """The answer is 503 with a time to try again, and the reason."""
    with filled(web.folder):
        response = web.post("/api/audio/sources/demo/start")
    assert response.status_code == 503
    assert response.headers["Retry-After"]
    error = response.json()["error"]
    assert error["reason"] == "full"
    assert "nothing was submitted" in error["detail"]
