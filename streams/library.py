"""The server-side functions: one library, `tocsin`, loaded on each primary and replicated with the data."""

from __future__ import annotations

from contextlib import suppress

from redis.exceptions import NoPermissionError, ResponseError

from streams.connection import Link, Unreachable
from streams.faults import FAULTS, fault_of
from streams.lua import NAME as NAME
from streams.lua import source as source
from streams.lua import version as version


class MayNotLoad(NoPermissionError):
    """Raised when the functions are missing or another version, and this user may not load them."""

    def __init__(self, found: str | None) -> None:
        what = f"of version {found}, and this is for {version()}" if found else "not loaded"
        super().__init__(
            f"the server-side functions are {what}, and only the user `admin` may load them: run "
            "`tocsin access load` (a local station does that by itself)",
            status_code="NOPERM",
        )


def loaded_version(link: Link) -> str | None:
    """The version of the functions on the primary, or None where there are none."""
    try:
        reply: bytes = link.call("FCALL_RO", "tocsin_version", 0)
    except ResponseError as error:
        if fault_of(error) is FAULTS["NOFUNCTION"]:
            return None
        raise
    return reply.decode()


def load_library(link: Link) -> None:
    """Load the functions on each primary, unless this version is already there."""
    for one in link.primaries():
        found = loaded_version(one)
        if found == version():
            continue
        try:
            one.call("FUNCTION", "LOAD", "REPLACE", source())
        except NoPermissionError as error:
            raise MayNotLoad(found) from error


def bring_back(link: Link, error: Exception) -> None:
    """Load the functions again where `error` says that they are gone.

    Where this user may not do that, or cannot now, nothing happens: whoever calls it tries again.
    """
    if fault_of(error) is FAULTS["NOFUNCTION"]:
        with suppress(Unreachable, ResponseError):
            load_library(link)
