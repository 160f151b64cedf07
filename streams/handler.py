"""What a room does with a lane, and what it says became of a command."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import msgspec

from streams.admission import Refusal, Task
from streams.drafts import Draft, Post
from streams.messages import Logged, Outcome


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What a handler says became of a command; `drafts` are logged together with it, before it."""

    outcome: Outcome
    state: str | None = None
    reason: str | None = None
    field: str | None = None
    detail: str | None = None
    drafts: tuple[Draft, ...] = ()


def told(refusal: Refusal) -> Result:
    """The result that says why a command is not executed."""
    return Result(outcome=refusal.outcome, reason=refusal.reason, field=refusal.field, detail=refusal.detail)


def rejected(reason: str, field: str, detail: str) -> Result:
    """A result that says why nothing was tried."""
    return Result(outcome="rejected", reason=reason, field=field, detail=detail)


LANE_LOST = Result(outcome="failed", reason="lane_lost", detail="the lane was taken over meanwhile")
"""What is said of a command that was begun on top of a log that has been folded anew since.

Nobody is told of it: the command is delivered once more, here or to another owner.
"""


class Summary(msgspec.Struct, frozen=True):
    """How a room tells in few bytes what it needs to know of a lane's past.

    `fold` is pure: what is known, by what was known (nothing: b"") and the events after that. `kind`
    changes whenever the bytes would be read otherwise.
    """

    kind: str
    fold: Callable[[bytes, Iterator[Logged]], bytes]


class Handler(Protocol):
    """What a room does with a lane. All but `execute` are called from the lane's own thread.

    Commands of one source come one at a time.
    """

    @property
    def summary(self) -> Summary | None:
        """How its past is kept where the log is trimmed; None has the whole of it read."""

    def restore(self, events: Iterator[Logged], known: bytes = b"") -> None:
        """Fold the lane's log, from its beginning or what is `known`; again where it is not as we left it."""

    def begin(self, post: Post) -> None:
        """The lane is ours: reconcile what should run with what does.

        `post` logs from any thread, in order, and never waits for Redis.
        """

    def attempt(self, task: Task) -> Result | None:
        """Carry a command out if that needs no waiting and touches nothing but the log; idempotent.

        None leaves it to `execute`. The command may not be durable yet: its result will prove both.
        """

    def execute(self, task: Task) -> Result:
        """Carry a command out, in a thread of its source's own; idempotent."""

    def end(self) -> None:
        """The lane is another's, or is being released: stop what runs."""
