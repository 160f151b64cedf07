"""Sentinels: `valkey-server --sentinel`, and what they say of the primary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from control.station.ask import Login, NoAnswer, Refused, ask, ask_all
from control.station.ports import LOOPBACK
from control.station.process import Launch
from control.station.users import Access, Users
from control.station.valkey import Server, acl, binary, quoted, write_private

SERVICE = "tocsin"
SENTINELS = ("sentinel-1", "sentinel-2", "sentinel-3")
QUORUM = 2
DOWN_AFTER_MS = 2000
LAST_DOWN_AFTER_MS = 2500
"""The third's: it has not asked for votes itself when the other two do at the same moment, and decides."""
FAILOVER_TIMEOUT_MS = 10000


def config(server: Server, access: Access, primary: int) -> str:
    """A Sentinel's first configuration file, watching the server on port `primary`.

    The Sentinel rewrites it with what it learns. Without users one password serves for the Sentinels
    among themselves, for their clients and for the servers they watch.
    """
    return "\n".join(
        [
            f"bind {LOOPBACK}",
            f"port {server.port}",
            f"dir {quoted(str(server.folder))}",
            *_own_credentials(server, access),
            f"sentinel monitor {SERVICE} {LOOPBACK} {primary} {QUORUM}",
            *_credentials(access),
            f"sentinel down-after-milliseconds {SERVICE} {down_after(server.name)}",
            f"sentinel failover-timeout {SERVICE} {FAILOVER_TIMEOUT_MS}",
            "",
        ]
    )


def down_after(name: str) -> int:
    """Milliseconds without an answer after which the Sentinel of this name deems a server down."""
    return LAST_DOWN_AFTER_MS if name == SENTINELS[-1] else DOWN_AFTER_MS


def _own_credentials(server: Server, access: Access) -> list[str]:
    """For its clients, and as whom it speaks to other Sentinels."""
    if isinstance(access, str):
        return [f"requirepass {quoted(access)}", f"sentinel sentinel-pass {quoted(access)}"]
    user, password = access.login("sentinel")
    return [
        f"aclfile {quoted(str(acl(server)))}",
        f"sentinel sentinel-user {quoted(user)}",
        f"sentinel sentinel-pass {quoted(password)}",
    ]


def _credentials(access: Access) -> list[str]:
    """As whom it speaks to the servers."""
    if isinstance(access, str):
        return [f"sentinel auth-pass {SERVICE} {quoted(access)}"]
    user, password = access.login("sentinel")
    return [
        f"sentinel auth-user {SERVICE} {quoted(user)}",
        f"sentinel auth-pass {SERVICE} {quoted(password)}",
    ]


def forget(server: Server) -> None:
    """Drop what the Sentinel learned, so that the next start watches a primary named afresh."""
    (server.folder / "sentinel.conf").unlink(missing_ok=True)


def launch(server: Server, access: Access, primary: int) -> Launch:
    """Say how to start the Sentinel; `primary` counts only where it has learned nothing yet."""
    path = server.folder / "sentinel.conf"
    if isinstance(access, Users):
        write_private(acl(server), access.of_sentinels())
    if not path.exists():
        write_private(path, config(server, access, primary))
    return Launch(server.name, (str(binary()), str(path), "--sentinel"), server.log)


def named_by(port: int, login: Login) -> int | None:
    """The port of the primary that the Sentinel on `port` names; None where it does not answer."""
    try:
        address = ask(port, login, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
    except (NoAnswer, Refused):
        return None
    return int(address[1]) if address else None


def majority(named: Iterable[int | None]) -> int | None:
    """The port that more than half of all Sentinels name (None: no answer), if there is one."""
    votes = list(named)
    for port, count in Counter(votes).most_common(1):
        if port is not None and count * 2 > len(votes):
            return port
    return None


def named_primary(sentinels: Iterable[int], login: Login) -> int | None:
    """The port of the primary that a majority of the Sentinels on these ports names."""
    return majority(named_by(port, login) for port in sentinels)


def sees_all(port: int, login: Login, *, replicas: int, sentinels: int) -> bool:
    """Whether the Sentinel on `port` knows so many replicas and other Sentinels, and deems none down."""
    try:
        facts, known = ask_all(
            port,
            login,
            ("SENTINEL", "MASTER", SERVICE),
            ("SENTINEL", "REPLICAS", SERVICE),
        )
    except (NoAnswer, Refused):
        return False
    primary = _pairs(facts)
    healthy = [one for one in map(_pairs, known) if one["flags"] == "slave"]
    return (
        primary["flags"] == "master"
        and int(primary["num-other-sentinels"]) == sentinels
        and len(healthy) == replicas
    )


def _pairs(flat: list[str]) -> dict[str, str]:
    return dict(zip(flat[::2], flat[1::2], strict=True))
