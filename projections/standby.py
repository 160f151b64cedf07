"""Postgres for readers: a standby that is fresh enough, where one is wanted, else the primary.

How old an answer is does not depend on who gives it: `checked_at` and the heartbeats are rows like
all others, so what comes from a standby that is behind says so by itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import structlog
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import SQLAlchemyError

from projections.database import is_away, open_engine
from streams.settings import PostgresSection

ANSWER_WITHIN = 2.0
"""Seconds that Postgres has for a read."""
HOLD_OFF = 5.0
"""Seconds after a failure of the standby during which it is not asked."""

Found = TypeVar("Found")

_BEHIND = text(
    "SELECT CASE WHEN pg_is_in_recovery()"
    " THEN extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())::float8"
    " ELSE 0 END"
)
"""Seconds since the last commit that the standby has; the pulse commits every 5 s. NULL: it has none yet."""


class TooOld(Exception):
    """Raised when the standby is further behind than readers are content with."""


class NotThereYet(Exception):
    """Raised by a question whose answer may not have reached the standby yet: the primary is asked then."""


class ReadEngines:
    """Connections for readers. Any number of threads may read."""

    def __init__(self, postgres: PostgresSection, *, name: str) -> None:
        self._primary = open_engine(postgres, name=name, answer_within=ANSWER_WITHIN)
        self._standby: Engine | None = None
        if postgres.reads == "standby":
            self._standby = open_engine(
                postgres, name=f"{name}-standby", session="standby", answer_within=ANSWER_WITHIN
            )
        self._max_staleness = postgres.max_staleness
        self._standby_from = float("-inf")
        self._log = structlog.get_logger("projections.standby")

    def read(self, ask: Callable[[Connection], Found]) -> Found:
        """What `ask` finds: at the standby if that is wanted and fresh, else at the primary.

        With the primary away a standby that is behind is better than no answer: what it has says how
        old it is. Raises SQLAlchemyError where neither can be asked: after 5 s each at most, for a
        server that freezes (one statement, and a new connection); and what `ask` raises at the primary.
        """
        standby = self._standby
        if standby is None:
            return _ask(self._primary, ask)
        try:
            return self._ask_standby(standby, ask, self._max_staleness)
        except (TooOld, NotThereYet, SQLAlchemyError):
            pass  # a fault of the question is found again at the primary
        try:
            return _ask(self._primary, ask)
        except SQLAlchemyError as error:
            if not is_away(error):
                raise
            try:
                return self._ask_standby(standby, ask, None)
            except (TooOld, SQLAlchemyError):
                raise error from None

    def _ask_standby(
        self, standby: Engine, ask: Callable[[Connection], Found], max_staleness: float | None
    ) -> Found:
        if time.monotonic() < self._standby_from:
            raise TooOld("it was away a moment ago")
        try:
            with standby.connect() as connection:
                behind = connection.execute(_BEHIND).scalar_one()
                if max_staleness is not None and (behind is None or behind > max_staleness):
                    raise TooOld(f"the standby is {behind} s behind")
                return ask(connection)
        except SQLAlchemyError as error:
            if is_away(error):
                self._log.warning("standby away: reads go to the primary", detail=str(error).splitlines()[0])
                self._standby_from = time.monotonic() + HOLD_OFF
            raise

    def close(self) -> None:
        """Close all connections."""
        self._primary.dispose()
        if self._standby is not None:
            self._standby.dispose()


def _ask(engine: Engine, ask: Callable[[Connection], Found]) -> Found:
    with engine.connect() as connection:
        return ask(connection)
