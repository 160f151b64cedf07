"""What a Redis user was not permitted to do, told so that somebody can mend it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis.exceptions import NoPermissionError, ResponseError

SHOWN = 4
"""So many keys of a command are named."""


class Forbidden(NoPermissionError):
    """Raised when the server's ACL does not permit a command to this connection's user.

    The text names user, command and keys, and none of what was to be written.
    """

    def __init__(self, command: Sequence[Any], user: str, where: object, error: ResponseError) -> None:
        super().__init__(
            f"the Redis user {user or 'default'!r} may not run {_named(command)} at {where} ({error}). "
            "Give this process the user of its role (redis.username, or redis.password_directory), or the "
            "user the rules of the role: tocsin access acl",
            status_code="NOPERM",
        )


def is_forbidden(reply: object) -> bool:
    """Whether the reply refuses a command, or one within a function that it called, to this user."""
    inside = isinstance(reply, ResponseError) and any(sign in str(reply) for sign in _INSIDE)
    return inside or isinstance(reply, NoPermissionError)


_INSIDE = ("ACL failure in script", "The user executing the script can't")
"""Valkey's and Redis's words for it."""


def _named(command: Sequence[Any]) -> str:
    """The command's name, the function it calls, and the first of its keys."""
    name = str(command[0])
    words = [str(word) for word in command[1:]]
    called = words[:1] if name in ("FCALL", "FCALL_RO") else []
    keys = [word for word in words if word.startswith("tocsin:")][:SHOWN]
    return " ".join([name, *called, *keys])
