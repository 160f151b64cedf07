"""A conversation with the station's web process, apart from how bytes travel.

What is asked, understood and tried again is written once, as generators that yield steps and are sent what
came of them; whoever drives them does so with threads or with asyncio.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any, Generic, TypeVar

import msgspec

Result = TypeVar("Result")


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """Ask this over HTTP, and wait `timeout` seconds for the answer; what is sent back is a Reply."""

    method: str
    path: str
    params: Mapping[str, str | int] = {}
    body: bytes | None = None
    headers: Mapping[str, str] = {}
    timeout: float = 5.0


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What was answered."""

    status: int
    headers: Mapping[str, str]
    content: bytes


class Pause(msgspec.Struct, frozen=True):
    """Wait so many seconds."""

    seconds: float


class Found(msgspec.Struct, frozen=True):
    """Hand this to whoever follows."""

    value: Any


class Broken(Exception):
    """Raised within a conversation where no answer came; `sent`: the request may have arrived."""

    def __init__(self, detail: str, *, sent: bool) -> None:
        super().__init__(detail)
        self.sent = sent


Step = Request | Pause | Found
Steps = Generator[Step, Any, Result]


class Course(Generic[Result]):
    """How far a conversation is: `step` is what is to be done next, until `done`."""

    def __init__(self, steps: Steps[Result]) -> None:
        self._steps = steps
        self.done = False
        self.step: Step
        self.result: Result
        self.go_on(None)

    def go_on(self, came: Reply | Broken | None) -> None:
        """Take what came of the step; raises what the conversation ends with, if it is an error."""
        try:
            if isinstance(came, Broken):
                self.step = self._steps.throw(came)
            else:
                self.step = self._steps.send(came)
        except StopIteration as ended:
            self.done, self.result = True, ended.value
