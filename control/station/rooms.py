"""The rooms' processes in a local station: how each is started, and how one sees that they serve."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from http.client import HTTPConnection, HTTPException

import msgspec

from control.station.folder import Folder
from control.station.process import Launch
from streams.settings import Settings

ROOMS = ("ingest", "control", "projections", "web")
GRACE = 10.0
"""Seconds that a python child may take to end in order."""

Command = Callable[[Folder], Sequence[str]]


class _Readiness(msgspec.Struct, frozen=True):
    ready: bool
    redis: str
    postgres: str


def command(room: str) -> Command:
    """How a room's process is started: by the `tocsin` command of this very Python."""

    def argv(folder: Folder) -> Sequence[str]:
        return (sys.executable, "-m", "control.composition", "run", room, "--station", str(folder.path))

    return argv


COMMANDS: Mapping[str, Command] = {room: command(room) for room in ROOMS}


def launch(name: str, command: Command, folder: Folder) -> Launch:
    """How the room's process is started, its words going to its log."""
    # What is seen may be a moment late where commands and audio need the processor.
    yields = name == "projections"
    return Launch(
        name, tuple(command(folder)), folder.log(name), env=environment(), grace=GRACE, yields=yields
    )


def environment() -> dict[str, str]:
    """Our environment without what would lead the station's processes to another station's servers."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("TOCSIN_REDIS_", "TOCSIN_POSTGRES_"))
    }


def address(settings: Settings) -> str:
    """The dashboard's address, as a browser on this machine reaches it."""
    host = _reached(settings.web.host)
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.web.port}"


def web_is_ready(settings: Settings) -> bool:
    """Whether the web process says by GET /readyz that it serves, and that both its servers are there."""
    connection = HTTPConnection(_reached(settings.web.host), settings.web.port, timeout=2)
    try:
        connection.request("GET", "/readyz")
        told = msgspec.json.decode(connection.getresponse().read(), type=_Readiness)
        return told.ready and told.redis == told.postgres == "up"
    except (OSError, HTTPException, msgspec.MsgspecError):
        return False
    finally:
        connection.close()


def _reached(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
