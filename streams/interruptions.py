"""What interrupts the owner of a lane, and saying so."""

from __future__ import annotations

from redis.exceptions import ResponseError
from structlog.typing import FilteringBoundLogger

from streams.connection import Unreachable
from streams.drafts import NotTaken
from streams.durability import NotDurable
from streams.history import ArchiveAway, EventsMissing
from streams.lease import LeaseLost
from streams.proofs import WatermarkRefused

EXPECTED = (
    Unreachable, LeaseLost, NotTaken, NotDurable, ArchiveAway, EventsMissing, WatermarkRefused, ResponseError
)  # fmt: skip
"""What is expected to interrupt an owner now and then."""


class Interruptions:
    """Says what interrupts an owner, once for as long as it is the same."""

    def __init__(self, logger: FilteringBoundLogger) -> None:
        self._logger = logger
        self._said = ""

    def say(self, error: Exception) -> None:
        """Say it; what is not foreseen with its trace, for it is no reason to give a lane up for good."""
        if str(error) == self._said:
            return
        self._said = str(error)
        trace = None if isinstance(error, EXPECTED) else error
        self._logger.warning("lane interrupted", why=type(error).__name__, detail=str(error), exc_info=trace)

    def over(self) -> None:
        """The lane is owned again: whatever comes next is news."""
        self._said = ""
