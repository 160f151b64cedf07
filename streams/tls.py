"""Encrypted connections: always verified, by certificate and host name; there is no switch against that."""

from __future__ import annotations

import ssl
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

if TYPE_CHECKING:
    from streams.settings import RedisSection

LOCAL = ("", "localhost", "127.0.0.1", "::1")
"""Hosts that need no encryption; what begins with a slash is the folder of a Unix socket."""


def encrypted(redis: RedisSection) -> bool:
    """Whether servers and Sentinels are spoken to over TLS."""
    return redis.tls or redis.url.startswith("rediss://")


def context(redis: RedisSection) -> ssl.SSLContext:
    """What verifies whom we talk to, and shows our own certificate; the same one until a file is another.

    With a `ca_file` nobody but that authority is believed; without, the machine's own are asked. Made anew
    for each connection, it would cost some 20 ms of processor time, and a failover makes many at once.
    Raises OSError where a file cannot be read, or is none.
    """
    files = (redis.ca_file, redis.cert_file, redis.key_file)
    return _context(*files, tuple(Path(name).stat().st_mtime_ns for name in files if name))


@lru_cache(maxsize=16)
def _context(ca_file: str, cert_file: str, key_file: str, changed: tuple[int, ...]) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=ca_file or None)
    if cert_file or key_file:
        made.load_cert_chain(cert_file, key_file or None)
    return made


def verified(url: str, ca_file: str) -> str:
    """The libpq URL, with verification where it says nothing of it and a host is elsewhere.

    libpq's own default (`prefer`) takes whatever answers, also without encryption.
    """
    asked = urlsplit(url).query
    added = []
    if "sslmode=" not in asked and _is_elsewhere(url):
        added.append("sslmode=verify-full")
    if "sslrootcert=" not in asked and (ca_file or added):
        added.append(f"sslrootcert={quote(ca_file, safe='') or 'system'}")
    return url + ("&" if asked else "?") + "&".join(added) if url and added else url


def _is_elsewhere(url: str) -> bool:
    """Whether any host of the URL is neither this machine nor a Unix socket."""
    parts = urlsplit(url)
    named = [_host(one) for one in parts.netloc.rpartition("@")[2].split(",")]
    for field in parts.query.split("&"):
        key, _, value = field.partition("=")
        if key in ("host", "hostaddr"):
            named += value.replace("%2F", "/").replace("%2f", "/").split(",")
    return any(host not in LOCAL and not host.startswith(("/", "%2F", "%2f")) for host in named)


def _host(text: str) -> str:
    """The host of `host`, `host:port` or `[address]:port`."""
    return text[1:].partition("]")[0] if text.startswith("[") else text.partition(":")[0]
