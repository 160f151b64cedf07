"""One batch of a lane's events into one projection's rows, inside the caller's transaction.

Reads the rows that the events concern, folds, and writes what changed. An event that the fold cannot
take is parked and holds back its followers, or stops the projection before it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import chain
from typing import Any

import msgspec
import psycopg
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from projections.poison import Held, OnError, Poison, park, poison, subject
from projections.projection import Projection, take
from projections.store import load_rows, write_rows
from streams.messages import Logged
from streams.steps import step

REFUSED = ("22", "23", "54")
"""SQLSTATE classes that say that the values themselves cannot be stored."""


class Folded(msgspec.Struct):
    """What became of a batch: the rows by id, what could not be folded, and who was held back by what."""

    rows: dict[str, Any]
    poisoned: list[Poison] = []
    followers: Counter[int] = msgspec.field(default_factory=Counter)
    stopped: Poison | None = None


Concerning = tuple[str | None, Logged, Exception | None]
"""The row that an event concerns, the event, or what was raised instead of saying so."""


class Batch:
    """Events of a lane, oldest first, sorted by type once for all projections: most concern few of them."""

    def __init__(self, events: Sequence[Logged]) -> None:
        self.events = events
        self._by_type: dict[str, list[Logged]] = {}
        for logged in events:
            self._by_type.setdefault(logged.event.type, []).append(logged)

    def of(self, types: frozenset[str] | None) -> Sequence[Logged]:
        """Those of these types (None: all), oldest first."""
        if types is None:
            return self.events
        found = [self._by_type[type] for type in self._by_type.keys() & types]
        return found[0] if len(found) == 1 else sorted(chain.from_iterable(found), key=_seq)


def _seq(logged: Logged) -> int:
    return logged.event.seq


def concerning(projection: Projection, batch: Batch) -> list[Concerning]:
    """Those of the events that concern any row of the projection."""
    found: list[Concerning] = []
    concerns = projection.concerns
    for logged in batch.of(projection.types):
        try:
            key = concerns(logged.event)
        except Exception as error:  # whatever it raises, it is this event that it cannot take
            found.append((None, logged, error))
        else:
            if key is not None:
                found.append((key, logged, None))
    return found


def fold_some(
    projection: Projection, rows: dict[str, Any], events: list[Concerning], held: Held, on_error: OnError
) -> Folded:
    """Fold `events` over `rows`, leaving out what is `held` back; pure but for what the fold itself does."""
    folded, held = Folded(dict(rows)), dict(held)
    after = folded.rows
    for key, logged, error in events:
        if held and (by := held.get(subject(logged, key))) is not None:
            folded.followers[by] += 1
            continue
        try:
            if error is not None or key is None:
                raise error or ValueError("concerns no row")
            take(projection, after, key, logged)
        except Exception as raised:  # whatever a fold raises, it is this event that it cannot take
            found = poison(logged, key, raised)
            if on_error == "stop":
                folded.stopped = found
                return folded
            folded.poisoned.append(found)
            held[found.subject] = found.seq
    return folded


def fold_into(
    connection: Connection,
    projection: Projection,
    lane: str,
    batch: Batch,
    held: Held,
    on_error: OnError,
) -> Poison | None:
    """Fold a batch into the projection's table; the event it stopped before, if it did.

    Raises DBAPIError, psycopg.Error; then the transaction is lost.
    """
    found = concerning(projection, batch)
    if not found:
        return None
    ids = {key for key, _, _ in found if key is not None}
    before = load_rows(connection, projection, lane, ids)
    folded = fold_some(projection, before, found, held, on_error)
    step("events folded")
    write_rows(connection, projection, lane, before, folded.rows)
    step("rows written")
    if folded.poisoned or folded.followers:
        park(connection, projection, lane, folded.poisoned, folded.followers)
    return folded.stopped


def fold_carefully(
    connection: Connection,
    projection: Projection,
    lane: str,
    batch: Batch,
    held: Held,
    on_error: OnError,
) -> Poison | None:
    """As `fold_into`, one event after the other: one whose row Postgres refuses is poison too."""
    held = dict(held)
    for logged in batch.events:
        try:
            with connection.begin_nested():
                stopped = fold_into(connection, projection, lane, Batch([logged]), held, on_error)
        except (DBAPIError, psycopg.Error) as error:
            if not is_refusal(error):
                raise
            found = poison(logged, projection.concerns(logged.event), _said(error))
            if on_error == "stop":
                return found
            park(connection, projection, lane, [found], {})
            held[found.subject] = found.seq
            continue
        if stopped is not None:
            return stopped
    return None


def is_refusal(error: BaseException) -> bool:
    """Whether Postgres says that the values themselves cannot be stored."""
    return str(getattr(_said(error), "sqlstate", None) or "").startswith(REFUSED)


def _said(error: BaseException) -> BaseException:
    return error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
