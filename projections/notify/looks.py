"""What no event tells: silence, a node that is not heard, a projection that stands still.

A look says yes, no, or nothing where it cannot know: a server that is away tells nothing of nodes and
sources. What is so must stay so for the rule's delay before an episode begins.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime

import msgspec
from sqlalchemy import Connection, select

from projections.folds.data import printable
from projections.lanes import nodes_of
from projections.levels import Heard
from projections.notify.episodes import LONGEST, Opening, concerns
from projections.notify.keeping import Key
from projections.tables import positions, verdicts
from projections.verdicts import BROKEN
from projections.views import STALE_AFTER, LevelView, SourceView
from streams.notices import Kind, Rule


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """One look at one subject: whether it is so, or for silence its loudest level (dBFS) since the last."""

    kind: Kind
    subject: str
    lane: str
    so: bool = False
    level: float = math.inf
    detail: str = ""


def expected_nodes(sources: Iterable[SourceView], node: str) -> set[str]:
    """The nodes that should be heard: those that have sources of their own, and this machine's."""
    return {node, *nodes_of([source.lane for source in sources])}


def heartbeats(last_heard: Mapping[str, datetime], expected: Collection[str], at: datetime) -> list[Seen]:
    """Whether each node is heard. One that never was has not been started yet: nothing is said of it."""
    return [
        Seen(
            kind="heartbeat",
            subject=node,
            lane=f"node.{node}",
            so=node in expected and (at - last).total_seconds() > STALE_AFTER,
            detail=f"last heard at {last:%Y-%m-%d %H:%M:%S} UTC",
        )
        for node, last in last_heard.items()
    ]


def silences(sources: Iterable[SourceView], levels: Mapping[Heard, LevelView]) -> list[Seen]:
    """How loud each running source is. Nothing of one without a measurement: unknown is not silence."""
    seen = []
    for source in sources:
        about = {"kind": "silence", "subject": source.id, "lane": source.lane}
        level = levels.get((source.lane, source.id))
        if source.state != "running":
            seen.append(Seen(**about))  # type: ignore[arg-type]  # the three of them
        elif level is not None:
            peak = -math.inf if level.peak_dbfs is None else level.peak_dbfs
            detail = "digital silence" if peak == -math.inf else f"at most {peak:.1f} dBFS"
            seen.append(Seen(**about, level=peak, detail=detail))  # type: ignore[arg-type]
    return seen


def troubles(connection: Connection) -> list[Seen]:
    """Whether each lane can be verified, folded and archived."""
    rows = connection.execute(select(positions.c.lane, positions.c.projection, positions.c.trouble)).all()
    told: dict[str, dict[str, list[str]]] = {row.lane: {} for row in rows}
    for row in rows:
        if row.trouble:
            told[row.lane].setdefault(row.trouble, []).append(row.projection)
    return [
        Seen(
            kind="trouble",
            subject=lane,
            lane=lane,
            so=bool(found),
            detail="; ".join(f"{', '.join(sorted(names))}: {why}" for why, names in found.items())[:LONGEST],
        )
        for lane, found in told.items()
    ]


def unsound(connection: Connection) -> list[Seen]:
    """Whether each lane's log is sound, as it was verified, and joins on to what was made of it."""
    wanted = select(verdicts.c.lane, verdicts.c.fault, verdicts.c.whole_fault)
    told = {row.lane: row.fault or row.whole_fault or "" for row in connection.execute(wanted)}
    for row in connection.execute(select(positions.c.lane, positions.c.trouble)):
        broken = row.trouble if (row.trouble or "").startswith(BROKEN) else ""
        told[row.lane] = told.get(row.lane) or broken
    return [
        Seen(kind="verify", subject=lane, lane=lane, so=bool(fault), detail=printable(fault)[:LONGEST])
        for lane, fault in told.items()
    ]


def found(
    rules: Iterable[Rule],
    seen: Iterable[Seen],
    begun: Mapping[Key, datetime],
    open: Collection[Key],
    at: datetime,
) -> tuple[dict[Key, datetime], list[Opening], list[Key]]:
    """Since when what is seen has been so, the episodes that begin now, and those of `open` that end.

    What was not seen this time ends nothing, and its delay begins anew.
    """
    since: dict[Key, datetime] = {}
    begin: list[Opening] = []
    end: list[Key] = []
    looks = list(seen)
    for rule in rules:
        for look in looks:
            source = look.subject if look.kind == "silence" else ""
            if look.kind != rule.on or not concerns(rule, look.lane, source):
                continue
            key = (rule.name, look.subject)
            if not (look.so or look.level < rule.below):
                if key in open:
                    end.append(key)
                continue
            since[key] = begun.get(key, at)
            if key not in open and (at - since[key]).total_seconds() >= rule.holds_for:
                begin.append(
                    Opening(
                        rule=rule.name,
                        kind=look.kind,
                        subject=look.subject,
                        source=source,
                        lane=look.lane,
                        seq=None,
                        at=since[key],
                        detail=look.detail,
                    )
                )
    return since, begin, end
