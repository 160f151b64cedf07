"""Hosts by name and by number: Sentinels, servers and settings may call the same host by either."""

from __future__ import annotations

import ipaddress
import socket

from control.guard.rules import Address


class Hosts:
    """Looks addresses up anew at each look: a host that comes back can have another number.

    Within a look an address stays the same. One whose name cannot be looked up keeps its last
    number: where names come and go with the hosts, that of a dead one is gone too.
    """

    def __init__(self) -> None:
        self._numbers: dict[Address, Address] = {}
        self._looked_up: set[Address] = set()

    def look_again(self) -> None:
        """Begin the next look."""
        self._looked_up.clear()

    def numbered(self, address: Address) -> Address:
        """The address with its host as a number; as it is where none has ever been found."""
        if address not in self._looked_up:
            self._looked_up.add(address)
            found = _looked_up(address)
            if found is not None:
                self._numbers[address] = found
        return self._numbers.get(address, address)


def is_number(address: Address) -> bool:
    """Whether the host is a number already."""
    try:
        ipaddress.ip_address(address[0])
    except ValueError:
        return False
    return True


def _looked_up(address: Address) -> Address | None:
    host, port = address
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        return None
    return str(found[0][4][0]), port
