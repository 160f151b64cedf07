"""What each error of Redis means here, and what is done about it. One place, for code and people alike.

`docs/survival.md` has the same table in words.
"""

from __future__ import annotations

from typing import Literal

import msgspec
from redis.exceptions import AuthenticationError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

Remedy = Literal["elsewhere", "wait", "owner", "person"]


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """The decided answer to one kind of error.

    `remedy` says who mends it: `elsewhere` (another server is or will be the primary: all Sentinels
    are asked again), `wait` (it passes at this server), `owner` (the lane's owner makes anew what is
    missing), `person` (nothing passes before somebody does `next`). Whoever retries does so in every
    case, with backoff, so that all goes on by itself once the fault is mended.
    """

    code: str
    means: str
    remedy: Remedy
    next: str
    refused: bool = True
    """Whether the command that got this answer certainly had no effect."""
    of_server: bool = True
    """Whether the server would answer so to everybody: the connection is dropped then. Else it is
    an answer to this one command."""


_LOOK = "tocsin doctor says what is down; during a failover this passes by itself in a few seconds"

FAULTS = {
    fault.code: fault
    for fault in (
        # Found by ourselves.
        Fault(
            code="TIMEOUT",
            means="it did not answer in time: it hangs, or nothing reaches it any more",
            remedy="elsewhere",
            next=_LOOK,
            refused=False,
        ),
        Fault(
            code="RESET",
            means="the connection broke",
            remedy="elsewhere",
            next=_LOOK,
            refused=False,
        ),
        Fault(
            code="REFUSED",
            means="no connection can be made to it",
            remedy="elsewhere",
            next="start it (your own station: tocsin up), or mend the network",
        ),
        Fault(
            code="TLS",
            means="no trusted connection can be made to it",
            remedy="person",
            next="compare redis.tls with the server, redis.ca_file with who signed its certificate, and the "
            "address with the names in it",
        ),
        Fault(
            code="NOPRIMARY",
            means="no primary can be found",
            remedy="elsewhere",
            next="start the Sentinels that are missing: a majority of them must answer",
        ),
        Fault(
            code="NOMAJORITY",
            means="no majority of the cluster's primaries answers",
            remedy="elsewhere",
            next="start the nodes that are missing, or mend the network: without one nothing is served",
        ),
        Fault(
            code="ELECTING",
            means="the primary of this lane has failed, and none of its replicas is elected yet",
            remedy="elsewhere",
            next="it passes in a few seconds; else look at CLUSTER NODES: a replica of it must be alive",
        ),
        Fault(
            code="REPLICA",
            means="it is no primary now",
            remedy="elsewhere",
            next=_LOOK,
        ),
        Fault(
            code="SWITCHED",
            means="the Sentinels name another primary, so the connection was dropped",
            remedy="elsewhere",
            next=_LOOK,
            refused=False,
        ),
        # Told by a server that is not, or no longer, the one to talk to.
        Fault(
            code="READONLY",
            means="it has become a replica",
            remedy="elsewhere",
            next=_LOOK,
        ),
        Fault(
            code="UNBLOCKED",
            means="it has become a replica while the command was waiting",
            remedy="elsewhere",
            next=_LOOK,
        ),
        Fault(
            code="MASTERDOWN",
            means="it has become a replica and has lost its own primary",
            remedy="elsewhere",
            next=_LOOK,
        ),
        Fault(
            code="CLUSTERDOWN",
            means="the cluster does not serve this lane now",
            remedy="elsewhere",
            next="look at CLUSTER INFO: a shard has neither a primary nor a replica to take its place",
        ),
        Fault(
            code="MOVED",
            means="another server of the cluster holds this lane now",
            remedy="elsewhere",
            next="wait: the cluster is asked again; where redis.url names a node of one, set redis.cluster",
        ),
        # Told by a server that serves again by itself.
        Fault(
            code="LOADING",
            means="it has just started and is reading its data",
            remedy="wait",
            next="wait: it serves once its data are read",
        ),
        Fault(
            code="NOREPLICAS",
            means="it takes no writes because too few replicas are attached",
            remedy="wait",
            next="start the replicas that are missing: tocsin doctor counts them",
        ),
        Fault(
            code="BUSY",
            means="a script or function has been running in it for too long",
            remedy="wait",
            next="if it lasts: SCRIPT KILL or FUNCTION KILL; the log of the server names what runs",
        ),
        Fault(
            code="TRYAGAIN",
            means="the keys of this lane are being moved to another server",
            remedy="wait",
            next="wait: it passes when the move is done",
        ),
        Fault(
            code="MAXCLIENTS",
            means="it has as many connections as it may have",
            remedy="wait",
            next="raise maxclients, or find out who holds so many: CLIENT LIST",
        ),
        # Made anew by whoever owns the lane.
        Fault(
            code="NOGROUP",
            means="the consumer group of the lane is gone",
            remedy="owner",
            next="nothing: the lane's owner makes it anew from the beginning, and skips what has a result",
            of_server=False,
        ),
        Fault(
            code="NOFUNCTION",
            means="the server-side functions are not loaded",
            remedy="owner",
            next="your own station (tocsin up) loads them by itself; on other servers: tocsin access load",
            of_server=False,
        ),
        # A person's.
        Fault(
            code="MISCONF",
            means="it takes no writes because it cannot save to its disk",
            remedy="person",
            next="make room on that disk, or mend what its log complains of; then it takes writes again",
        ),
        Fault(
            code="OOM",
            means="its memory is full (maxmemory)",
            remedy="person",
            next="raise maxmemory (CONFIG SET maxmemory, and its configuration file), or find what fills it",
        ),
        Fault(
            code="WRONGPASS",
            means="it does not accept the user name or password",
            remedy="person",
            next="compare redis.username and the file that redis.password_file names with the server's; "
            "then restart what was configured",
        ),
        Fault(
            code="NOPERM",
            means="this user may not do that",
            remedy="person",
            next="give this process the user of its role (docs/configuration.md)",
            of_server=False,
        ),
    )
}

_SAME = {"NOSCRIPT": "NOFUNCTION", "NOAUTH": "WRONGPASS", "ASK": "TRYAGAIN"}


def fault_of(error: BaseException, *, connecting: bool = False) -> Fault | None:
    """What `error` means; None for an error that is only the command's own (a wrong type, say).

    `connecting` tells that it arose before any command was sent.
    """
    if isinstance(error, RedisTimeoutError | TimeoutError):
        return FAULTS["REFUSED" if connecting else "TIMEOUT"]
    if isinstance(error, RedisError):
        # redis-py takes the code off the text where it has a class for it, and only there.
        code = getattr(error, "status_code", None) or str(error).partition(" ")[0]
        code = _SAME.get(code, code)
        if code in FAULTS:
            return FAULTS[code]
        if isinstance(error, AuthenticationError):
            return FAULTS["WRONGPASS"]
        if "Function not found" in str(error):
            return FAULTS["NOFUNCTION"]
        if str(error).startswith("max number of clients"):
            return FAULTS["MAXCLIENTS"]
    if "[SSL" in str(error) and "EOF" not in str(error):  # a server that ends breaks the handshake off
        return FAULTS["TLS"]
    if isinstance(error, RedisConnectionError | OSError):
        return FAULTS["REFUSED" if connecting else "RESET"]
    return None
