"""What a room does with a lane, and what it says became of a command."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import msgspec

from streams.admission import Task
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


class Handler(Protocol):
    """What a room does with a lane. All but `execute` are called from the lane's own thread.

    Commands of one source come one at a time.
    """

    def restore(self, events: Iterator[Logged]) -> None:
        """Fold the lane's log from its beginning; called again whenever the log is not as we left it."""

    def begin(self, post: Post) -> None:
        """The lane is ours: reconcile what should run with what does.

        `post` logs from any thread, in order, and never waits for Redis.
        """

    def attempt(self, task: Task) -> Result | None:
        """Carry a command out if that needs no waiting; None leaves it to `execute`. Idempotent."""

    def execute(self, task: Task) -> Result:
        """Carry a command out, in a thread of its source's own; idempotent."""

    def end(self) -> None:
        """The lane is another's, or is being released: stop what runs."""
