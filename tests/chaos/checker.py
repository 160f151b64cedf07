"""What a history must not show: each rule a function that names what breaks it; pure, and tested."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.chaos.history import Fact, History

OVERTAKING = {"source.start", "source.stop", "source.restart"}


@dataclass(frozen=True)
class Violation:
    """A rule that was broken, and how."""

    rule: str
    detail: str


def check(history: History) -> list[Violation]:
    """All violations, by rule."""
    return [Violation(rule, detail) for rule, look in RULES.items() for detail in look(history)]


def results(log: dict[str, list[Fact]]) -> dict[str, list[tuple[str, Fact]]]:
    """Command → its result events, each with its lane."""
    found: dict[str, list[tuple[str, Fact]]] = {}
    for lane, facts in log.items():
        for fact in facts:
            if fact.type.startswith("command.") and fact.command:
                found.setdefault(fact.command, []).append((lane, fact))
    return found


def one_result(history: History) -> Iterator[str]:
    """Every command that anyone was told of has exactly one result; no command has two."""
    found = results(history.log)
    for id, some in found.items():
        if len(some) > 1:
            yield f"{id} has {len(some)} results"
    for told in history.told:
        if told.id not in found:
            yield f"{told.id} was told {told.outcome} and has no result"


def as_told(history: History) -> Iterator[str]:
    """It is the result that was told, where it was told to stand; told twice, it is told the same."""
    stands = {(lane, fact.seq): fact for lane, facts in history.log.items() for fact in facts}
    first: dict[str, tuple[str, int]] = {}
    for told in history.told:
        fact = stands.get((told.lane, told.seq))
        if fact is None or fact.command != told.id:
            yield f"{told.id} was told to be {told.lane}:{told.seq}, which is {fact and fact.command}"
        elif fact.type != f"command.{told.outcome}":
            yield f"{told.id} was told {told.outcome}, and {told.lane}:{told.seq} says {fact.type}"
        if first.setdefault(told.id, (told.outcome, told.seq)) != (told.outcome, told.seq):
            yield f"{told.id} was told {first[told.id]} and then {(told.outcome, told.seq)}"


def executed_once(history: History) -> Iterator[str]:
    """No owner logs the same kind of effect of a command twice.

    What an owner had begun when it died, the next one does again: that is promised of results, not of doing.
    """
    for lane, facts in history.log.items():
        tenure, done = 0, Counter[tuple[int, str, str]]()
        for fact in facts:
            tenure += fact.type == "lane.acquired"
            if fact.command and fact.type.startswith("source."):
                done[tenure, fact.command, fact.type] += 1
        yield from (f"{id} logged {type} {n} times in {lane}" for (_, id, type), n in done.items() if n > 1)


def with_effect(history: History) -> Iterator[str]:
    """A new name that was confirmed is logged as the source's, by the command that gave it.

    An owner whose memory is ahead of the log would take it for given already, and log the result alone.
    """
    for lane, facts in history.log.items():
        logged = {(one.command, one.data.get("name")) for one in facts if one.type == "source.updated"}
        for one in facts:
            if one.type == "command.completed" and one.data.get("type") == "source.update":
                name = json.loads(one.data["request"])["params"].get("name")
                if name is not None and (one.command, name) not in logged:
                    yield f"{lane}:{one.seq} completes {one.command}, and no event names {one.source} {name}"


def in_order(history: History) -> Iterator[str]:
    """The sequences of each source's commands: no number twice, and none overtaken but by what may do so."""
    for lane, facts in history.log.items():
        taken: dict[tuple[str, int], str] = {}
        last: dict[str, int] = {}
        for fact in facts:
            if not (fact.type.startswith("command.") and fact.command and fact.source):
                continue
            number = fact.data.get("sequence")
            if not isinstance(number, int):
                continue
            if taken.setdefault((fact.source, number), fact.command) != fact.command:
                yield f"{lane}: {fact.source} has two commands of sequence {number}"
            # A command that something newer overtook may be answered after it.
            if fact.type == "command.superseded":
                continue
            if number < last.get(fact.source, 0):
                yield f"{lane}: {fact.source} did {number} after {last[fact.source]}"
            last[fact.source] = max(number, last.get(fact.source, 0))


def superseded_by_newer(history: History) -> Iterator[str]:
    """What overtook a command is a newer start, stop or restart of the same source."""
    known = {id: some[0][1] for id, some in results(history.log).items()}
    for id, fact in known.items():
        if fact.type != "command.superseded":
            continue
        newer = known.get(str(fact.data.get("by")))
        if newer is None:
            # It may still wait; that is another rule's.
            continue
        if newer.source != fact.source or newer.data.get("type") not in OVERTAKING:
            yield f"{id} was superseded by {newer.command}, {newer.data.get('type')} of {newer.source}"
        elif newer.data.get("sequence", 0) <= fact.data.get("sequence", 0):
            yield f"{id} was superseded by {newer.command}, which is older"


def chained(history: History) -> Iterator[str]:
    """Each lane's log is gapless, and each event carries the hash of the one before."""
    for lane, facts in history.log.items():
        before = facts[0] if facts else None
        for fact in facts[1:]:
            if before and (fact.seq != before.seq + 1 or fact.prev != before.hash):
                yield f"{lane}:{fact.seq} does not follow {lane}:{before.seq}"
            before = fact
    yield from history.verified


def archived(history: History) -> Iterator[str]:
    """All of the log is in the archive, the same; and nothing else is."""
    for lane in history.log.keys() | history.archive.keys():
        ours = {fact.seq: fact.hash for fact in history.log.get(lane, [])}
        theirs = {fact.seq: fact.hash for fact in history.archive.get(lane, [])}
        least = min(ours, default=0)
        missing = sorted(ours.keys() - theirs.keys())
        more = sorted(seq for seq in theirs.keys() - ours.keys() if seq > least or not ours)
        other = sorted(seq for seq in ours.keys() & theirs.keys() if ours[seq] != theirs[seq])
        for what, some in (("not archived", missing), ("only archived", more), ("archived otherwise", other)):
            if some:
                yield f"{lane}: {len(some)} events are {what}, the first {some[0]}"


def projected(history: History) -> Iterator[str]:
    """The read model says of each command what the log does, and the same when it is folded afresh."""
    for id, some in results(history.log).items():
        lane, fact = some[0]
        wanted = (lane, fact.seq, fact.type.removeprefix("command."))
        for name, rows in (("the read model", history.rows), ("a rebuild", history.rebuilt)):
            if rows.get(id) != wanted:
                yield f"{id} is {wanted} in the log and {rows.get(id)} in {name}"
    known = results(history.log)
    yield from (f"{id} is in the read model alone" for id in history.rows if id not in known)
    yield from (f"the table {name} is another after a rebuild" for name in history.tables)


def alerts_once(history: History) -> Iterator[str]:
    """Each alert in the log is in the read model, heard as often as the log has receptions of it."""
    receptions: dict[str, set[str]] = {}
    for facts in history.log.values():
        for fact in facts:
            if fact.type == "alert.received":
                alert = f"{fact.source} {fact.data.get('header')}"
                receptions.setdefault(alert, set()).add(str(fact.data.get("hearing")))
    for alert in receptions.keys() | history.hearings.keys():
        wanted, found = len(receptions.get(alert, ())), history.hearings.get(alert, 0)
        if wanted != found:
            yield f"{alert} was heard {wanted} times by the log and {found} times by the read model"


def spooled_once(history: History) -> Iterator[str]:
    """What a node spooled stands in the log once, whoever put it there; nothing spooled stands twice."""
    # A node counts them by lane.
    stands = Counter(
        f"{lane} {fact.data['spool']}"
        for lane, facts in history.log.items()
        for fact in facts
        if "spool" in fact.data
    )
    yield from (f"{id} was spooled and stands nowhere" for id in history.spooled if not stands[id])
    yield from (f"{id} was spooled once and stands {n} times" for id, n in stands.items() if n > 1)


def nobody_needed(history: History) -> Iterator[str]:
    """Nothing waits at the end, and nothing needs a person."""
    yield from (f"{count} commands wait in {lane}" for lane, count in history.waiting.items() if count)
    yield from history.troubles


RULES: dict[str, Callable[[History], Iterator[str]]] = {
    "exactly one result": one_result,
    "as it was told": as_told,
    "executed once": executed_once,
    "with its effect": with_effect,
    "in order per source": in_order,
    "superseded by a newer one": superseded_by_newer,
    "the log is whole": chained,
    "archived": archived,
    "projections equal replay": projected,
    "alerts once": alerts_once,
    "spooled facts once": spooled_once,
    "nobody needed": nobody_needed,
}
