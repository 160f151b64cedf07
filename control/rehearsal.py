"""A desk that signs and submits nothing: what a command would be, and what is known to speak against it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from control.desk import Desk
from control.lanes import owner_of
from control.outbox import Outbox
from streams.admission import Delivery, Refusal, admit
from streams.breaker import Breaker
from streams.connection import Link, connect
from streams.history import EventsMissing
from streams.keybook import usable
from streams.keywatch import read_book
from streams.messages import Answer, Command, digest
from streams.names import StationKeys
from streams.settings import Settings
from streams.signing import load_keyring
from streams.submit import Signed, Submitter
from streams.tail import PositionAhead
from streams.vocabulary import COMMANDS, STATION_COMMANDS


class Objection(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something known to speak against a command; `final` where it would be refused for it."""

    reason: str
    detail: str
    field: str | None = None
    final: bool = True


class Rehearsed(msgspec.Struct, frozen=True, kw_only=True):
    """A command that would have been signed, and the objections to it."""

    command: Command
    objections: tuple[Objection, ...] = ()

    @property
    def would_be_refused(self) -> bool:
        """Whether an objection is final."""
        return any(one.final for one in self.objections)


class NotSent(Exception):
    """Raised by a rehearsal in place of submitting; `commands` are those it would have sent, in order."""

    def __init__(self, *commands: Rehearsed) -> None:
        super().__init__("nothing was submitted")
        self.commands = commands


class Rehearsal(Desk):
    """A desk whose every submit raises NotSent, and which claims and keeps nothing."""

    def __init__(self, settings: Settings, directory: Path, breaker: Breaker | None = None) -> None:
        super().__init__(settings, directory, breaker)
        self._outbox = _Unkept(directory / "outbox")

    def claim(self, source: str, lane: str, *, timeout: float = 10.0) -> str:
        """The lane that has the source's id now, else the one that would get it."""
        return self.sources().get(source, lane)

    def send(self, command: Signed, *, timeout: float = 10.0) -> Answer:
        """Raises NotSent, and Unreachable, InvalidKey."""
        raise NotSent(self.rehearse(command))

    def rehearse(self, command: Signed) -> Rehearsed:
        """What is known to speak against it now. Raises Unreachable, InvalidKey."""
        link = connect(self.settings.as_role("reader").redis, "rehearsal")
        try:
            found = tuple(_objections(command, self.settings, link))
        finally:
            link.close()
        return Rehearsed(command=command.command, objections=found)


class _Unkept(Outbox):
    def keep(self, signed: Signed) -> None:
        """Keep nothing: nobody will ask for it again."""


def _objections(signed: Signed, settings: Settings, link: Link) -> Iterator[Objection]:
    command = signed.command
    if refused := Submitter(settings, link).refusal(signed):
        yield Objection(reason=refused.reason, detail=str(refused), field=refused.field)
    yield from _conflicts(signed, StationKeys(settings.station.id), link)
    yield from _verdict(signed, settings, link)
    if invalid := _invalid(command):
        yield Objection(reason="invalid_params", detail=invalid, field="params")
    if owner_of(link, StationKeys(settings.station.id).lane(command.lane)) is None:
        detail = f"nobody owns lane {command.lane} now: it would wait, and expire"
        yield Objection(reason="no_owner", detail=detail, final=False)


def _conflicts(signed: Signed, station: StationKeys, link: Link) -> Iterator[Objection]:
    """What `submit` would say of the id and the sequence."""
    command, keys = signed.command, station.lane(signed.command.lane)
    mark: bytes | None = link.call("HGET", keys.ids, command.id)
    if mark is not None and mark.split(b" ")[0].decode() == digest(signed.raw):
        detail = "it was submitted already: the answer would be that one's"
        yield Objection(reason="known", detail=detail, field="id", final=False)
        return
    if mark is not None:
        detail = f"id {command.id} was used for another command"
        yield Objection(reason="conflict", detail=detail, field="id")
    if command.type == "source.add" and link.call("HGET", station.sources, command.source) is not None:
        yield Objection(reason="exists", detail=f"there is a source {command.source!r}", field="source")
    last = int(link.call("HGET", keys.sequence, command.source) or 0)
    if command.if_sequence is not None and command.if_sequence != last:
        yield Objection(
            reason="sequence",
            detail=f"the last command of {command.source!r} has sequence {last}, not {command.if_sequence}",
            field="if_sequence",
        )


def _verdict(signed: Signed, settings: Settings, link: Link) -> Iterator[Objection]:
    """What the lane's owner would decide of it, by the keys of the log and of the files here."""
    seconds, microseconds = link.call("TIME")
    time = datetime.fromtimestamp(int(seconds) + int(microseconds) / 1e6, UTC)
    entry, id = "0-1", signed.command.id
    delivery = Delivery(
        entry=entry,
        raw=signed.raw,
        signature=signed.signature,
        id=id,
        client="",
        sequence=0,
        deliveries=1,
        mark=f"{digest(signed.raw)} 0 {entry} ",
        received_at=time,
    )
    files = load_keyring(Path(settings.keys.directory))
    try:
        keyring = usable(read_book(link, settings.station.id), files)
    except (msgspec.MsgspecError, PositionAhead, EventsMissing) as error:
        detail = f"whether the key is good cannot be told: its log cannot be read whole ({error})"
        yield Objection(reason="unknown_key", detail=detail, field="key", final=False)
        return
    station = settings.station.id
    found = admit(delivery, keyring=keyring, station=station, lane=signed.command.lane, time=time)
    if isinstance(found, Refusal):
        yield Objection(reason=found.reason, detail=found.detail or "", field=found.field)


def _invalid(command: Command) -> str | None:
    """What is wrong with its params; None where nothing is, or nobody here knows its type."""
    kinds: dict[str, Any] = {**COMMANDS, **STATION_COMMANDS}
    if command.type not in kinds:
        return None
    try:
        msgspec.convert(command.params, kinds[command.type])
    except msgspec.ValidationError as error:
        return str(error)
    return None
