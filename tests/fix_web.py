"""The web process as `tocsin run web` starts it, beside real servers, for the tests of both sides of HTTP."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from control.station.folder import Folder
from control.station.ports import LOOPBACK, free_port
from streams.connection import connect
from streams.library import load_library
from streams.settings import PostgresSection, RedisSection, load
from tests.fix_cli import made_folder
from tests.fix_servers import eventually


class Web:
    """A running web process: its station's folder, its address, a client without a token and the token."""

    def __init__(self, folder: Folder, process: subprocess.Popen[bytes], url: str) -> None:
        self.folder = folder
        self.process = process
        self.url = url
        self.client = httpx.Client(base_url=url, timeout=30, trust_env=False)
        self.token = folder.secret("web.token")

    def post(self, path: str, body: object | None = None, token: str | None = None) -> httpx.Response:
        """Write, with this station's token unless another is given."""
        headers = {"Authorization": f"Bearer {self.token if token is None else token}"}
        return self.client.post(path, json=body, headers=headers)

    def answers(self) -> bool:
        """Whether it serves."""
        if self.process.poll() is not None:
            pytest.fail(f"the web process ended: {(self.folder.logs / 'web.log').read_text()}")
        try:
            return self.client.get("/healthz").status_code == 200
        except httpx.HTTPError:
            return False


@contextmanager
def running_web(folder: Folder) -> Iterator[Web]:
    """Run the web process of a station until the block ends; it must stop at SIGTERM by itself."""
    url = f"http://{LOOPBACK}:{load(folder.settings).web.port}"
    with (folder.logs / "web.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "control.composition", "run", "web", "--station", str(folder.path)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=dict(os.environ),
        )
    web = Web(folder, process, url)
    try:
        eventually(web.answers, "the web process serves")
        yield web
    finally:
        web.client.close()
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            pytest.fail("the web process did not stop at SIGTERM within 10 s")


@pytest.fixture
def web(tmp_path: Path, valkey: RedisSection, migrated_postgres: PostgresSection) -> Iterator[Web]:
    """The web process of an empty station whose functions and tables are in place."""
    folder = made_folder(tmp_path / "station", valkey, migrated_postgres.url, free_port())
    settings = load(folder.settings)
    link = connect(settings.redis, "test")
    load_library(link)
    link.close()
    with running_web(folder) as running:
        yield running
