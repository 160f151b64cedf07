"""Free TCP ports on the loopback."""

from __future__ import annotations

import random
import socket
from collections.abc import Container
from functools import cache
from pathlib import Path

DICE = random.SystemRandom()
LOOPBACK = "127.0.0.1"
LOWEST = 10240


@cache
def highest() -> int:
    """The first port that the kernel may give to an outgoing connection (exclusive upper bound).

    Servers stay below: while a server there is down, a client that keeps trying it could be given
    that very port as its own, connect to itself and keep the server from coming back.
    """
    try:
        low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        low = 32768
    return low if low > LOWEST + 1000 else 65536


def is_free(port: int) -> bool:
    """Whether a server could listen on `port` now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def free_port(taken: Container[int] = ()) -> int:
    """A port that is free now and not in `taken`; another process may still take it meanwhile."""
    for _ in range(1000):
        port = DICE.randrange(LOWEST, highest())
        if port not in taken and is_free(port):
            return port
    raise OSError("no free TCP port was found on 127.0.0.1")
