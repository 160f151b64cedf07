"""The `tocsin` command as a user runs it, against a station folder on the tests' real servers."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from control.composition import main
from control.station.folder import Folder, prepare, with_value
from streams.admission import Task
from streams.connection import connect
from streams.drafts import Post
from streams.durability import Prover
from streams.handler import Result
from streams.keywatch import KeyWatch
from streams.library import load_library
from streams.messages import Logged
from streams.settings import RedisSection, load
from streams.signing import load_keyring
from streams.worker import LaneWorker
from tests.fix_servers import PASSWORD

STATES = {"source.start": "running", "source.restart": "running"}


class Ran(NamedTuple):
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """What it printed, which must be one JSON object."""
        found = json.loads(self.out)
        assert isinstance(found, dict)
        return found


class Terminal:
    """Somebody at a prompt, with TOCSIN_STATION set."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, *arguments: str, **env: str) -> Ran:
        """Run `tocsin ARGUMENTS` and return what came of it; `env` is laid over the environment."""
        done = subprocess.run(
            [sys.executable, "-m", "control.composition", *arguments],
            env={**os.environ, "TOCSIN_STATION": str(self.folder), **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return Ran(done.returncode, done.stdout, done.stderr)


class Prompt(Terminal):
    """The same within this process: a verb takes as long as its work, and no second to import it."""

    def __call__(self, *arguments: str, **env: str) -> Ran:
        """Run `tocsin ARGUMENTS` and return what came of it; `env` is laid over the environment."""
        out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
        laid = {"TOCSIN_STATION": str(self.folder), "COLUMNS": "80", **env}
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            for name, value in laid.items():
                patch.setenv(name, value)
            try:
                main(arguments)
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 0
        said = (stream.buffer.getvalue().decode() for stream in (out, err))
        return Ran(code, *said)


class Obedient:
    """A handler that does what it is told by saying so, at once.

    For a command type, `answers` overrides what it says and `delays` is after how many seconds.
    """

    summary = None

    def __init__(self) -> None:
        self.executed: list[Task] = []
        self.answers: dict[str, Result] = {}
        self.delays: dict[str, float] = {}

    def restore(self, events: Iterator[Logged], known: bytes = b"") -> None:
        for _ in events:
            pass

    def attempt(self, task: Task) -> Result | None:
        return None

    def begin(self, post: Post) -> None:
        pass

    def execute(self, task: Task) -> Result:
        self.executed.append(task)
        time.sleep(self.delays.get(task.command.type, 0.0))
        done = Result(outcome="completed", state=STATES.get(task.command.type, "stopped"))
        return self.answers.get(task.command.type, done)

    def end(self) -> None:
        pass


def made_folder(path: Path, redis: RedisSection, postgres_url: str = "", port: int = 0) -> Folder:
    """A station's folder whose settings name these servers."""
    folder = prepare(path)
    text = folder.settings.read_text("utf-8")
    text = with_value(text, "redis", "url", f'"{redis.url}"')
    text = with_value(text, "redis", "replicas", "0")
    text = with_value(text, "postgres", "url", f'"{postgres_url}"')
    text = with_value(text, "web", "port", str(port))
    text = with_value(text, "redis", "password_directory", '""')
    text = with_value(text, "redis", "password_file", '"secrets/redis.password"')
    folder.settings.write_text(text, "utf-8")
    for name in ("redis.password", "postgres.password"):
        (folder.secrets / name).write_text(PASSWORD, "utf-8")
    return folder


@pytest.fixture
def station_folder(tmp_path: Path, valkey: RedisSection) -> Folder:
    """A station's folder on an empty Valkey with the functions loaded; nobody executes commands."""
    folder = made_folder(tmp_path / "station", valkey)
    link = connect(load(folder.settings).redis, "test")
    load_library(link)
    link.close()
    return folder


@pytest.fixture
def tocsin(station_folder: Folder) -> Terminal:
    """The `tocsin` command for that station."""
    return Terminal(station_folder.path)


@pytest.fixture
def prompt(station_folder: Folder) -> Prompt:
    """The same within this process, for tests of what verbs do rather than of how they start."""
    return Prompt(station_folder.path)


@contextmanager
def executing(folder: Folder, lane: str = "node.local", *, keys: bool = False) -> Iterator[Obedient]:
    """Own the lane and execute its commands obediently, meanwhile; with `keys`, by those of the log too."""
    settings = load(folder.settings)
    handler, stop = Obedient(), threading.Event()
    watch = KeyWatch(settings, "test", load_keyring(folder.keys))
    if keys:
        threading.Thread(target=watch.run, args=(stop,), name="test-keys", daemon=True).start()
    worker = LaneWorker(
        settings,
        lane,
        "local",
        handler,
        keyring=watch.keyring if keys else lambda: load_keyring(folder.keys),
        known=watch.fresh if keys else lambda: True,
        prover=Prover(settings.redis),
    )
    thread = threading.Thread(target=worker.run, args=(stop,), name=f"test-{lane}")
    thread.start()
    try:
        assert worker.owned.wait(20), "the lane was not acquired"
        yield handler
    finally:
        stop.set()
        thread.join(20)
        assert not thread.is_alive()


@pytest.fixture
def obedient(station_folder: Folder) -> Iterator[Obedient]:
    """Somebody who executes the commands of the lane node.local."""
    with executing(station_folder) as handler:
        yield handler
