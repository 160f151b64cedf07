"""After how long Postgres is tried again, as set.

Only what may be done twice is tried again: reads; and transactions that move a position by
compare-and-set, which come to nothing where an earlier attempt was committed after all.
"""

from __future__ import annotations

from streams.backoff import Waits
from streams.settings import PostgresSection


def postgres_waits(postgres: PostgresSection) -> Waits:
    """The waits for Postgres, as set."""
    return Waits(first=postgres.retry_first, longest=postgres.retry_longest, retries=postgres.retries)
