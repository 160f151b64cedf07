"""The folder of a deployment: what `docker-compose.sentinel.yml` mounts, made once and then kept.

authority/   ca.pem, and ca.key: needed to certify more hosts, best kept off this machine
tls/         a certificate and its key for each server; front.pem for the published port
secrets/     passwords, ACL files (hashes), the web's token
keys/        who may sign: operator.json (yours), web.json, the nodes'; keys/public has what verifies
data/        what the containers write, a folder each
media/       recordings that file sources play
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from control.deployment.authority import Authority, write_new
from control.station.users import Users, make_passwords, users_of
from streams.names import station_id
from streams.signing import Role, create_key, without_secret

SERVICE = "tocsin"
"""What the Sentinels call the primary, in deploy/redis/sentinel.conf."""
REDIS = ("redis-1", "redis-2", "redis-3")
SENTINELS = ("sentinel-1", "sentinel-2", "sentinel-3")
POSTGRES = ("postgres-1", "postgres-2")
NODES = ("ingest-1", "ingest-2")
FRONT = "front"
CLUSTER = ("redis-4", "redis-5", "redis-6")
"""The further servers of deploy/docker-compose.cluster.yml."""
WRITES = (
    *REDIS, *SENTINELS, *POSTGRES, *CLUSTER, *NODES, "control-1", "control-2",
    "projections-1", "projections-2", "web-1", "web-2", "prometheus", "cli",
)  # fmt: skip
CONTAINER_USER = 10001
"""Who owns all of it where root makes it: the containers run as nobody on this machine."""
SETTINGS = "compose.env"


@dataclass(frozen=True)
class Made:
    """What was made: the settings for `docker compose --env-file`, the authority's file, how much was new."""

    settings: Path
    authority: Path
    files: int


def init_deploy(
    path: Path,
    *,
    station: str = "station",
    hosts: Sequence[str] = ("localhost",),
    servers: Sequence[str] = (),
) -> Made:
    """Make what is missing in the folder at `path`; what is there is kept, so that it can be run again.

    Only the ACL files, which follow from passwords and version, are written anew. `hosts` are the names and
    addresses under which people will open the published port, `servers` those of machines without containers.
    Raises InvalidName, OSError.
    """
    station_id(station)
    path = path.absolute()
    before = set(_files(path))
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in ("authority", "tls", "secrets", "keys", "keys/public", "media", "data"):
        (path / name).mkdir(mode=0o700, exist_ok=True)
    for name in WRITES:
        (path / "data" / name).mkdir(mode=0o700, exist_ok=True)
    authority = Authority(path / "authority", station)
    for name in (*REDIS, *SENTINELS, *POSTGRES, *CLUSTER, *servers):
        if not (path / "tls" / f"{name}.pem").exists():
            authority.certify(path / "tls" / name, [name])
    if not (path / "tls" / "front.pem").exists():
        # HAProxy wants both in one file.
        both = authority.certify(path / "tls" / "front-certificate", [*hosts, FRONT])
        write_new(path / "tls" / "front.pem", both)
    _make_secrets(path / "secrets", station)
    _make_keys(path / "keys", [*NODES, *servers])
    owner = CONTAINER_USER if os.geteuid() == 0 else os.getuid()
    group = CONTAINER_USER if os.geteuid() == 0 else os.getgid()
    settings = {"TOCSIN_DEPLOY": path, "TOCSIN_STATION_ID": station, "TOCSIN_UID": owner, "TOCSIN_GID": group}
    _write(path / SETTINGS, "".join(f"{name}={value}\n" for name, value in settings.items()))
    _write(path / "passwd", f"tocsin:x:{owner}:{group}:Tocsin:/tmp:/sbin/nologin\n")
    (path / "passwd").chmod(0o644)
    if os.geteuid() == 0:
        # The authority's key is for no container.
        for one in {path, *path.rglob("*")} - {path / "authority" / "ca.key"}:
            os.chown(one, owner, group, follow_symlinks=False)
    return Made(path / SETTINGS, authority.file, len(set(_files(path)) - before))


def _make_secrets(folder: Path, station: str) -> None:
    make_passwords(folder)
    for name in ("postgres.password", "postgres-replica.password", "web.token"):
        _write(folder / name, secrets.token_urlsafe(32) + "\n")
    replica = (folder / "postgres-replica.password").read_text("utf-8").strip()
    _write(folder / "postgres.pgpass", f"*:*:*:replica:{replica}\n")
    users = users_of(station, folder)
    for name, text in {"redis.acl": users.of_servers(), "sentinel.acl": users.of_sentinels()}.items():
        if (folder / name).exists() and (folder / name).read_text("utf-8") != text:
            (folder / name).unlink()
        _write(folder / name, text)
    for name, text in {
        "redis-users.conf": _followed_as(users),
        "sentinel-users.conf": _watched_as(users),
    }.items():
        _write(folder / name, text)


def _followed_as(users: Users) -> str:
    """As whom a server follows its primary: `include`d by deploy/redis/redis.conf."""
    user, password = users.login("replica")
    return f"masteruser {user}\nmasterauth {password}\n"


def _watched_as(users: Users) -> str:
    """As whom a Sentinel looks at the servers and speaks to the others."""
    user, password = users.login("sentinel")
    return (
        f"sentinel sentinel-user {user}\nsentinel sentinel-pass {password}\n"
        f"sentinel auth-user {SERVICE} {user}\nsentinel auth-pass {SERVICE} {password}\n"
    )


def _make_keys(folder: Path, nodes: Sequence[str]) -> None:
    """The first key of people, that of the web process for what they do in the browser, one for each node.

    A node reports by its own what it has spooled of a lane that another owns by then.
    """
    roles: dict[str, Role] = {"operator": "engineer", "web": "operator", **dict.fromkeys(nodes, "node")}
    for name, role in roles.items():
        if not (folder / f"{name}.json").exists():
            key = create_key(folder, name, role, "ed25519")
            write_new(folder / "public" / f"{name}.json", msgspec.json.encode(without_secret(key)))


def _write(path: Path, text: str) -> None:
    if not path.exists():
        write_new(path, text.encode())


def _files(path: Path) -> Iterator[Path]:
    return (one for one in path.rglob("*") if one.is_file())
