"""Commands of all kinds that an owner meets, with what is to become of each, for owners that are killed.

They are for `tests.programs.stepwise`: its handler waits, where a command says so, until it is overtaken.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from uuid import uuid4

from streams.messages import Answer, Durability
from streams.submit import Signed
from tests.fix_streams import Hall

SOURCES = ("slow", "quick", "other")
"""The handler carries out the commands of `quick` in the lane's own thread, the others in theirs."""
FLOOD = 6
"""Rejections of which two owners, who tell two each, count some."""
KINDS = {
    "started": ("command.completed",),
    "superseded": ("command.superseded", "command.completed"),
    "rejected": ("command.rejected",),
    "parked": ("parked.added",),
    "counted": ("rejections.counted",),
}
"""The kinds, and the events by which one can tell that something of this kind was logged."""


class Sent(NamedTuple):
    """A command, what is to become of it, and which one it is to be overtaken by."""

    command: Signed
    outcome: str
    by: str | None = None


def updates(hall: Hall, count: int) -> list[Sent]:
    """Commands that overtake nothing, dealt to the sources in turn; of both ways to prove a result."""
    levels: tuple[Durability, ...] = ("replica", "memory")
    return [
        Sent(hall.command("source.update", SOURCES[n % 3], durability=levels[n % 2]), "completed")
        for n in range(count)
    ]


def of_kind(hall: Hall, kind: str, durability: Durability) -> list[Sent]:
    """Some commands of one kind, for a source that nobody else has commands for."""
    source = f"{kind}-{uuid4().hex[:8]}"

    def command(type: str, **changes: object) -> Signed:
        return hall.command(type, source, durability=durability, **changes)

    if kind == "started":
        return [Sent(command("source.start"), "completed")]
    if kind == "superseded":
        newer = command("source.restart")
        older = command("source.start", params={"until": "overtaken"})
        return [Sent(older, "superseded", newer.command.id), Sent(newer, "completed")]
    if kind == "parked":
        return [Sent(command("source.paint"), "failed")]
    forged = [command("source.start") for _ in range(FLOOD if kind == "counted" else 1)]
    return [Sent(Signed(one.command, one.raw, "0" * 64), "rejected") for one in forged]


def of_all_kinds(hall: Hall) -> list[Sent]:
    """Some updates, and commands of each kind, of both ways to prove a result."""
    sent = updates(hall, 6)
    for kind in KINDS:
        sent += of_kind(hall, kind, "replica") + of_kind(hall, kind, "memory")
    return sent


def check_sent(hall: Hall, sent: Sequence[Sent], answers: Sequence[Answer] = ()) -> None:
    """One result for each command, as it should be, and one fact for each that was carried out.

    Each source's come by their sequence, but for those overtaken; what is parked has one copy; a rejection
    has a result of its own or is counted, once; `answers` name those events; the log verifies.
    """
    events = [logged.event for logged in hall.events()]
    results = hall.results()
    refused = {one.command.command.id for one in sent if one.outcome == "rejected"}
    expected = {one.command.command.id: [one.outcome] for one in sent}
    counted = sum(event.data["count"] for event in events if event.type == "rejections.counted")
    assert results == {id: told for id, told in expected.items() if id not in refused or id in results}
    assert len(refused & results.keys()) + counted == len(refused)
    for source in {one.command.command.source for one in sent}:
        own = [event for event in events if event.source == source]
        told = [(event.data["sequence"], event.type) for event in own if event.type.startswith("command.")]
        done = [sequence for sequence, type in told if type == "command.completed"]
        in_order = [sequence for sequence, type in told if type != "command.superseded"]
        assert in_order == sorted(in_order)
        assert [int(event.data["name"]) for event in own if event.type == "source.updated"] == done
    overtaken = {event.command: event.data["by"] for event in events if event.type == "command.superseded"}
    assert overtaken == {one.command.command.id: one.by for one in sent if one.by}
    copies = [entry[1] for entry in hall.link.call("XRANGE", hall.keys.parked, "-", "+")]
    parked = [fields[fields.index(b"i") + 1].decode() for fields in copies]
    assert sorted(parked) == sorted(one.command.command.id for one in sent if one.outcome == "failed")
    for answer in answers:
        event = events[answer.seq - 1]
        is_counted = answer.outcome == "rejected" and event.type == "rejections.counted"
        assert is_counted or (event.command, event.type) == (answer.id, f"command.{answer.outcome}")
    assert hall.verdict().fault is None
    assert hall.waiting() == 0
