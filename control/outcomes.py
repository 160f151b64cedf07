"""What each outcome is called elsewhere: exit codes of the command line, statuses of HTTP."""

from __future__ import annotations

from collections.abc import Mapping

from streams.messages import Answer, Outcome

FAULT = 1
WRONG_USAGE = 2
EXIT_CODES: Mapping[Outcome, int] = {
    "completed": 0,
    "failed": 3,
    "rejected": 4,
    "superseded": 5,
    "expired": 6,
}
NO_ANSWER_YET = 7
UNREACHABLE = 8

STATUSES: Mapping[Outcome, int] = {
    "completed": 200,
    "failed": 502,
    "rejected": 422,
    "superseded": 409,
    "expired": 410,
}
REJECTIONS: Mapping[str, int] = {
    "unsigned": 401,
    "unknown_key": 401,
    "bad_signature": 401,
    "unauthorised": 403,
    "conflict": 409,
    "sequence": 409,
}
"""Statuses of a rejection whose reason tells more than 422 does."""


def rejection_status(reason: str | None) -> int:
    """The HTTP status of a rejection for this reason."""
    return REJECTIONS.get(reason or "", STATUSES["rejected"])


def status(answer: Answer) -> int:
    """The HTTP status that says what became of a command."""
    if answer.outcome == "rejected":
        return rejection_status(answer.reason)
    return STATUSES[answer.outcome]
