"""A throw-away station for your own tests: `pytest_plugins = ["control.testing"]` in your conftest.py.

It is the real thing, with its own servers in a temporary folder: three Valkeys and Sentinels, PostgreSQL,
ingest, control, projections and web. It takes some seconds to start, so there is one for all tests of a
session. Without pytest, use `throwaway`.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from control.client import AsyncClient, Client
from control.readapi import Away, ReadApi
from control.station import instance
from control.station.folder import Folder

READY_WITHIN = 120.0
"""Seconds that a station may take to start: a busy machine takes its time."""
STOPPED_WITHIN = 40.0


class NotStarted(Exception):
    """Raised when the station ended, or did not get ready in time; says what it printed."""


class Throwaway:
    """A running station: its folder, its address, its own token, and clients for it."""

    def __init__(self, folder: Path, url: str, token: str) -> None:
        self.folder = folder
        self.url = url
        self.token = token

    def client(self) -> Client:
        """A client that may do everything; close it, or use it in a `with`."""
        return Client(self.url, self.token)

    def async_client(self) -> AsyncClient:
        """The same for asyncio."""
        return AsyncClient(self.url, self.token)


@contextmanager
def throwaway(folder: Path) -> Iterator[Throwaway]:
    """Run a station in `folder`, which is made, until the block ends. Raises NotStarted."""
    output = folder.parent / f"{folder.name}.output"
    with output.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "control.composition", "up", "--station", str(folder)],
            stdout=file,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    try:
        yield _when_ready(Folder(folder), process, output)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STOPPED_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _when_ready(folder: Folder, process: subprocess.Popen[bytes], output: Path) -> Throwaway:
    deadline = time.monotonic() + READY_WITHIN
    while process.poll() is None and time.monotonic() < deadline:
        running = instance.read(folder)
        if running is not None and running.web and _answers(running.web):
            return Throwaway(folder.path, running.web, folder.secret("web.token"))
        time.sleep(0.1)
    ended = "ended" if process.poll() is not None else f"was not ready within {READY_WITHIN:g} s"
    raise NotStarted(f"the station {ended}:\n{output.read_text('utf-8', 'replace')}")


def _answers(url: str) -> bool:
    try:
        with ReadApi(url) as api:
            return bool(api.readiness().get("ready")) and bool(api.health().get("healthy"))
    except Away:
        return False


@pytest.fixture(scope="session")
def tocsin_station(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Throwaway]:
    """A running station of one's own, for all tests of the session."""
    with throwaway(tmp_path_factory.mktemp("tocsin") / "station") as station:
        yield station
