"""Reading an event's fields without trusting them: other versions and other hands write them too.

A fold must never stop a lane over something that Postgres cannot store, so what comes out of
here always can be: no NUL characters, no numbers beyond `bigint`, no ids too long for an index.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

LONGEST_ID = 200
"""Characters; ids are far shorter, and an index entry in Postgres must stay below 2,704 bytes."""

MOST_TEXTS = 100
"""Of a list; an alert has 31 locations at most."""
LARGEST = 1e15
"""Numbers with fractions are seconds and shares; what is larger is none."""


def identifier(value: str | None) -> str | None:
    """`value` if it can be the key of a row, else None."""
    return value if value and len(value) <= LONGEST_ID and "\0" not in value else None


def text(data: Mapping[str, Any], name: str) -> str | None:
    """The field as text, or None where it is absent or something else."""
    value = data.get(name)
    # As JSON decodes: this is what folding spends its time on, so it is spelt for speed.
    if type(value) is not str:
        return None
    return value.replace("\0", "\ufffd") if "\0" in value else value


def number(data: Mapping[str, Any], name: str) -> int | None:
    """The field as an integer, or None where it is absent, something else or too large."""
    value = data.get(name)
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if -(2**63) <= value < 2**63 else None


def fraction(data: Mapping[str, Any], name: str) -> float | None:
    """The field as a number with a fraction, or None where it is absent, something else or not finite."""
    value = data.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < LARGEST else None


def flag(data: Mapping[str, Any], name: str) -> bool:
    """Whether the field is there and true."""
    return data.get(name) is True


def texts(data: Mapping[str, Any], name: str) -> list[str | None]:
    """The field as a list of texts, None for what is none; empty where it is absent or something else."""
    value = data.get(name)
    found = value[:MOST_TEXTS] if isinstance(value, list) else []
    return [printable(one) if isinstance(one, str) else None for one in found]


def table(data: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """The field as an object, with whatever it holds, or None where it is absent or something else."""
    value = data.get(name)
    return _storable(value) if isinstance(value, dict) else None


def time(value: str | None) -> datetime | None:
    """The moment that `value` names, or None where it names none or no time zone."""
    if value is None:
        return None
    try:
        moment = msgspec.convert(value, datetime)
    except msgspec.ValidationError:
        return None
    return moment if moment.tzinfo else None


def printable(value: str) -> str:
    """`value` with U+FFFD for the one character that Postgres refuses."""
    return value.replace("\0", "\ufffd") if "\0" in value else value


def _storable(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable(key): _storable(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_storable(inner) for inner in value]
    return value
