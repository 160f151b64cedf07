"""Settings: one TOML file, and environment variables over it.

A key `[redis] url` is overridden by the variable `TOCSIN_REDIS_URL`. Relative paths in the file
are relative to the file's folder. Secrets come from files, or from `TOCSIN_REDIS_PASSWORD` and
`TOCSIN_POSTGRES_PASSWORD`; they never stand in the file itself.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from streams.messages import Durability
from streams.names import NODE_NAME, STATION_ID

Count = Annotated[int, msgspec.Meta(ge=0)]
Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
StationId = Annotated[str, msgspec.Meta(pattern=rf"\A{STATION_ID.pattern}\Z")]
NodeName = Annotated[str, msgspec.Meta(pattern=rf"\A{NODE_NAME.pattern}\Z")]
RedisUrl = Annotated[str, msgspec.Meta(pattern=r"\A(redis://[^/@\s]+(/0?)?)?\Z")]
HostAndPort = Annotated[str, msgspec.Meta(pattern=r"\A[^\s:/]+:[0-9]{1,5}\Z")]


class InvalidSettings(ValueError):
    """Raised when a settings file or variable cannot be used; names the field and the value."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


class StationSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[station]`: the id in every key, the number of floating lanes, the default durability."""

    id: StationId = "station"
    lanes: Annotated[int, msgspec.Meta(ge=1, le=64)] = 8
    durability: Durability | None = None


class RedisSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[redis]`: one server by `url`, or a primary found through `sentinels` (host:port)."""

    url: RedisUrl = ""
    sentinels: tuple[HostAndPort, ...] = ()
    service: str = "tocsin"
    username: str = ""
    password_file: str = ""
    replicas: Count = 0
    password: str = ""

    def __repr__(self) -> str:
        where = ",".join(self.sentinels) or "by url"
        return f"RedisSection({where}, service={self.service!r}, replicas={self.replicas})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        # Traces on a terminal show variables by this, not by __repr__.
        return [("service", self.service)]


class PostgresSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[postgres]`: a libpq URL without a password, and the file that holds it."""

    url: str = ""
    password_file: str = ""
    password: str = ""

    def __repr__(self) -> str:
        return "PostgresSection(…)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return []


class KeysSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[keys]`: the folder with one file per key, and the key that this machine signs with."""

    directory: str = ""
    sign_with: str = "operator"


class IngestSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[ingest]`: the name of this node."""

    node: NodeName = "local"


class WebSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[web]`: where the web process listens; port 0 takes any free one."""

    host: str = "127.0.0.1"
    port: Port = 0
    workers: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    token_file: str = ""


class LogSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[log]`: level, and `auto` (text on a terminal, JSON elsewhere), `json` or `text`."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "text"] = "auto"


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings of a station's processes."""

    station: StationSection = StationSection()
    redis: RedisSection = RedisSection()
    postgres: PostgresSection = PostgresSection()
    keys: KeysSection = KeysSection()
    ingest: IngestSection = IngestSection()
    web: WebSection = WebSection()
    log: LogSection = LogSection()

    @property
    def durability(self) -> Durability:
        """The station's durability: as set, else `replica` where there are replicas."""
        return self.station.durability or ("replica" if self.redis.replicas else "memory")


_PATHS = (
    ("redis", "password_file"),
    ("postgres", "password_file"),
    ("keys", "directory"),
    ("web", "token_file"),
)
_SECRETS = (("redis", "password"), ("postgres", "password"))
_LISTS = (("redis", "sentinels"),)


def load(path: Path | None, env: Mapping[str, str] | None = None) -> Settings:
    """Read `path` (none: defaults only), lay `env` over it, and validate.

    Raises InvalidSettings naming the section, the key and what is wrong with the value.
    """
    tree = _read(path) if path else {}
    _overlay(tree, os.environ if env is None else env)
    if path:
        _anchor(tree, path.resolve().parent)
    try:
        settings = msgspec.convert(tree, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise _named(error) from None
    if _PASSWORD_IN_URL.search(settings.postgres.url):
        raise InvalidSettings("postgres.url", "put the password into a file and name it in password_file")
    return _with_secrets(settings)


def _named(error: msgspec.ValidationError) -> InvalidSettings:
    message, _, where = str(error).partition(" - at `$")
    field = where.rstrip("`").lstrip(".")
    if unknown := _UNKNOWN.fullmatch(message):
        return InvalidSettings(f"{field}.{unknown[1]}".lstrip("."), "there is no such setting")
    for shape, meaning in _SHAPES.items():
        message = message.replace(f"matching regex {shape!r}", meaning)
    return InvalidSettings(field or "settings", message)


_PASSWORD_IN_URL = re.compile(r"//[^/@]*:[^/@]*@|[?&]password=")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`")
_SHAPES = {
    r"\A(redis://[^/@\s]+(/0?)?)?\Z": "like redis://host:port/0, without a password",
    r"\A[^\s:/]+:[0-9]{1,5}\Z": "like host:port",
}


def _read(path: Path) -> dict[str, Any]:
    try:
        tree = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InvalidSettings(str(path), f"cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidSettings(str(path), f"is not TOML: {error}") from None
    for section, values in tree.items():
        if not isinstance(values, dict):
            raise InvalidSettings(section, f"is a section: write [{section}] and its keys below")
    for section, key in _SECRETS:
        if key in tree.get(section, {}):
            raise InvalidSettings(f"{section}.{key}", f"put the secret into a file and name it in {key}_file")
    return tree


def _overlay(tree: dict[str, Any], env: Mapping[str, str]) -> None:
    for section in Settings.__struct_fields__:
        kind = type(getattr(Settings(), section))
        for key in kind.__struct_fields__:
            value = env.get(f"TOCSIN_{section}_{key}".upper())
            if value is None:
                continue
            values = tree.setdefault(section, {})
            values[key] = [part for part in value.split(",") if part] if (section, key) in _LISTS else value


def _anchor(tree: dict[str, Any], folder: Path) -> None:
    for section, key in _PATHS:
        value = tree.get(section, {}).get(key)
        if value:
            tree[section][key] = str(folder / value)


def _with_secrets(settings: Settings) -> Settings:
    for section, key in _SECRETS:
        part = getattr(settings, section)
        if getattr(part, key) or not part.password_file:
            continue
        try:
            secret = Path(part.password_file).read_text("utf-8").strip()
        except OSError as error:
            raise InvalidSettings(
                f"{section}.password_file", f"{part.password_file!r} cannot be read: {error.strerror}"
            ) from None
        part = msgspec.structs.replace(part, **{key: secret})
        settings = msgspec.structs.replace(settings, **{section: part})
    return settings
