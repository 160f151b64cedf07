"""What the `station` lane does: commands that belong to no source. Today those about parked commands.

The lane's log is the memory: which parked commands were retried or dropped stands there, and the
copies follow it (see `sweeper`).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

import msgspec

from control.parked import Copy, find
from control.sweeper import Sweeper, closed_by
from streams.admission import UNREADABLE, Task
from streams.connection import Unreachable, connect
from streams.drafts import Draft, Post
from streams.durability import Prover
from streams.handler import Result
from streams.messages import GENESIS, Command, Logged, decode_command, now
from streams.names import StationKeys
from streams.settings import Settings
from streams.submit import InDoubt, Refused, Signed, Submitter
from streams.tail import Position
from streams.vocabulary import STATION_COMMANDS, ParkedClosed, ParkedDrop, ParkedRetry, plain

AGAIN = 0.2
"""Seconds between attempts while the primary is away."""
ACCEPT = 5.0
"""Seconds that a new command may take to become durable before that is tried again."""


class Closing(msgspec.Struct, frozen=True, kw_only=True):
    """How a parked command ceased to be one: by which command of this lane, and retried as what."""

    command: str | None
    by: str | None


class StationLane:
    """The handler of the `station` lane."""

    def __init__(self, settings: Settings, prover: Prover) -> None:
        self._settings = settings
        self._keys = StationKeys(settings.station.id)
        self._link = connect(settings.redis, "control-station")
        self._submitter = Submitter(settings, self._link, prover)
        self._closed: dict[tuple[str, str], Closing] = {}
        self._folded = Position(0, GENESIS)
        self._sweeper: Sweeper | None = None

    def restore(self, events: Iterator[Logged]) -> None:
        """Fold the lane's log: which parked commands were retried or dropped."""
        self._halt()
        found: dict[tuple[str, str], Closing] = {}
        folded = Position(0, GENESIS)
        for logged in events:
            folded = Position(logged.event.seq, logged.hash)
            if closed := closed_by(logged.event):
                found[closed.lane, closed.id] = Closing(command=logged.event.command, by=closed.by)
        self._closed, self._folded = found, folded

    def begin(self, post: Post) -> None:
        """Let copies go from here on, beginning with those whose command was closed before."""
        if self._sweeper is None:
            link = connect(self._settings.redis, "control-sweep")
            self._sweeper = Sweeper(link, self._keys, self._folded, self._closed)
            threading.Thread(target=self._sweeper.run, name="sweeper", daemon=True).start()

    def attempt(self, task: Task) -> Result | None:
        """What can be said without asking anybody: refusals, and what was done already."""
        asked = _asked(task.command)
        return asked if isinstance(asked, Result) else self._known(task.command, asked)

    def execute(self, task: Task) -> Result:
        """Carry the command out, trying again while the primary is away, as long as it is valid."""
        while True:
            try:
                return self._execute(task.command)
            except (Unreachable, InDoubt) as error:
                if task.command.expires_at <= now():
                    return Result(outcome="failed", reason="unreachable", detail=str(error))
            if task.cancelled.wait(AGAIN):
                return Result(outcome="superseded", reason="superseded")

    def end(self) -> None:
        """Nothing is swept by one who does not own the lane."""
        self._halt()

    def _halt(self) -> None:
        if self._sweeper is not None:
            self._sweeper.stop.set()
            self._sweeper = None

    def _execute(self, command: Command) -> Result:
        asked = _asked(command)
        if isinstance(asked, Result):
            return asked
        if (known := self._known(command, asked)) is not None:
            return known
        copy = find(self._link, self._keys.lane(asked.lane), asked.lane, asked.id)
        if copy is None:
            return rejected("unknown_parked", "params.id", f"lane {asked.lane!r} has no parked {asked.id!r}")
        if isinstance(asked, ParkedDrop):
            return self._close(command, asked, None)
        again = renewed(asked, copy, command)
        if isinstance(again, Result):
            return again
        try:
            self._submitter.accept(again, timeout=ACCEPT)
        except Refused as error:
            return rejected(error.reason, "params.request", str(error))
        return self._close(command, asked, again.command.id)

    def _known(self, command: Command, asked: ParkedRetry | ParkedDrop) -> Result | None:
        """The result where the parked command was closed before; None where it was not."""
        closing = self._closed.get((asked.lane, asked.id))
        if closing is None:
            return None
        if closing.command == command.id:
            # Delivered again: the result was made and lost.
            return self._close(command, asked, closing.by)
        if closing.by and isinstance(asked, ParkedRetry) and closing.by == _id_of(asked.request):
            return Result(outcome="completed", state="retried")
        how = f"retried as {closing.by}" if closing.by else "dropped"
        return rejected("unknown_parked", "params.id", f"{asked.id!r} was {how} already")

    def _close(self, command: Command, asked: ParkedRetry | ParkedDrop, by: str | None) -> Result:
        self._closed[asked.lane, asked.id] = Closing(command=command.id, by=by)
        state = "retried" if by else "dropped"
        data = plain(ParkedClosed(lane=asked.lane, id=asked.id, by=by))
        fact = Draft(type=f"parked.{state}", command=command.id, data=data)
        return Result(outcome="completed", state=state, drafts=(fact,))


def rejected(reason: str, field: str, detail: str) -> Result:
    """A result that says why nothing was tried."""
    return Result(outcome="rejected", reason=reason, field=field, detail=detail)


def _asked(command: Command) -> ParkedRetry | ParkedDrop | Result:
    """What the command asks for, or why it cannot be done."""
    if command.source:
        return rejected("invalid_params", "source", "commands of the station lane are of no source")
    try:
        return msgspec.convert(command.params, STATION_COMMANDS[command.type])
    except msgspec.ValidationError as error:
        return rejected("invalid_params", "params", str(error))


def _id_of(request: str) -> str:
    try:
        return decode_command(request.encode()).id
    except UNREADABLE:
        return ""


def renewed(asked: ParkedRetry, copy: Copy, command: Command) -> Signed | Result:
    """The new command to submit in place of `copy`, or why that is no retry of it.

    `command` is the `parked.retry` itself: one key signs both.
    """
    raw = asked.request.encode()
    try:
        again = decode_command(raw)
    except UNREADABLE as error:
        return rejected("invalid_params", "params.request", str(error))
    was = copy.command
    same = ("station", "lane", "type", "source", "params")
    odd = [name for name in same if getattr(again, name) != getattr(was, name)]
    odd += ["cause"] if again.cause != copy.id else []
    odd += ["key"] if again.key != command.key else []
    if odd:
        return rejected("invalid_params", "params.request", f"no retry of {copy.id!r}: {', '.join(odd)}")
    return Signed(again, raw, asked.signature)
