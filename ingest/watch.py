"""Whether alerts are being listened for at all: pure decisions over what the log says and what is so.

A stream can look well while nothing is decoded from it. So what is watched is the decoding: that audio
goes through the decoder, and that the test which every station sends each week is received.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

import msgspec

from ingest.decide import Fact
from ingest.state import Source
from streams.alerts import Condition, ConditionKind, MeasuredKind

NO_TEST_FOR = timedelta(days=8)
"""After which a weekly test is missing: a week, and a day for one that is late."""


class Watching(msgspec.Struct, frozen=True):
    """What is seen of a source that runs: whether nothing is decoded, and what its meters find wrong."""

    starved: bool = False
    measured: Mapping[MeasuredKind, str] = {}


def lasting(source: Source, seen: Watching, at: datetime) -> dict[ConditionKind, str]:
    """The conditions that hold at `at`, each with its reason.

    A source that should not run owes nobody anything.
    """
    found: dict[ConditionKind, str] = {}
    if source.desired != "running":
        return found
    if source.state == "running":
        found = dict(seen.measured.items())
        if seen.starved:
            found["decoder.starved"] = "audio is read and none of it goes through the decoder"
    if source.state == "stalled":
        found["stalled"] = source.reason or "no audio comes"
    since = max((time for time in (source.last_test, source.wanted_since) if time), default=None)
    if since is not None and at - since > NO_TEST_FOR:
        last = f"the last came {source.last_test:%Y-%m-%d}" if source.last_test else "none ever came"
        found["weekly_test.missing"] = f"no weekly test in {NO_TEST_FOR.days} days; {last}"
    return found


def changes(source: Source, seen: Watching, at: datetime, new_episode: Callable[[], str]) -> list[Fact]:
    """What is to be logged so that the open conditions are those that hold."""
    holding = lasting(source, seen, at)
    closed = [
        _fact("condition.closed", kind, episode, _over(source))
        for kind, episode in source.conditions.items()
        if kind not in holding
    ]
    opened = [
        _fact("condition.opened", kind, new_episode(), reason)
        for kind, reason in holding.items()
        if kind not in source.conditions
    ]
    return closed + opened


def given_up(source: Source, reason: str) -> list[Fact]:
    """The end of all its conditions, where the source itself ends."""
    return [_fact("condition.closed", kind, episode, reason) for kind, episode in source.conditions.items()]


def _over(source: Source) -> str:
    return "it is over" if source.desired == "running" and source.state == "running" else source.state


def _fact(type: str, kind: ConditionKind, episode: str, reason: str) -> Fact:
    return Fact(type, Condition(episode=episode, kind=kind, reason=reason))
