"""What may be fetched: schemes and hosts by the node's configuration, and no address that is not public.

A name is resolved here, once for each connection, and the connection goes to the address that was
checked: a name that means something else a moment later gains nothing by it.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterable
from urllib.parse import urlsplit

from ingest.file_source import SourceFailed
from ingest.usable import address_fault
from streams.inputs import FetchSection

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str, int], Iterable[str]]

NAT64 = ipaddress.ip_network("64:ff9b::/96")


class Fenced(SourceFailed):
    """Raised where the node's configuration does not let something be fetched; the text says what would."""


class Fence:
    """The rules of one node."""

    def __init__(self, fetch: FetchSection, resolve: Resolve | None = None) -> None:
        self._fetch = fetch
        self._private = [ipaddress.ip_network(network) for network in fetch.private]
        self._resolve = resolve or resolved

    def check(self, url: str) -> None:
        """Raises Fenced unless an address of that scheme and host may be asked for at all."""
        why = address_fault(url)
        if why:
            raise Fenced(why)
        parts = urlsplit(url)
        self._check_scheme(parts.scheme)
        host = (parts.hostname or "").rstrip(".")
        if not self._is_known(host):
            raise Fenced(f"host {host!r} is not among the hosts of the node's [fetch]")

    def addresses(self, host: str, port: int) -> list[str]:
        """The addresses of a host that may be connected to. Raises Fenced, SourceFailed."""
        try:
            found = list(dict.fromkeys(self._resolve(host, port)))
        except OSError as error:
            raise SourceFailed(f"{host}: {error.strerror or error}") from None
        allowed = [address for address in found if self.allows(address)]
        if not allowed:
            raise Fenced(_private(host, found))
        return allowed

    def check_rtp(self, address: str) -> None:
        """Raises Fenced unless packets may be received from, and reports sent to, that address."""
        self._check_scheme("rtp")
        try:
            ipaddress.ip_address(address)
        except ValueError:
            raise Fenced(f"{address[:80]!r} is no IP address; an SDP has to give one") from None
        if not self.allows(address):
            raise Fenced(_private(address, [address]))

    def allows(self, address: str) -> bool:
        """Whether an IP address may be connected to."""
        ip = ipaddress.ip_address(address.split("%")[0])
        if any(ip in network for network in self._private):
            return True
        return _is_public(ip)

    def _check_scheme(self, scheme: str) -> None:
        if scheme not in self._fetch.schemes:
            wanted = ", ".join(self._fetch.schemes) or "none"
            raise Fenced(f"scheme {scheme!r} is not among the schemes of the node's [fetch]: {wanted}")

    def _is_known(self, host: str) -> bool:
        hosts = self._fetch.hosts
        return not hosts or any(
            host == known or (known.startswith("*.") and host.endswith(known[1:])) for known in hosts
        )


def resolved(host: str, port: int) -> list[str]:
    """The addresses that a name has now, as the system says. Raises OSError."""
    return [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def _is_public(ip: Address) -> bool:
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if ip in NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        # An address of the old kind inside one of the new reaches what the inner one reaches.
        if inner is not None:
            return _is_public(inner)
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified)


def _private(host: str, found: Iterable[str]) -> str:
    shown = ", ".join(found) or "no address"
    return f"{host} is {shown}, which is not public; list its network in private of the node's [fetch]"
