"""How well a source is: bounded, explained, and never better for one more trouble."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from projections.health import health_of, level_of
from projections.views import LevelView, SourceHealth, SourceView

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def level(age: float = 0.1, rms: float | None = -20.0) -> LevelView:
    return LevelView(at=ago(age), rms_dbfs=rms, peak_dbfs=None if rms is None else rms + 9, seconds=60)


WELL = SourceView(
    id="mic", lane="node.local", node="local", kind="file", name="Mic", settings={}, desired="running",
    state="running", reason=None, rate=48000, channels=2, since=ago(3600), updated_at=ago(3600), seq=3,
    hash="0" * 64, as_of=ago(1), level=level(),
)  # fmt: skip


class Facts(msgspec.Struct, frozen=True):
    """What a score is made from."""

    source: SourceView
    beat: datetime | None

    def health(self) -> SourceHealth:
        return health_of(self.source, NOW, beat=self.beat)

    def but(self, **changes: object) -> Facts:
        return Facts(msgspec.structs.replace(self.source, **changes), self.beat)


def of(**changes: object) -> SourceHealth:
    return Facts(WELL, ago(1)).but(**changes).health()


def test_a_source_that_does_what_it_should_is_perfect() -> None:
    """Running as it should with a level of now; or stopped as it should: 100, and nothing to explain."""
    assert (of().score, of().reasons) == (100, [])
    stopped = of(desired="stopped", state="stopped", level=None)
    assert (stopped.score, stopped.reasons) == (100, [])


@pytest.mark.parametrize(
    ("changes", "code", "score"),
    [
        ({"state": "failed", "level": None, "reason": "no such file"}, "failed", 0),
        ({"state": "stalled", "level": None}, "stalled", 30),
        ({"state": "stopped", "level": None}, "not_running", 20),
        ({"state": "starting", "level": None, "since": ago(5)}, "starting", 80),
        ({"state": "starting", "level": None, "since": ago(31)}, "starting_long", 50),
        ({"desired": "stopped"}, "not_stopped", 70),
        ({"level": None}, "no_level", 55),
        ({"level": level(61)}, "no_level", 55),
        ({"level": level(5)}, "level_old", 80),
        ({"level": level(rms=None)}, "silent_now", 75),
        ({"level": level(rms=-70.0)}, "quiet_now", 85),
        ({"trouble": "PositionAhead: …"}, "not_followed", 70),
        ({"as_of": None}, "unconfirmed", 70),
        ({"as_of": ago(16)}, "unconfirmed", 70),
    ],
)
def test_each_trouble_has_its_reason(changes: dict[str, object], code: str, score: int) -> None:
    """One trouble alone takes its points, and says so."""
    health = of(**changes)
    assert ([reason.code for reason in health.reasons], health.score) == ([code], score)
    assert all(reason.message for reason in health.reasons)


@pytest.mark.parametrize(("beat", "score"), [(15, 100), (16, 40), (61, 0), (None, 0)])
def test_a_source_is_no_better_than_its_node(beat: float | None, score: int) -> None:
    """A running source whose node is not heard is not well, whatever its row still says."""
    health = Facts(WELL, None if beat is None else ago(beat)).health()
    assert health.score == score


def test_while_nobody_can_be_asked_for_heartbeats_none_is_missing() -> None:
    """With Redis and Postgres away nobody knows of the nodes: that is said elsewhere, not of each source."""
    assert health_of(WELL, NOW, beat=None, beats_known=False).score == 100


ages = st.floats(0, 200, allow_nan=False)
levels = st.none() | st.builds(level, ages, st.none() | st.floats(-90, 0, allow_nan=False))
states = st.sampled_from(["starting", "running", "stalled", "failed", "stopped", "of a later version"])
facts = st.builds(
    lambda state, desired, since, as_of, trouble, heard, beat: Facts(
        msgspec.structs.replace(
            WELL, state=state, desired=desired, since=since, as_of=as_of, trouble=trouble, level=heard
        ),
        beat,
    ),
    states,
    st.sampled_from(["running", "stopped"]),
    ages.map(ago),
    st.none() | ages.map(ago),
    st.none() | st.just("LogBroken"),
    levels,
    st.none() | ages.map(ago),
)

Worse = Callable[[Facts, float], Facts]


def _later(then: datetime | None, seconds: float) -> datetime | None:
    return then and then - timedelta(seconds=seconds)


def _older_level(facts: Facts, seconds: float) -> Facts:
    heard = facts.source.level
    return facts.but(level=heard and msgspec.structs.replace(heard, at=heard.at - timedelta(seconds=seconds)))


def _quieter(facts: Facts, by: float) -> Facts:
    heard = facts.source.level
    if heard is None or heard.rms_dbfs is None:
        return facts
    return facts.but(level=msgspec.structs.replace(heard, rms_dbfs=heard.rms_dbfs - by))


def _silent(facts: Facts, _: float) -> Facts:
    heard = facts.source.level
    return facts.but(level=heard and msgspec.structs.replace(heard, rms_dbfs=None))


def _worse_state(facts: Facts, _: float) -> Facts:
    if facts.source.desired != "running":
        return facts
    order = ["running", "stalled", "failed"]
    at = order.index(facts.source.state) if facts.source.state in order else 1
    return facts.but(state=order[min(at + 1, 2)])


troubles: list[Worse] = [
    lambda facts, _: facts.but(trouble="PositionAhead"),
    lambda facts, _: facts.but(as_of=None),
    lambda facts, seconds: facts.but(as_of=_later(facts.source.as_of, seconds)),
    lambda facts, seconds: facts.but(since=_later(facts.source.since, seconds)),
    lambda facts, _: facts.but(level=None),
    lambda facts, _: Facts(facts.source, None),
    lambda facts, seconds: Facts(facts.source, _later(facts.beat, seconds)),
    _older_level,
    _quieter,
    _silent,
    _worse_state,
]


@given(facts, st.sampled_from(troubles), ages)
def test_one_more_trouble_never_raises_the_score(given: Facts, trouble: Worse, much: float) -> None:
    """Whatever is wrong already, another trouble makes it no better; and it stays between 0 and 100."""
    before, after = given.health(), trouble(given, much).health()
    assert 0 <= after.score <= before.score <= 100
    assert (before.score == 100) == (before.reasons == [])
    assert [reason.points for reason in before.reasons] == sorted(
        (reason.points for reason in before.reasons), reverse=True
    )


# Metrics staleness: the failure it is named for showed old levels as if they were new.


@pytest.mark.parametrize(
    ("heard", "known", "stale", "age"),
    [
        (level(1), True, False, 1),
        (level(20), True, True, 20),
        (level(61), False, True, 61),
        (None, False, True, None),
        (level(1, rms=None), True, False, 1),
    ],
)
def test_metrics_staleness(heard: LevelView | None, known: bool, stale: bool, age: float | None) -> None:
    """A level is told with its age; above 15 s it is stale, above a minute, or without one, there is none."""
    told = level_of(msgspec.structs.replace(WELL, level=heard), NOW)
    assert (told.level is not None, told.stale, told.age_seconds) == (known, stale, age)
    assert stale == (told.reason is not None)


def test_digital_silence_is_a_level() -> None:
    """Silence is −∞ dBFS, which JSON calls null; it is not the same as no level."""
    told = level_of(msgspec.structs.replace(WELL, level=level(rms=None)), NOW)
    assert msgspec.to_builtins(told)["level"]["rms_dbfs"] is None


def test_a_stopped_source_has_no_level_and_that_is_right() -> None:
    """Where nothing should be heard, nothing is missing; with Redis away even that is not certain."""
    stopped = msgspec.structs.replace(WELL, state="stopped", level=None)
    assert not level_of(stopped, NOW).stale
    assert level_of(stopped, NOW, redis_away=True).stale
