"""Encrypted connections: always verified, by certificate and host name; there is no switch against that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

if TYPE_CHECKING:
    from streams.settings import RedisSection

LOCAL = ("", "localhost", "127.0.0.1", "::1")
"""Hosts that need no encryption; what begins with a slash is the folder of a Unix socket."""


def encrypted(redis: RedisSection) -> bool:
    """Whether servers and Sentinels are spoken to over TLS."""
    return redis.tls or redis.url.startswith("rediss://")


def arguments(redis: RedisSection) -> dict[str, Any]:
    """What redis-py's `SSLConnection` needs to verify whom it talks to, and to show our own certificate.

    Without a `ca_file` the machine's own certificate authorities are asked.
    """
    return {
        "ssl_cert_reqs": "required",
        "ssl_check_hostname": True,
        "ssl_ca_certs": redis.ca_file or None,
        "ssl_certfile": redis.cert_file or None,
        "ssl_keyfile": redis.key_file or None,
    }


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
