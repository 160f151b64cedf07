"""The folder of a local station: where everything of it lies, made at the first start."""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from control.station.ports import LOOPBACK, free_port, is_free
from control.station.sentinel import SENTINELS, SERVICE
from control.station.users import Users, make_passwords, users_of
from streams.names import station_id
from streams.signing import create_key

SERVERS = ("redis-1", "redis-2", "redis-3")
POSTGRES = "postgres"
WEB = "web"
LARGEST_LOG = 16 * 1024 * 1024
"""A log that is longer, in bytes, is put aside as NAME.log.1 at the next start."""

BEFORE_USERS = r'^password_file = "secrets/redis\.password"$'
"""How settings written before there were users named the one password of all."""

TEMPLATE = """\
# The settings of this station's processes. `tocsin up` rewrites only what it chooses itself:
# redis.sentinels, postgres.url, and web.port when that port was its own choice and is taken.

[station]
id = "{id}"
lanes = 8

[redis]
sentinels = []
service = "{service}"
replicas = 2
password_directory = "secrets"

[postgres]
url = ""
password_file = "secrets/postgres.password"

[keys]
directory = "keys"
sign_with = "operator"

[ingest]
node = "local"

[web]
host = "{host}"
port = 0
token_file = "secrets/web.token"

[log]
level = "info"
format = "auto"
"""


@dataclass(frozen=True)
class Folder:
    """A station's folder and the places in it."""

    path: Path

    @property
    def settings(self) -> Path:
        return self.path / "station.toml"

    @property
    def secrets(self) -> Path:
        return self.path / "secrets"

    @property
    def keys(self) -> Path:
        return self.path / "keys"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def media(self) -> Path:
        return self.path / "media"

    @property
    def run(self) -> Path:
        return self.path / "run"

    @property
    def lock(self) -> Path:
        return self.run / "lock"

    @property
    def state(self) -> Path:
        """Which processes run: for other commands, and for a start after a crash."""
        return self.run / "station.json"

    @property
    def ports(self) -> Path:
        """The ports of the last start, taken again where they are free."""
        return self.run / "ports.json"

    @property
    def primary(self) -> Path:
        """The name of the server that led last."""
        return self.run / "primary"

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def server(self, name: str) -> Path:
        """The private folder of a Redis server or Sentinel: redis/1, sentinel/2 …"""
        kind, _, number = name.partition("-")
        return self.path / kind / number

    def secret(self, name: str) -> str:
        """Read a secret: redis-ROLE.password, postgres.password or web.token."""
        return (self.secrets / name).read_text("utf-8").strip()

    def users(self, station: str) -> Users:
        """The users of its Redis servers."""
        return users_of(station, self.secrets)


def prepare(path: Path, id: str = "station") -> Folder:
    """Make what is missing in a station's folder; what is there is kept. Raises InvalidName.

    Folders have mode 0700 and secrets 0600; no mode outside is touched.
    """
    folder = Folder(path.absolute())
    station_id(id)
    folder.path.mkdir(mode=0o700, parents=True, exist_ok=True)
    for part in (folder.secrets, folder.keys, folder.logs, folder.media, folder.run):
        part.mkdir(mode=0o700, exist_ok=True)
    make_passwords(folder.secrets)
    for name in ("postgres.password", "web.token"):
        if not (folder.secrets / name).exists():
            write_whole(folder.secrets / name, secrets.token_urlsafe(32) + "\n")
    if not any(folder.keys.iterdir()):
        create_key(folder.keys, "operator", "engineer", "ed25519")
    if folder.settings.exists():
        _upgrade(folder)
    else:
        write_whole(folder.settings, TEMPLATE.format(id=id, service=SERVICE, host=LOOPBACK))
    for log in folder.logs.glob("*.log"):
        if log.stat().st_size > LARGEST_LOG:
            log.replace(log.with_suffix(".log.1"))
    return folder


def _upgrade(folder: Folder) -> None:
    """Have the settings of a folder made before there were users name the folder of their passwords."""
    text = folder.settings.read_text("utf-8")
    changed = re.sub(BEFORE_USERS, 'password_directory = "secrets"', text, count=1, flags=re.MULTILINE)
    if changed != text:
        write_whole(folder.settings, changed)


class WebPortTaken(Exception):
    """Raised when another process listens on the port that station.toml sets for the web process."""


def choose_ports(folder: Folder, web: int) -> dict[str, int]:
    """A free port for each server: the last start's where it is free. Keeps them in run/ports.json.

    `web` is the port set for the web process. Where it is 0 or was our own choice, one is chosen for
    it too; another is the operator's, and raises WebPortTaken if it is not free.
    """
    last = _read_json(folder.ports)
    ours = web in (0, last.get(WEB))
    if web and not ours and not is_free(web):
        raise WebPortTaken(
            f"port {web} is taken by another process; set another web.port in {folder.settings}"
        )
    chosen: dict[str, int] = {}
    for name in (*SERVERS, *SENTINELS, POSTGRES, *([WEB] if ours else [])):
        port = last.get(name)
        others = {*chosen.values(), *(() if ours else (web,))}
        if not isinstance(port, int) or port in others or not is_free(port):
            port = free_port(others)
        chosen[name] = port
    write_whole(folder.ports, json.dumps(chosen, indent=1) + "\n")
    return chosen


def chosen_web_port(folder: Folder) -> int | None:
    """The web process's port where that was our own choice; None where it is the operator's."""
    port = _read_json(folder.ports).get(WEB)
    return port if isinstance(port, int) else None


def forget_ports(folder: Folder) -> None:
    """Let the next choice be free of the last one (whether web.port is our own stays known)."""
    last = _read_json(folder.ports)
    write_whole(folder.ports, json.dumps({name: last[name] for name in (WEB,) if name in last}))


def write_addresses(folder: Folder, ports: Mapping[str, int], database: str) -> None:
    """Put the chosen addresses into station.toml and leave all else in it as it is."""
    text = folder.settings.read_text("utf-8")
    sentinels = ", ".join(f'"{LOOPBACK}:{ports[name]}"' for name in SENTINELS)
    changed = with_value(text, "redis", "sentinels", f"[{sentinels}]")
    changed = with_value(changed, "postgres", "url", f'"{database}"')
    if WEB in ports:
        changed = with_value(changed, "web", "port", str(ports[WEB]))
    if changed != text:
        write_whole(folder.settings, changed)


def with_value(text: str, section: str, key: str, value: str) -> str:
    """TOML `text` with `key = value` in `[section]`, its comments and all other lines unchanged.

    The key's old value, if any, must stand on one line or be an array that ends with `]` on a line.
    """
    line = f"{key} = {value}"
    header = re.search(rf"^\[{section}\][ \t]*(#.*)?$", text, re.MULTILINE)
    if header is None:
        return f"{text.rstrip()}\n\n[{section}]\n{line}\n"
    following = re.compile(r"^\[", re.MULTILINE).search(text, header.end())
    end = following.start() if following else len(text)
    body = text[header.end() : end]
    old = re.compile(rf"^{key}[ \t]*=[ \t]*(\[[^\]]*\]|[^\n#]*[^\n# \t])", re.MULTILINE)
    body = old.sub(lambda _: line, body, count=1) if old.search(body) else f"\n{line}{body}"
    return text[: header.end()] + body + text[end:]


def write_whole(path: Path, text: str) -> None:
    """Replace `path` by `text` in one step (mode 0600), so that no reader meets half of it."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    _write_new(fresh, text)
    fresh.replace(path)


def _write_new(path: Path, text: str) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        read = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}
