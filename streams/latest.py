"""The latest start, stop or restart of each source, and the parked ones that a retry may come for.

A retry stands in the place of an older command. Where something newer was wished of the source
meanwhile, the parked one was overtaken by it, and so is its retry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from streams.admission import Task
from streams.handler import Result, Summary
from streams.messages import Command, Event, Logged, canonical
from streams.vocabulary import OVERTAKING

_COUNTED = frozenset({"command.completed", "command.failed"})
"""Results of what was tried; one that was superseded was so by another that counts."""


class _Known(msgspec.Struct, frozen=True):
    """What stays of a lane's past: this module's part, and what the room's own summary holds."""

    latest: dict[str, tuple[int, str]] = {}
    parked: dict[str, int] = {}
    data: bytes = b""


class Latest:
    """What is known of one lane; only its owner's thread asks."""

    def __init__(self, known: _Known = _Known()) -> None:  # noqa: B008  # frozen
        self._latest = dict(known.latest)
        self._parked = dict(known.parked)

    @staticmethod
    def known(data: bytes) -> tuple[Latest, bytes]:
        """What a summary `with_latest` holds: this, and the room's own. Raises msgspec.DecodeError."""
        known = msgspec.json.decode(data, type=_Known) if data else _Known()
        return Latest(known), known.data

    def kept(self, data: bytes) -> bytes:
        """The bytes that `known` reads, with the room's own `data`."""
        return canonical(_Known(self._latest, self._parked, data))

    def read(self, events: Iterable[Logged], tend: Callable[[], None] = lambda: None) -> Iterator[Logged]:
        """Pass the lane's events on and take note of them; `tend` is called after each that was taken."""
        for logged in events:
            self._fold(logged.event)
            yield logged
            tend()

    def _fold(self, event: Event) -> None:
        if event.type not in _COUNTED or event.command is None:
            return
        type, sequence = event.data.get("type"), event.data.get("sequence")
        if type in OVERTAKING and isinstance(sequence, int):
            self._note(event.source, sequence, event.command)
            if _is_parked(event.type, event.data):
                self._parked[event.command] = sequence

    def _note(self, source: str, sequence: int, id: str) -> None:
        if sequence > self._latest.get(source, (0, ""))[0]:
            self._latest[source] = (sequence, id)

    def park(self, command: Command, sequence: int) -> None:
        """Take note that the command is being parked."""
        if command.type in OVERTAKING:
            self._note(command.source, sequence, command.id)
            self._parked[command.id] = sequence

    def overtakes(self, task: Task) -> str | None:
        """The command that overtook the parked one which `task` retries; else the task is the latest now."""
        command = task.command
        if command.type not in OVERTAKING:
            return None
        parked = self._parked.get(command.cause) if command.cause else None
        if parked is not None:
            sequence, id = self._latest.get(command.source, (0, ""))
            # Delivered again it is its own latest: it was found in order before.
            if sequence > parked and id != command.id:
                return id
        self._note(command.source, task.sequence, command.id)
        return None


def _is_parked(type: str, data: dict[str, Any]) -> bool:
    return type == "command.failed" and data.get("reason") == "parked"


def with_latest(summary: Summary | None) -> Summary | None:
    """The room's summary with the latest commands beside it; None where the room has none."""
    if summary is None:
        return None
    inner = summary.fold

    def fold(data: bytes, events: Iterator[Logged]) -> bytes:
        latest, before = Latest.known(data)
        return latest.kept(inner(before, latest.read(events)))

    return Summary(f"{summary.kind}+latest", fold)


def outdated(by: str) -> Result:
    """The result of a retry that comes too late to be what is wanted."""
    detail = f"the parked command that it retries is older than {by}; submit a new one if it is still wanted"
    return Result(outcome="superseded", reason="superseded", detail=detail)
