"""Where measurements are made: a whole station as `tocsin up` starts it, or a worker alone on its servers."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from control.station import valkey
from control.station.folder import Folder, prepare, write_whole
from control.station.ports import LOOPBACK, free_port
from control.station.process import Launch, end
from streams.connection import Link, Unreachable, connect
from streams.messages import new_command
from streams.names import StationKeys, node_lane
from streams.settings import Settings, load
from streams.signing import create_key, load_key
from streams.submit import InDoubt, NoAnswer, Submitter, signed

HMAC, ED25519 = "bench-hmac", "bench-ed25519"
"""The keys that the commands are signed with, by algorithm."""
SOURCES = 64
"""Sources that the commands are spread over: order is kept within each of them."""


@dataclass(frozen=True)
class Stage:
    """A station that runs: its settings, the sources to send commands to, and its processes."""

    path: Path
    settings: Settings
    lanes: tuple[str, ...]
    sources: int
    processes: tuple[int, ...]

    @property
    def keys(self) -> StationKeys:
        return StationKeys(self.settings.station.id)

    def link(self) -> Link:
        return connect(self.settings.redis, "bench-stage")

    def redis_url(self, database: int) -> str:
        """The primary as the peers are to know it."""
        link = self.link()
        link.call("PING")
        address = link.address
        link.close()
        assert address is not None
        return f"redis://{self.settings.redis.username}:{self.settings.redis.password}@{address.host}:{address.port}/{database}"

    def cpu_seconds(self) -> float:
        """CPU time used so far by the station's processes and their children."""
        used = 0.0
        for pid in self.processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                root = psutil.Process(pid)
                for process in (root, *root.children(recursive=True)):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        times = process.cpu_times()
                        used += times.user + times.system
        return used

    def settle(self, timeout: float = 30.0) -> float:
        """Wait until the station has digested what it was given; return the seconds that took.

        Projections follow the log: without this, their work would fall into the next turn.
        """
        started = time.monotonic()
        while time.monotonic() - started < timeout:
            before, at = self.cpu_seconds(), time.monotonic()
            time.sleep(0.2)
            if (self.cpu_seconds() - before) / (time.monotonic() - at) < 0.25:
                break
        return time.monotonic() - started


@contextmanager
def whole(path: Path) -> Iterator[Stage]:
    """A station in `path` started by `tocsin up` with its default configuration, and the sources added."""
    folder = _prepared(path)
    log = folder.log("up")
    with log.open("ab") as said:
        up = subprocess.Popen(
            (sys.executable, "-m", "control.composition", "up", "--station", str(folder.path)),
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
        )
    try:
        settings = _ready(folder, up, log)
        lane = node_lane(settings.ingest.node)
        _add(settings, folder, lane)
        yield Stage(folder.settings, settings, (lane,), SOURCES, (up.pid,))
    finally:
        up.send_signal(signal.SIGTERM)
        try:
            up.wait(60)
        except subprocess.TimeoutExpired:
            up.kill()


@contextmanager
def servers(path: Path, *, lanes: int = 1, replicas: int = 2) -> Iterator[tuple[Folder, tuple[int, ...]]]:
    """A primary with replicas, configured as the station's are; yields the folder and the pids."""
    folder = _prepared(path)
    password = folder.secret("redis-admin.password")
    with ExitStack() as stack:
        primary = free_port()
        names = [f"redis-{index + 1}" for index in range(replicas + 1)]
        pids = [
            _server(stack, folder, name, port, password, replicas, None if port == primary else primary)
            for name, port in zip(names, [primary, *(free_port() for _ in names[1:])], strict=True)
        ]
        write_whole(
            folder.settings,
            f'[station]\nlanes = {lanes}\n[redis]\nurl = "redis://{LOOPBACK}:{primary}/0"\n'
            f'replicas = {replicas}\npassword_file = "secrets/redis-admin.password"\n'
            '[keys]\ndirectory = "keys"\n',
        )
        _await_replicas(load(folder.settings, {}))
        yield folder, tuple(pids)


@contextmanager
def worker(folder: Folder, lanes: Sequence[str]) -> Iterator[int]:
    """A process that owns `lanes`, its handler doing nothing; yields its pid."""
    arguments = [argument for lane in lanes for argument in ("--lane", lane)]
    log = folder.log("worker")
    with log.open("ab") as said:
        process = subprocess.Popen(
            (sys.executable, "-m", "bench.bare", "--settings", str(folder.settings), *arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=said,
        )
    try:
        assert process.stdout is not None
        if process.stdout.readline() != b"owned\n":
            raise SystemExit(f"the worker ended:\n{_last_words(log)}")
        yield process.pid
    finally:
        end(process, Launch("worker", (), log))
        if process.stdout is not None:
            process.stdout.close()


@contextmanager
def bare(path: Path) -> Iterator[Stage]:
    """Servers with the station's configuration, and a worker alone in place of all else."""
    with servers(path) as (folder, pids), worker(folder, ["p0"]) as pid:
        yield Stage(folder.settings, load(folder.settings, {}), ("p0",), SOURCES, (*pids, pid))


def _prepared(path: Path) -> Folder:
    folder = prepare(path)
    for id, algorithm in ((HMAC, "hmac-sha256"), (ED25519, "ed25519")):
        with contextlib.suppress(FileExistsError):
            create_key(folder.keys, id, "engineer", algorithm)  # type: ignore[arg-type]
    return folder


def _ready(folder: Folder, up: subprocess.Popen[bytes], log: Path) -> Settings:
    """The settings, once the node's lane has an owner."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if up.poll() is not None:
            raise SystemExit(f"tocsin up ended with code {up.returncode}:\n{_last_words(log)}")
        with contextlib.suppress(Unreachable):
            settings = load(folder.settings, {}).as_role("admin")
            if settings.redis.sentinels:
                link = connect(settings.redis, "bench-stage")
                keys = StationKeys(settings.station.id).lane(node_lane(settings.ingest.node))
                owned = link.call("EXISTS", keys.lease)
                link.close()
                if owned:
                    return settings
        time.sleep(0.2)
    raise SystemExit(f"the station was not ready within 60 s:\n{_last_words(log)}")


def _last_words(log: Path) -> str:
    return log.read_text("utf-8", "replace")[-2000:]


def _add(settings: Settings, folder: Folder, lane: str) -> None:
    """Make the sources known to their lane; they stay stopped."""
    key = load_key(folder.keys, HMAC)
    link = connect(settings.redis, "bench-stage")
    submitter = Submitter(settings, link)
    for source in [f"bench-{index}" for index in range(SOURCES)]:
        file = {"kind": "file", "path": str(folder.media / "bench.wav")}
        command = signed(
            new_command(
                station=settings.station.id,
                lane=lane,
                source=source,
                type="source.add",
                params={"settings": file},
                key=key.id,
            ),
            key,
        )
        for _ in range(5):
            with contextlib.suppress(NoAnswer, InDoubt, Unreachable):
                answer = submitter.submit(command)
                break
        else:
            raise SystemExit(f"source {source} could not be added")
        if answer.outcome != "completed":
            raise SystemExit(f"source {source} was not added: {answer}")
    link.close()


def _server(
    stack: ExitStack,
    folder: Folder,
    name: str,
    port: int,
    password: str,
    replicas: int,
    replica_of: int | None,
) -> int:
    server = valkey.Server(name, folder.server(name), folder.log(name), port)
    launch = valkey.launch(server, password, replicas=replicas, replica_of=replica_of)
    process = valkey.start(launch, port, password)
    stack.callback(end, process, launch, hurry=True)
    return process.pid


def _await_replicas(settings: Settings) -> None:
    link = connect(settings.redis, "bench-stage")
    deadline = time.monotonic() + 20
    while link.call("INFO", "replication").count(b"state=online") < settings.redis.replicas:
        if time.monotonic() > deadline:
            raise SystemExit("the replicas did not attach within 20 s")
        time.sleep(0.05)
    link.close()
