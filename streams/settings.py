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

from streams.access import Role, password_file, user_name
from streams.inputs import FetchSection, Pipes, wrong_networks
from streams.messages import Durability
from streams.names import NODE_NAME, STATION_ID
from streams.notices import SHAPES, NotifySection, contradiction
from streams.sound import MetersSection, RecordingsSection
from streams.tls import verified

Count = Annotated[int, msgspec.Meta(ge=0)]
Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
StationId = Annotated[str, msgspec.Meta(pattern=rf"\A{STATION_ID.pattern}\Z")]
NodeName = Annotated[str, msgspec.Meta(pattern=rf"\A{NODE_NAME.pattern}\Z")]
RedisUrl = Annotated[str, msgspec.Meta(pattern=r"\A(rediss?://[^/@\s]+(/0?)?)?\Z")]
_POSTGRES_HOST = r"(\[[0-9a-fA-F:.]+\]|[^:,/?@\[\]\s]*)(:[0-9]{1,5})?"
_POSTGRES_URL = rf"\A(postgres(ql)?://([^@/\s]*@)?{_POSTGRES_HOST}(,{_POSTGRES_HOST})*(/[^?\s]*)?(\?\S*)?)?\Z"
PostgresUrl = Annotated[str, msgspec.Meta(pattern=_POSTGRES_URL)]
_COLLECTOR = r"\A(https?://[^@\s?#]+)?\Z"
Seconds = Annotated[float, msgspec.Meta(ge=0)]
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
    """`[redis]`: one server by `url`, a primary found through `sentinels`, or a `cluster` (host:port).

    `cluster` names some nodes of a Redis Cluster, which tell of the others. `password_directory`
    has a file per role (`Settings.as_role`); Sentinels take the same user where none is set for them.
    """

    url: RedisUrl = ""
    sentinels: tuple[HostAndPort, ...] = ()
    cluster: tuple[HostAndPort, ...] = ()
    service: str = "tocsin"
    username: str = ""
    password_file: str = ""
    password_directory: str = ""
    sentinel_username: str = ""
    sentinel_password_file: str = ""
    tls: bool = False
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    replicas: Count = 0
    password: str = ""
    sentinel_password: str = ""

    @property
    def sentinel_login(self) -> tuple[str, str]:
        """User and password for the Sentinels; empty where there is none."""
        if self.sentinel_username or self.sentinel_password:
            return self.sentinel_username, self.sentinel_password
        return self.username, self.password

    def __repr__(self) -> str:
        where = ",".join(self.sentinels or self.cluster) or "by url"
        return f"RedisSection({where}, service={self.service!r}, replicas={self.replicas})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        # Traces on a terminal show variables by this, not by __repr__.
        return [("service", self.service)]


class PostgresSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[postgres]`: a libpq URL (with several hosts: whichever is the primary) without a password.

    `standbys` is how many of them may be promoted, `reads` where readers ask first. What failed is
    tried again after `retry_first` seconds, doubling up to `retry_longest`; after `retries` of them
    somebody is told.
    """

    url: PostgresUrl = ""
    password_file: str = ""
    ca_file: str = ""
    password: str = ""
    standbys: Count = 0
    reads: Literal["primary", "standby"] = "primary"
    max_staleness: Seconds = 15.0
    retries: Annotated[int, msgspec.Meta(ge=1, le=20)] = 5
    retry_first: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    retry_longest: Annotated[float, msgspec.Meta(gt=0)] = 5.0

    def __repr__(self) -> str:
        return "PostgresSection(…)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return []


class ArchiveSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[archive]`: how long Redis keeps events that are archived, and how full it may become.

    `keep` is in seconds. From the part `high_water` of Redis' maxmemory on no new commands are taken.
    """

    keep: Seconds = 3600.0
    high_water: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.8


class KeysSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[keys]`: the folder with one file per key, and the key that this machine signs with."""

    directory: str = ""
    sign_with: str = "operator"


class IngestSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[ingest]`: the name of this node, where it keeps what is not logged yet, and where it serves sound.

    An empty `spool` is the folder `spool` beside that of the keys. `host` and `port` are what the web process
    fetches recordings from; port 0 takes any free one.
    """

    node: NodeName = "local"
    spool: str = ""
    host: str = "127.0.0.1"
    port: Port = 0


class WebSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[web]`: where the web process listens; port 0 takes any free one.

    `https` says that people reach it by https only, through a proxy: cookies are for that alone then.
    """

    host: str = "127.0.0.1"
    port: Port = 0
    workers: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    token_file: str = ""
    https: bool = False


class ProjectionsSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[projections]`: what becomes of an event that a fold cannot take, apart for live and rebuild.

    `park` sets it aside, with what follows of its source; `stop` stands still before it.
    """

    on_error_live: Literal["park", "stop"] = "park"
    on_error_rebuild: Literal["park", "stop"] = "park"


class BreakerSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[breaker]`: failures in a row that open a breaker, and after how many seconds one may try again."""

    failures: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 5
    seconds: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 30.0


class LogSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[log]`: level, and `auto` (text on a terminal, JSON elsewhere), `json` or `text`."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "text"] = "auto"


class TracesSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[traces]`: where a collector listens (OTLP over HTTP), and the part of the commands it is told of."""

    endpoint: Annotated[str, msgspec.Meta(pattern=_COLLECTOR)] = ""
    ratio: Annotated[float, msgspec.Meta(ge=0, le=1)] = 1.0


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings of a station's processes."""

    station: StationSection = StationSection()
    redis: RedisSection = RedisSection()
    postgres: PostgresSection = PostgresSection()
    archive: ArchiveSection = ArchiveSection()
    keys: KeysSection = KeysSection()
    ingest: IngestSection = IngestSection()
    meters: MetersSection = MetersSection()
    recordings: RecordingsSection = RecordingsSection()
    web: WebSection = WebSection()
    projections: ProjectionsSection = ProjectionsSection()
    breaker: BreakerSection = BreakerSection()
    log: LogSection = LogSection()
    notify: NotifySection = NotifySection()
    traces: TracesSection = TracesSection()
    fetch: FetchSection = FetchSection()
    pipes: Pipes = {}

    @property
    def durability(self) -> Durability:
        """The station's durability: as set, else `replica` where there are replicas."""
        return self.station.durability or ("replica" if self.redis.replicas else "memory")

    def as_role(self, role: Role) -> Settings:
        """These settings with the role's own Redis user, where there is a folder with their passwords.

        Without one all roles use the user that is set. Raises InvalidSettings.
        """
        if not self.redis.password_directory:
            return self
        path = Path(self.redis.password_directory) / password_file(role)
        redis = msgspec.structs.replace(
            self.redis,
            username=user_name(self.station.id, role),
            password=_secret(path, "redis.password_directory"),
        )
        return msgspec.structs.replace(self, redis=redis)


_PATHS = (
    *(("redis", f"{name}_file") for name in ("password", "sentinel_password", "ca", "cert", "key")),
    ("redis", "password_directory"),
    ("postgres", "password_file"),
    ("postgres", "ca_file"),
    ("keys", "directory"),
    ("recordings", "directory"),
    ("ingest", "spool"),
    ("web", "token_file"),
    ("notify", "dead_man_file"),
    ("fetch", "credentials_directory"),
    ("fetch", "ca_file"),
)
_SECRETS = (("redis", "password"), ("redis", "sentinel_password"), ("postgres", "password"))
_LISTS = (
    ("redis", "sentinels"), ("redis", "cluster"),
    ("fetch", "schemes"), ("fetch", "hosts"), ("fetch", "private"),
)  # fmt: skip
_TABLES = (("notify", "rules"), ("notify", "targets"), ("notify", "maintenance"))
"""Lists of sections: no variable can hold one."""


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
    wanted = _SESSION_IN_URL.search(settings.postgres.url)
    if wanted and wanted[1] not in ("read-write", "primary"):
        raise InvalidSettings(
            "postgres.url",
            f"target_session_attrs={wanted[1]}: writers need the primary, so leave it out or say read-write; "
            "to read from a standby set postgres.reads",
        )
    if settings.redis.cluster and (settings.redis.sentinels or settings.redis.url):
        other = "redis.sentinels" if settings.redis.sentinels else "redis.url"
        raise InvalidSettings("redis.cluster", f"a cluster needs no {other}: remove one of the two")
    if wrong := contradiction(settings.notify) or wrong_networks(settings.fetch):
        raise InvalidSettings(*wrong)
    if settings.redis.password_directory:
        for other in ("username", "password_file", "password"):
            if getattr(settings.redis, other):
                detail = f"there is a user for each role: remove redis.{other}"
                raise InvalidSettings("redis.password_directory", detail)
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
_SESSION_IN_URL = re.compile(r"[?&]target_session_attrs=([^&]*)")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`")
_SHAPES = {
    r"\A(rediss?://[^/@\s]+(/0?)?)?\Z": "like redis://host:port/0, without a password",
    r"\A[^\s:/]+:[0-9]{1,5}\Z": "like host:port",
    _COLLECTOR: "like http://host:4318, without a password (give secrets by OTEL_EXPORTER_OTLP_HEADERS)",
    _POSTGRES_URL: "like postgresql://user@host:port,host:port/database",
    **SHAPES,
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
        for key in getattr(kind, "__struct_fields__", ()):
            value = env.get(f"TOCSIN_{section}_{key}".upper())
            if value is None or (section, key) in _TABLES:
                continue
            values = tree.setdefault(section, {})
            values[key] = [part for part in value.split(",") if part] if (section, key) in _LISTS else value


def _anchor(tree: dict[str, Any], folder: Path) -> None:
    for section, key in _PATHS:
        value = tree.get(section, {}).get(key)
        if value:
            tree[section][key] = str(folder / value)
    targets = tree.get("notify", {}).get("targets")
    for target in targets if isinstance(targets, list) else ():
        if isinstance(target, dict) and isinstance(target.get("url_file"), str) and target["url_file"]:
            target["url_file"] = str(folder / target["url_file"])


def _with_secrets(settings: Settings) -> Settings:
    for section, key in _SECRETS:
        part = getattr(settings, section)
        path = getattr(part, f"{key}_file")
        if getattr(part, key) or not path:
            continue
        secret = _secret(Path(path), f"{section}.{key}_file")
        part = msgspec.structs.replace(part, **{key: secret})
        settings = msgspec.structs.replace(settings, **{section: part})
    postgres = settings.postgres
    postgres = msgspec.structs.replace(postgres, url=verified(postgres.url, postgres.ca_file))
    return msgspec.structs.replace(settings, postgres=postgres)


def _secret(path: Path, field: str) -> str:
    try:
        return path.read_text("utf-8").strip()
    except OSError as error:
        raise InvalidSettings(field, f"{str(path)!r} cannot be read: {error.strerror}") from None
