"""A compose file as data: each service with what its container is given, as far as ours uses it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

_VARIABLE = re.compile(r"\$\$|\$\{([A-Z_]+)(?::([-?])([^}]*))?\}")


@dataclass(frozen=True)
class Mount:
    """A file or folder of this machine at a place in the container."""

    source: Path
    target: str
    read_only: bool


@dataclass(frozen=True)
class Service:
    """One container."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    mounts: tuple[Mount, ...]
    networks: tuple[str, ...]
    scratch: tuple[str, ...]
    restart: str
    stop_signal: str
    profiles: tuple[str, ...]
    user: tuple[int, int]
    raw: Mapping[str, Any] = field(repr=False)


def read(path: Path, env: Mapping[str, str]) -> dict[str, Service]:
    """The services of the compose file at `path`, by name, with variables from `env`.

    Raises KeyError where a variable that must be set is not.
    """
    tree = _filled(yaml.safe_load(path.read_text("utf-8")), env)
    files = {name: _place(path.parent, one["file"]) for name, one in tree.get("secrets", {}).items()}
    return {name: _service(name, one, path.parent, files) for name, one in tree["services"].items()}


def normalised(tree: Mapping[str, Any]) -> dict[str, Service]:
    """The services of what `docker compose config --format json` says."""
    files = {name: Path(one["file"]) for name, one in tree.get("secrets", {}).items()}
    return {name: _service(name, one, Path("/"), files) for name, one in tree["services"].items()}


def env_file(path: Path) -> dict[str, str]:
    """The variables of a file like the one that `tocsin init-deploy` writes."""
    return dict(line.split("=", 1) for line in path.read_text("utf-8").splitlines() if line)


def _service(name: str, one: Mapping[str, Any], base: Path, files: Mapping[str, Path]) -> Service:
    mounts = [_mount(text, base) for text in one.get("volumes", [])]
    mounts += [_secret(given, files) for given in one.get("secrets", [])]
    return Service(
        name=name,
        command=(*(one.get("entrypoint") or []), *(one.get("command") or [])),
        environment={key: str(value) for key, value in one.get("environment", {}).items()},
        mounts=tuple(mounts),
        networks=tuple(one.get("networks", [])),
        scratch=tuple(text.partition(":")[0] for text in one.get("tmpfs", [])),
        restart=one.get("restart", "no"),
        stop_signal=one.get("stop_signal", "SIGTERM"),
        profiles=tuple(one.get("profiles", [])),
        user=_user(one["user"]),
        raw=one,
    )


def _user(text: str) -> tuple[int, int]:
    user, _, group = text.partition(":")
    return int(user), int(group)


def _mount(text: str | Mapping[str, Any], base: Path) -> Mount:
    if not isinstance(text, str):
        return Mount(Path(text["source"]), text["target"], read_only=text.get("read_only", False))
    source, target, *options = text.split(":")
    return Mount(_place(base, source), target, read_only=options == ["ro"])


def _secret(given: str | Mapping[str, str], files: Mapping[str, Path]) -> Mount:
    source = given if isinstance(given, str) else given["source"]
    target = given if isinstance(given, str) else given["target"]
    return Mount(
        files[source], target if target.startswith("/") else f"/run/secrets/{target}", read_only=True
    )


def _place(base: Path, text: str) -> Path:
    return (base / text).resolve()


def _filled(value: Any, env: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _filled(one, env) for key, one in value.items()}
    if isinstance(value, list):
        return [_filled(one, env) for one in value]
    return _VARIABLE.sub(lambda found: _variable(found, env), value) if isinstance(value, str) else value


def _variable(found: re.Match[str], env: Mapping[str, str]) -> str:
    name, kind, rest = found.groups()
    if name is None:
        return "$"
    if env.get(name):
        return env[name]
    if kind == "?":
        raise KeyError(f"{name}: {rest}")
    return rest or ""
