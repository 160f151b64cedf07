"""What the `station` lane does: commands that belong to no source.

The lane's log is the memory: which parked commands were retried or dropped stands there, and the
copies follow it (see `sweeper`).
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Iterator
from functools import partial

import msgspec
import structlog

from control import groups, keys
from control.groups import Group, Groups
from control.parked import Copy, find
from control.sweeper import Sweeper, closed_by
from control.switching import Switcher
from streams import keybook
from streams.admission import UNREADABLE, Task
from streams.connection import Unreachable, connect
from streams.drafts import Draft, Post, foreseen
from streams.durability import Prover
from streams.group_messages import GroupCreate, GroupRemove, GroupSwitched
from streams.handler import LANE_LOST, Result, Summary, rejected
from streams.history import Archive
from streams.key_messages import KeyParams
from streams.keybook import Keybook
from streams.keywatch import STATION_SUMMARY, StationSummary
from streams.messages import Command, Logged, canonical, decode_command, now
from streams.names import StationKeys
from streams.settings import Settings
from streams.signing import Keyring
from streams.submit import InDoubt, Refused, Signed, Submitter
from streams.tail import START, Position
from streams.vocabulary import (
    STATION_COMMANDS,
    ConditionAcknowledge,
    ConditionAcknowledged,
    ParkedClosed,
    ParkedDrop,
    ParkedRetry,
    plain,
)

AGAIN = 0.2
"""Seconds between attempts while the primary is away."""
ACCEPT = 5.0
"""Seconds that a new command may take to become durable before that is tried again."""

log = structlog.get_logger(__name__)


class Closing(msgspec.Struct, frozen=True, kw_only=True):
    """How a parked command ceased to be one: by which command of this lane, and retried as what."""

    lane: str
    id: str
    command: str | None
    by: str | None


class Past(StationSummary, frozen=True, kw_only=True):
    """What is known of the lane's log up to a position: keys, groups, and closed parked commands."""

    at: Position = START
    closed: tuple[Closing, ...] = ()
    groups: tuple[Group, ...] = ()  # what others read of them is less


def past_of(events: Iterable[Logged], known: bytes = b"") -> Past:
    """What the lane's log says, from its beginning or from what is `known` of it.

    An event that cannot be understood is said and changes nothing.
    """
    past = msgspec.json.decode(known, type=Past) if known else Past()
    found, at = {(one.lane, one.id): one for one in past.closed}, past.at
    book: Keybook = past.keys
    known_groups: Groups = {group.id: group for group in past.groups}
    for logged in events:
        at = Position(logged.event.seq, logged.hash)
        try:
            book = keybook.fold(book, logged.event)
            known_groups = groups.fold(known_groups, logged.event)
            closed = closed_by(logged.event)
        except msgspec.ValidationError as error:
            log.error("event not understood", seq=at.seq, detail=str(error))
            continue
        if closed:
            found[closed.lane, closed.id] = Closing(
                lane=closed.lane, id=closed.id, command=logged.event.command, by=closed.by
            )
    return Past(at=at, keys=dict(book), groups=tuple(known_groups.values()), closed=tuple(found.values()))


SUMMARY = Summary(STATION_SUMMARY, lambda known, events: canonical(past_of(events, known)))
"""How the past of this lane is kept."""


class StationLane:
    """The handler of the `station` lane."""

    summary = SUMMARY

    def __init__(
        self, settings: Settings, prover: Prover, files: Keyring, archive: Archive | None = None
    ) -> None:
        self._settings = settings
        self._files = files
        self._book: Keybook = {}
        self._keyring = files
        self._archive = archive
        self._keys = StationKeys(settings.station.id)
        self._link = connect(settings.redis, "control-station")
        self._submitter = Submitter(settings, self._link, prover)
        self._closed: dict[tuple[str, str], Closing] = {}
        self._folded = START
        self._sweeper: Sweeper | None = None
        self._groups: Groups = {}
        self._changing = threading.Lock()
        """So that what was begun before the log was folded changes nothing of what was folded."""
        self._switcher: Switcher | None = None

    def keyring(self) -> Keyring:
        """The keys that may sign, by all that stands in the lane and what is about to."""
        return self._keyring

    def groups_of(self, source: str) -> Collection[str]:
        """The groups that the source is in."""
        return {group.id for group in self._groups.values() if source in group.members}

    def restore(self, events: Iterator[Logged], known: bytes = b"") -> None:
        """Fold the lane's log: the keys, and which parked commands were retried or dropped."""
        self._halt()
        past = past_of(events, known)
        self._know(past.keys)
        self._folded = past.at
        with self._changing:
            self._closed = {(one.lane, one.id): one for one in past.closed}
            self._groups = {group.id: group for group in past.groups}

    def begin(self, post: Post) -> None:
        """Let copies go from here on, beginning with those whose command was closed before."""
        if self._sweeper is None:
            link = connect(self._settings.redis, "control-sweep")
            self._sweeper = Sweeper(link, self._keys, self._folded, self._closed, self._archive)
            threading.Thread(target=self._sweeper.run, name="sweeper", daemon=True).start()
        if self._switcher is None:
            link = connect(self._settings.redis, "control-groups")
            switch, silence = partial(self._switch, post), self._settings.meters.silence_dbfs
            self._switcher = Switcher(link, self._keys, lambda: self._groups, switch, silence)
            threading.Thread(target=self._switcher.run, name="switcher", daemon=True).start()

    def attempt(self, task: Task) -> Result | None:
        """What can be said without asking anybody: refusals, keys, and what was done already."""
        asked = self._asked(task)
        if isinstance(asked, GroupCreate | GroupRemove):
            return None
        return asked if isinstance(asked, Result) else self._known(task, asked)

    def execute(self, task: Task) -> Result:
        """Carry the command out, trying again while the primary is away, as long as it is valid."""
        while True:
            try:
                return self._execute(task)
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
        if self._switcher is not None:
            self._switcher.stop.set()
            self._switcher = None

    def _execute(self, task: Task) -> Result:
        command, asked = task.command, self._asked(task)
        if isinstance(asked, Result):
            return asked
        if isinstance(asked, GroupCreate | GroupRemove):
            return self._group(task, asked)
        if (known := self._known(task, asked)) is not None:
            return known
        copy = find(self._link, self._keys.lane(asked.lane), asked.lane, asked.id)
        if copy is None:
            return rejected("unknown_parked", "params.id", f"lane {asked.lane!r} has no parked {asked.id!r}")
        if isinstance(asked, ParkedDrop):
            return self._close(task, asked, None)
        again = renewed(asked, copy, command)
        if isinstance(again, Result):
            return again
        try:
            self._submitter.accept(again, timeout=ACCEPT)
        except Refused as error:
            return rejected(error.reason, "params.request", str(error))
        return self._close(task, asked, again.command.id)

    def _asked(self, task: Task) -> ParkedRetry | ParkedDrop | GroupCreate | GroupRemove | Result:
        """What the command asks for, or its result where nothing needs to be looked up."""
        command = task.command
        if command.source:
            return rejected("invalid_params", "source", "commands of the station lane are of no source")
        if command.key not in self._keyring:
            # Revoked while this one waited for its turn: in this lane nothing comes in behind that.
            return rejected("unknown_key", "key", f"the key {command.key!r} was revoked meanwhile")
        try:
            asked = msgspec.convert(command.params, STATION_COMMANDS[command.type])
        except msgspec.ValidationError as error:
            return rejected("invalid_params", "params", str(error))
        if isinstance(asked, ConditionAcknowledge):
            return acknowledged(command, asked)
        if isinstance(asked, ParkedRetry | ParkedDrop | GroupCreate | GroupRemove):
            return asked
        return self._turn_key(task, asked)

    def _know(self, book: Keybook) -> None:
        if book is not self._book:
            self._book, self._keyring = book, keybook.usable(book, self._files)

    def _turn_key(self, task: Task, asked: KeyParams) -> Result:
        change = keys.decide(self._book, self._files, task, asked)
        if isinstance(change, Result):
            return change
        self._know(change.book)
        return Result(outcome="completed", state=change.state, drafts=change.drafts)

    def _group(self, task: Task, asked: GroupCreate | GroupRemove) -> Result:
        """Make a group, or forget one. Raises Unreachable."""
        command = task.command
        if isinstance(asked, GroupCreate):
            places = self._link.batch([("HGET", self._keys.sources, one) for one in asked.members])
            missing = [one for one, lane in zip(asked.members, places, strict=True) if lane is None]
            if missing:
                return rejected("unknown_source", "params.members", f"there is no source {missing[0]!r}")
        with self._changing:
            if task.cancelled.is_set():
                return LANE_LOST
            change = groups.decide(self._groups, asked)
            if isinstance(change, groups.Refusal):
                return rejected(change.reason, change.field, change.detail)
            drafts = tuple(
                Draft(type=type, command=command.id, data=plain(data), at=now())
                for type, data in change.drafts
            )
            for draft in drafts:
                self._groups = groups.fold(self._groups, foreseen(draft))
        return Result(outcome="completed", state=change.state, drafts=drafts)

    def _switch(self, post: Post, group: Group, to: str, reason: str) -> None:
        """Log that another member counts, unless the group has changed meanwhile."""
        with self._changing:
            if self._switcher is None or self._groups.get(group.id) != group:
                return
            data = plain(GroupSwitched(group=group.id, to=to, was=group.active, reason=reason))
            draft = Draft(type="group.switched", data=data, at=now())
            post(draft)
            self._groups = groups.fold(self._groups, foreseen(draft))

    def _known(self, task: Task, asked: ParkedRetry | ParkedDrop) -> Result | None:
        """The result where the parked command was closed before; None where it was not."""
        command, closing = task.command, self._closed.get((asked.lane, asked.id))
        if closing is None:
            return None
        if closing.command == command.id:
            # Delivered again: the result was made and lost.
            return self._close(task, asked, closing.by)
        if closing.by and isinstance(asked, ParkedRetry) and closing.by == _id_of(asked.request):
            return Result(outcome="completed", state="retried")
        how = f"retried as {closing.by}" if closing.by else "dropped"
        return rejected("unknown_parked", "params.id", f"{asked.id!r} was {how} already")

    def _close(self, task: Task, asked: ParkedRetry | ParkedDrop, by: str | None) -> Result:
        command = task.command
        with self._changing:
            if task.cancelled.is_set():
                return LANE_LOST
            closing = Closing(lane=asked.lane, id=asked.id, command=command.id, by=by)
            self._closed[asked.lane, asked.id] = closing
        state = "retried" if by else "dropped"
        data = plain(ParkedClosed(lane=asked.lane, id=asked.id, by=by))
        fact = Draft(type=f"parked.{state}", command=command.id, data=data)
        return Result(outcome="completed", state=state, drafts=(fact,))


def acknowledged(command: Command, asked: ConditionAcknowledge) -> Result:
    """It is logged who sees to it; whoever keeps the episodes knows whether there is such a one."""
    seen = ConditionAcknowledged(
        episode=asked.episode, rule=asked.rule, subject=asked.subject, by=command.key
    )
    fact = Draft(type="condition.acknowledged", command=command.id, data=plain(seen))
    return Result(outcome="completed", state="acknowledged", drafts=(fact,))


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
