"""Whether a Redis or Valkey server is set up so that Tocsin's promises can hold."""

from __future__ import annotations

import math
from typing import Any, Protocol

import msgspec

OLDEST = {"redis": (7, 0), "valkey": (8, 0)}
"""The oldest versions that are supported: Functions came with Redis 7.0."""
WAITAOF_SINCE = {"redis": (7, 2), "valkey": (8, 0)}
"""WAITAOF (durability `disk`) came with Redis 7.2; every supported Valkey has it."""

READS_ALL_SINCE = {"valkey": (9, 1, 2)}
"""Others check what their append-only file holds by the rights of the default user."""


class Asked(Protocol):
    """What is asked: a `streams.connection.Link`, or anything else that runs a command."""

    def call(self, *args: Any) -> Any: ...


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """What a server said of itself. `fsync` is empty where it does not let us ask.

    `forgets` says that after a restart it would lack what functions wrote (`access.UNUSED` says why).
    """

    product: str
    version: tuple[int, ...]
    eviction: str
    append_only: bool
    fsync: str = ""
    forgets: bool = False

    @property
    def waits_for_disks(self) -> bool:
        """Whether it can prove the durability `disk`."""
        return self.version[:2] >= WAITAOF_SINCE[self.product] and self.append_only


class Fault(msgspec.Struct, frozen=True):
    """A setting that must be changed: what it is, what it must be, and how to change it."""

    setting: str
    found: str
    wanted: str
    change: str

    def __str__(self) -> str:
        return f"{self.setting} is {self.found}, it must be {self.wanted}: {self.change}"


class WrongServer(Exception):
    """Raised when a server's version or settings would break a promise; `faults` says all of them."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__("; ".join(map(str, faults)))
        self.faults = faults


def check_server(link: Asked) -> Server:
    """Ask the server what it is and refuse it where that would break a promise.

    Raises WrongServer, and what `link.call` raises when the server cannot be reached.
    """
    server = describe(link)
    if faults := faults_of(server):
        raise WrongServer(faults)
    return server


def describe(link: Asked) -> Server:
    """What the server says of itself. INFO tells most, so that CONFIG need not be permitted."""
    facts: dict[str, str] = {}
    for section in ("server", "memory", "persistence"):
        facts |= _pairs(link.call("INFO", section))
    product = "valkey" if "valkey_version" in facts else "redis"
    version = _version(facts[f"{product}_version"])
    asked = _permitted(link, "CONFIG", "GET", "appendfsync")
    # Who may not ask the one may not ask the other, and would be noted for it twice.
    nobody = [_text(one) for one in _permitted(link, "ACL", "GETUSER", "default")] if asked else []
    rights = dict(zip(nobody[::2], nobody[1::2], strict=False))
    may_all = rights.get("commands", "+@all").startswith("+@all") and "~*" in rights.get("keys", "~*")
    return Server(
        product=product,
        version=version,
        eviction=facts["maxmemory_policy"],
        append_only=facts["aof_enabled"] == "1",
        fsync=_text(asked[1]) if len(asked) > 1 else "",
        forgets=not may_all and version < READS_ALL_SINCE.get(product, (math.inf,)),
    )


def faults_of(server: Server) -> list[Fault]:
    """All that must be changed at `server`, the version first."""
    faults = []
    oldest = OLDEST[server.product]
    if server.version[:2] < oldest:
        faults.append(
            Fault(
                f"the version of {server.product}",
                _dotted(server.version),
                f"{_dotted(oldest)} or newer",
                "upgrade the server",
            )
        )
    if server.eviction != "noeviction":
        faults.append(
            Fault(
                "maxmemory-policy",
                server.eviction,
                "noeviction",
                "CONFIG SET maxmemory-policy noeviction, and set it in the server's configuration file "
                "(another policy lets a full server drop commands and events silently)",
            )
        )
    if not server.append_only:
        faults.append(
            Fault(
                "appendonly",
                "no",
                "yes",
                "CONFIG SET appendonly yes, and set it in the server's configuration file "
                "(without it a restarted server forgets what it confirmed)",
            )
        )
    elif server.fsync == "no":
        faults.append(
            Fault(
                "appendfsync",
                "no",
                "everysec or always",
                "CONFIG SET appendfsync everysec, and set it in the server's configuration file",
            )
        )
    if server.append_only and server.forgets:
        faults.append(
            Fault(
                "the default user",
                "without rights",
                "off, but with all rights",
                "ACL SETUSER default off resetpass +@all ~* &*, and set it in the server's ACL file "
                "(tocsin access acl): when it starts, this server checks its own append-only file by them, "
                "and would leave out what functions wrote",
            )
        )
    return faults


def _permitted(link: Asked, *command: str) -> Any:
    """The answer, empty where the server does not permit the command (managed ones forbid CONFIG)."""
    try:
        return link.call(*command)
    except Exception as error:
        # Imported at need: the local station, which starts its servers itself, does without redis-py.
        from redis.exceptions import ResponseError

        if isinstance(error, ResponseError):
            return []
        raise


def _pairs(info: Any) -> dict[str, str]:
    return dict(line.split(":", 1) for line in _text(info).splitlines() if ":" in line)


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
