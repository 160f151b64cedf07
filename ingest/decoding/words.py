"""Texts that strangers send along with their audio."""

from __future__ import annotations

LONGEST = 200
"""Characters kept of one."""


def printable(text: str) -> str:
    """As it may be shown and logged."""
    return "".join(c for c in text if c.isprintable())[:LONGEST].strip()
