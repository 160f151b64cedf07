"""Reading an event's fields without trusting them: other versions and other hands write them too.

A fold must never stop a lane over something that Postgres cannot store, so what comes out of
here always can be: no NUL characters, no numbers beyond `bigint`, no ids too long for an index.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LONGEST_ID = 200
"""Characters; ids are far shorter, and an index entry in Postgres must stay below 2,704 bytes."""


def identifier(value: str | None) -> str | None:
    """`value` if it can be the key of a row, else None."""
    return value if value and len(value) <= LONGEST_ID and "\0" not in value else None


def text(data: Mapping[str, Any], name: str) -> str | None:
    """The field as text, or None where it is absent or something else."""
    value = data.get(name)
    return printable(value) if isinstance(value, str) else None


def number(data: Mapping[str, Any], name: str) -> int | None:
    """The field as an integer, or None where it is absent, something else or too large."""
    value = data.get(name)
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if -(2**63) <= value < 2**63 else None


def table(data: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """The field as an object, with whatever it holds, or None where it is absent or something else."""
    value = data.get(name)
    return _storable(value) if isinstance(value, dict) else None


def printable(value: str) -> str:
    """`value` with U+FFFD for the one character that Postgres refuses."""
    return value.replace("\0", "\ufffd")


def _storable(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable(key): _storable(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_storable(inner) for inner in value]
    return value
