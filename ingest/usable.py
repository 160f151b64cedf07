"""Whether a source's settings make sense, as far as that can be said without opening anything."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from streams.vocabulary import FileSettings, SourceSettings, StreamSettings

SCHEMES = ("http", "https")
_WHOLE = re.compile(r"[\x21-\x7e]+")
"""What an address may be made of: visible ASCII, so that two people see one address."""


def fault(settings: SourceSettings) -> tuple[str, str] | None:
    """The field that makes them unusable, and what is wrong with its value; None where nothing is."""
    match settings:
        case FileSettings():
            why = path_fault(settings.path)
            return ("path", why) if why else None
        case StreamSettings():
            return _stream_fault(settings)
        case _:
            return None


def path_fault(path: str) -> str | None:
    """What is wrong with a path on the ingest node; None where nothing is."""
    if not path.startswith("/"):
        return f"{path[:80]!r} is relative; give the whole path on the ingest node"
    return f"{path[:80]!r} holds a NUL character, which no path may" if "\0" in path else None


def _stream_fault(settings: StreamSettings) -> tuple[str, str] | None:
    if bool(settings.url) == bool(settings.sdp):
        given = "both are given" if settings.url else "neither is given"
        return "url", f"a stream has either an url or an sdp; {given}"
    if settings.sdp:
        return None
    why = address_fault(settings.url)
    return ("url", why) if why else None


def address_fault(url: str) -> str | None:
    """What is wrong with an address of the network; None where nothing is. Never repeats a password."""
    if not _WHOLE.fullmatch(url):
        return f"{url[:80]!r} holds characters that belong to no address (percent-encode them)"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        return f"{url[:80]!r} is no address: {error}"
    if parts.username is not None or parts.password is not None:
        return (
            "user and password do not belong into an address; "
            "put them into a file in the credentials_directory of the node's [fetch]"
        )
    if parts.scheme not in SCHEMES:
        return f"{url[:80]!r} has the scheme {parts.scheme!r}; give one of http, https"
    if not host:
        return f"{url[:80]!r} names no host"
    return None
