"""Why a projection does not go on in a lane, in one word that a person or an alarm can act on."""

from __future__ import annotations

from typing import Literal

Failure = Literal["poison", "log", "version", "rebuilding", "database", "fault"]
"""`poison`: its fold could not take an event, and it is to stop then. `log`: the log or its position is
not what it was. `version`: its rows are of a newer version. `rebuilding`: they are being made anew.
`database`: Postgres refuses what it writes. `fault`: anything else.

A server that is away is no failure of the projection: it goes on by itself.
"""


class Aside(Exception):
    """Raised when one projection cannot take part in following a lane; the others can.

    `failure` says why; with `trouble` somebody is told, without it nothing is wrong.
    """

    def __init__(self, failure: Failure, trouble: str | None) -> None:
        super().__init__(trouble or failure)
        self.failure = failure
        self.trouble = trouble
