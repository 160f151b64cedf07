"""How well a source is, from 0 to 100 with reasons. Pure: facts in, score out.

Each trouble takes its points whatever else is wrong, so one more trouble never raises a score.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from projections.heartbeats import DOWN_AFTER
from projections.views import STALE_AFTER, Reason, SourceHealth, SourceLevel, SourceView, age_seconds

PERFECT = 100
UNHEARD_AFTER = 3.0
"""Seconds: levels come ten times a second, so one that is older means that no new one came."""
GONE_AFTER = 60.0
"""Seconds after which a level is no level any more."""
QUIET_BELOW = -60.0
"""dBFS RMS: programme is never so quiet for long."""
TAKES_LONG = 30.0
"""Seconds that a start may take."""


def health_of(
    source: SourceView, at: datetime, *, beat: datetime | None, beats_known: bool = True
) -> SourceHealth:
    """The source's health at `at`; `beat` is the last heartbeat of its node.

    `beats_known` is false while nobody can be asked for heartbeats: then none is missing.
    """
    reasons = [*_wish(source, at), *_sound(source, at), *_followed(source, at)]
    if beats_known and source.desired == "running":
        reasons += _node(source, at, beat)
    reasons.sort(key=lambda reason: (-reason.points, reason.code))
    return SourceHealth(
        id=source.id,
        name=source.name,
        lane=source.lane,
        node=source.node,
        kind=source.kind,
        desired=source.desired,
        state=source.state,
        score=score(reasons),
        reasons=reasons,
        level=source.level,
    )


def score(reasons: list[Reason]) -> int:
    """What the reasons leave of 100, never below 0."""
    return max(0, PERFECT - sum(reason.points for reason in reasons))


def _wish(source: SourceView, at: datetime) -> Iterator[Reason]:
    """What it does against what it should do."""
    because = f": {source.reason}" if source.reason else ""
    if source.desired != "running":
        if source.state != "stopped":
            yield Reason("not_stopped", 30, f"it should be stopped and is {source.state}")
        return
    match source.state:
        case "running":
            return
        case "starting":
            taken = age_seconds(source.since, at) or 0.0
            if taken > TAKES_LONG:
                yield Reason("starting_long", 50, f"it has been starting for {taken:.0f} s")
            else:
                yield Reason("starting", 20, "it is starting")
        case "stalled":
            yield Reason("stalled", 70, f"no audio comes{because}")
        case "stopped":
            yield Reason("not_running", 80, f"it should run and is stopped{because}")
        case "failed":
            yield Reason("failed", 100, f"it failed{because}")
        case _:
            yield Reason("not_running", 80, f"it should run and is {source.state}{because}")


def _sound(source: SourceView, at: datetime) -> Iterator[Reason]:
    """What is heard of it; one level is a moment, and alarms of silence are not made from it."""
    if source.state != "running":
        return
    level = source.level
    age = None if level is None else age_seconds(level.at, at)
    if level is None or age is None or age > GONE_AFTER:
        yield Reason("no_level", 45, "it runs, and no level of it is known")
        return
    if age > UNHEARD_AFTER:
        yield Reason("level_old", 20, f"its last level is {age:.0f} s old")
    if level.rms_dbfs is None:
        yield Reason("silent_now", 25, "its last level is digital silence")
    elif level.rms_dbfs < QUIET_BELOW:
        yield Reason("quiet_now", 15, f"its last level is {level.rms_dbfs:.0f} dBFS")


def _followed(source: SourceView, at: datetime) -> Iterator[Reason]:
    """Whether what is said of it can be believed."""
    if source.trouble:
        yield Reason("not_followed", 30, f"what it does now is not known: {source.trouble}")
    age = age_seconds(source.as_of, at)
    if age is None:
        yield Reason("unconfirmed", 30, "nobody knows when this was so")
    elif age > STALE_AFTER:
        yield Reason("unconfirmed", 30, f"this was last confirmed {age:.0f} s ago")


def _node(source: SourceView, at: datetime, beat: datetime | None) -> Iterator[Reason]:
    age = age_seconds(beat, at)
    if age is None:
        yield Reason("node_down", 100, f"no heartbeat of ingest node {source.node} was ever seen")
    elif age > DOWN_AFTER:
        yield Reason("node_down", 100, f"ingest node {source.node} was last heard {age:.0f} s ago")
    elif age > STALE_AFTER:
        yield Reason("node_late", 60, f"ingest node {source.node} was last heard {age:.0f} s ago")


def level_of(source: SourceView, at: datetime, *, redis_away: bool = False) -> SourceLevel:
    """The source's latest level at `at`: an old one is never told as if it were of now."""
    level, reason = source.level, None
    age = None if level is None else age_seconds(level.at, at)
    if source.state != "running":
        level, age, reason, stale = None, None, f"it is {source.state}", redis_away
    elif level is None or age is None:
        stale, reason = True, "Redis, which has the levels, is away" if redis_away else "no level came lately"
    elif age > GONE_AFTER:
        level, stale, reason = None, True, f"the last level is {age:.0f} s old"
    else:
        stale = age > STALE_AFTER
        reason = f"the last level is {age:.0f} s old" if stale else None
    return SourceLevel(
        id=source.id, state=source.state, level=level, age_seconds=age, stale=stale, reason=reason
    )
