"""What the tests of a lane's owner share: a play that waits, and ways to ask what became of a command."""

from __future__ import annotations

import threading

import msgspec

from streams.admission import Task
from streams.handler import Result
from streams.messages import Answer
from streams.submit import Signed
from streams.vocabulary import CommandResult
from tests.fix_streams import DONE, Hall


class Gate:
    """A play that waits, for the sources named, until the test lets it go on."""

    def __init__(self, *sources: str) -> None:
        self._sources = sources
        self.entered = threading.Event()
        self.release = threading.Event()

    def __call__(self, task: Task) -> Result:
        if task.command.source in self._sources:
            self.entered.set()
            assert self.release.wait(20)
        return DONE


def send(hall: Hall, command: Signed, client: str = "") -> None:
    """Submit without waiting for the outcome."""
    assert hall.submitter().accept(command, timeout=5) is None


def answer_of(hall: Hall, command: Signed) -> Answer:
    return hall.submitter().submit(command, timeout=20)


def result_of(hall: Hall, command: Signed) -> CommandResult:
    """The one result that the log holds for the command."""
    told = [logged.event for logged in hall.events() if logged.event.command == command.command.id]
    (event,) = [event for event in told if event.type.startswith("command.")]
    return msgspec.convert(event.data, CommandResult)
