"""The read model of a lane as it was: its sources, its totals and its latest commands. Pure, and bounded.

The same folds as those of the projections. Of commands only the latest are kept, so that what it takes
to know a lane's past does not grow with its length.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import msgspec

from projections.folds import commands, sources, totals
from projections.folds.commands import CommandRow
from projections.folds.sources import SourceRow
from projections.folds.totals import TotalRow
from streams.messages import Event, Logged

LATEST = 100
"""Commands that are kept of each lane."""
FOLDS = ";".join(f"{fold.NAME}:{fold.VERSION}" for fold in (sources, totals, commands)) + f";{LATEST}"
"""What a lane's past was folded by: rows that other versions made are not gone on from."""


class Past(msgspec.Struct):
    """One lane after an event. `commands` in the order of their results, the latest last."""

    sources: dict[str, SourceRow] = {}
    totals: dict[str, TotalRow] = {}
    commands: dict[str, CommandRow] = {}


def fold(past: Past, logged: Logged) -> None:
    """Go on by one event. What a fold cannot take changes nothing of its rows."""
    type = logged.event.type
    if type in sources.TYPES:
        _step(past.sources, sources.concerns, sources.fold, logged)
    elif type in commands.TYPES:
        _step(past.totals, totals.concerns, totals.fold, logged)
        _step(past.commands, commands.concerns, commands.fold, logged)
        if len(past.commands) > LATEST:
            del past.commands[next(iter(past.commands))]


def _step(
    rows: dict[str, Any],
    concerns: Callable[[Event], str | None],
    fold: Callable[[Any, Logged], Any],
    logged: Logged,
) -> None:
    try:
        key = concerns(logged.event)
        if key is None:
            return
        before = rows.get(key)
        row = fold(before, logged)
    except Exception:  # as in the projections, where such an event is set aside
        return
    if row is None:
        rows.pop(key, None)
    elif row is not before:
        rows[key] = row


_decode = msgspec.json.Decoder(Past).decode


def packed(past: Past) -> bytes:
    """The lane's past as bytes, to be kept."""
    return zlib.compress(msgspec.json.encode(past), 1)


def unpacked(raw: bytes) -> Past:
    """What was packed. Raises zlib.error, msgspec.MsgspecError."""
    return _decode(zlib.decompress(raw))
