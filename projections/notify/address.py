"""Secret addresses: read from files that nobody else may read, and kept out of everything that is said."""

from __future__ import annotations

import re
from pathlib import Path


class Unusable(Exception):
    """Raised when the file with an address cannot be used; says which and why, never what is in it."""


def read_address(path: str, field: str) -> str:
    """The one address in the file that the setting `field` names. Raises Unusable.

    The file is read for each use: what was corrected there is used without a restart.
    """
    file = Path(path)
    try:
        if file.stat().st_mode & 0o077:
            raise Unusable(f"{field}: {path!r} can be read by others; run: chmod 600 {path}")
        lines = [line.strip() for line in file.read_text("utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "is not text"
        raise Unusable(f"{field}: {path!r} cannot be read: {why}") from None
    found = [line for line in lines if line and not line.startswith("#")]
    if len(found) != 1:
        raise Unusable(f"{field}: {path!r} must hold one address, and holds {len(found)}")
    return found[0]


def redacted(told: str, address: str) -> str:
    """`told` without any part of `address` that may be a secret, on one line."""
    rest = address.partition("://")[2] or address
    for part in sorted({*re.split(r"[/:@?&=+,]", rest), rest, address}, key=len, reverse=True):
        if len(part) > 2:
            told = told.replace(part, "…")
    return " ".join(told.split())[:300]
