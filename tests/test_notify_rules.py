"""What rules find and when it is told: pure decisions, by table and by hypothesis."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from projections.notify.address import redacted
from projections.notify.dead_man import not_current, not_heard
from projections.notify.episodes import (
    ALERT_LASTS,
    LATE,
    LONGEST_ALERT,
    Episode,
    acknowledgement,
    closing,
    covers,
    expiry,
    is_held,
    openings,
    todo,
)
from projections.notify.looks import Seen, found, heartbeats, silences
from projections.snapshots import LaneState
from projections.views import LevelView, SourceView
from streams.messages import Event
from streams.names import STATION_LANE
from streams.notices import Maintenance, NotifySection, Rule, Target, contradiction
from tests.fix_notify import rule
from tests.fix_projections import LANE, Chain

AT = datetime(2026, 7, 1, 12, tzinfo=UTC)


def event(type: str, source: str = "mic", command: str | None = None, /, **data: Any) -> Event:
    """An event that happens at AT."""
    made = Chain().event(type, source, command, **data).event
    return msgspec.structs.replace(made, at=AT)


def episode(**more: Any) -> Episode:
    """An episode that began at AT."""
    about = {"id": 1, "rule": "failures", "kind": "source.failed", "subject": "mic", "source": "mic"}
    return Episode(**{**about, "lane": LANE, "detail": "", "opened_at": AT, **more})


def after(seconds: float) -> datetime:
    return AT + timedelta(seconds=seconds)


TODO: dict[str, tuple[Rule | None, Episode, float, str]] = {
    "at once": (rule(), episode(), 0, "tell"),
    "told before": (rule(), episode(notified_at=AT), 9999, "wait"),
    "rule gone": (None, episode(), 0, "wait"),
    "before its delay": (rule(delay=30), episode(), 29.9, "wait"),
    "after its delay": (rule(delay=30), episode(), 30, "tell"),
    "over before its delay": (rule(delay=30), episode(closed_at=after(29)), 31, "late"),
    "over after its delay": (rule(delay=30), episode(closed_at=after(30)), 31, "tell"),
    "over and short": (rule(), episode(closed_at=after(1)), 2, "tell"),
    "over long ago": (rule(), episode(closed_at=after(1)), LATE + 1, "late"),
    "going on since long ago": (rule(), episode(), LATE + 1, "tell"),
    "before its repeat": (rule(repeat=60), episode(notified_at=AT), 59.9, "wait"),
    "its repeat": (rule(repeat=60), episode(notified_at=AT), 60, "tell"),
    "over, no repeat": (rule(repeat=60), episode(notified_at=AT, closed_at=after(50)), 60, "wait"),
    "acknowledged, no repeat": (rule(repeat=60), episode(notified_at=AT, acknowledged_at=AT), 60, "wait"),
    "acknowledged before it was told": (rule(), episode(acknowledged_at=AT), 0, "tell"),
    "quiet": (rule(quiet="11:00-13:00"), episode(), 0, "wait"),
    "quiet is over": (rule(quiet="11:00-13:00"), episode(), 3600, "tell"),
    "over while quiet": (rule(quiet="11:00-13:00"), episode(closed_at=after(9)), 10, "late"),
    "no repeat while quiet": (rule(repeat=60, quiet="11:00-13:00"), episode(notified_at=AT), 60, "wait"),
}


@pytest.mark.parametrize("case", TODO)
def test_what_is_done_about_an_episode(case: str) -> None:
    """Delay, repeat, quiet hours, acknowledgement and age decide whether it is told now, later or never."""
    of, about, seconds, wanted = TODO[case]
    assert todo(of, about, after(seconds)) == wanted


QUIET = {
    ("22:00-06:00", "UTC", "2026-07-01T21:59:59Z"): False,
    ("22:00-06:00", "UTC", "2026-07-01T22:00:00Z"): True,
    ("22:00-06:00", "UTC", "2026-07-02T00:00:00Z"): True,
    ("22:00-06:00", "UTC", "2026-07-02T05:59:59Z"): True,
    ("22:00-06:00", "UTC", "2026-07-02T06:00:00Z"): False,
    ("01:00-02:00", "UTC", "2026-07-02T01:30:00Z"): True,
    ("01:00-02:00", "UTC", "2026-07-02T02:30:00Z"): False,
    # Chicago is five hours behind in summer, six in winter.
    ("22:00-06:00", "America/Chicago", "2026-07-02T03:00:00Z"): True,
    ("22:00-06:00", "America/Chicago", "2026-07-01T22:30:00Z"): False,
    ("22:00-06:00", "America/Chicago", "2026-01-02T03:30:00Z"): False,
    ("22:00-06:00", "America/Chicago", "2026-01-02T04:00:00Z"): True,
    ("", "UTC", "2026-07-02T00:00:00Z"): False,
}


@pytest.mark.parametrize("case", QUIET, ids=" ".join)
def test_quiet_hours_are_those_of_the_zone_also_over_midnight_and_in_winter(case: tuple[str, ...]) -> None:
    """Begin is quiet, end is not; hours over midnight and daylight saving are as a clock there shows."""
    quiet, zone, at = case
    assert rule(quiet=quiet, zone=zone).is_quiet(datetime.fromisoformat(at)) is QUIET[case]


@given(
    begin=st.integers(0, 1439),
    length=st.integers(1, 1439),
    minute=st.integers(0, 1439),
    zone=st.sampled_from(["UTC", "America/Chicago", "Asia/Kolkata"]),
)
def test_any_minute_is_quiet_exactly_within_the_hours(
    begin: int, length: int, minute: int, zone: str
) -> None:
    """A day's minute is quiet exactly if it lies less than their length behind the beginning."""
    end = (begin + length) % 1440
    hours = f"{begin // 60:02}:{begin % 60:02}-{end // 60:02}:{end % 60:02}"
    clock = datetime(2026, 7, 1, minute // 60, minute % 60, 30, tzinfo=ZoneInfo(zone))
    assert rule(quiet=hours, zone=zone).is_quiet(clock.astimezone(UTC)) is ((minute - begin) % 1440 < length)


def window(**more: Any) -> Maintenance:
    """A window of an hour around AT."""
    return Maintenance(begin=AT - timedelta(minutes=30), until=AT + timedelta(minutes=30), **more)


HEARTBEAT = {"kind": "heartbeat", "subject": "mast-1", "source": "", "lane": "node.mast-1"}
PARKED = {"kind": "parked", "subject": "0199", "source": "wx-2", "lane": "p0"}
HELD = {
    "anything": (window(), HEARTBEAT, 0, True),
    "begins": (window(), {}, -1800, True),
    "not yet": (window(), {}, -1801, False),
    "not any more": (window(), {}, 1800, False),
    "its source": (window(sources=("mi*",)), {}, 0, True),
    "another source": (window(sources=("wx-*",)), {}, 0, False),
    "a parked command of the source": (window(sources=("wx-*",)), PARKED, 0, True),
    "a node is no source": (window(sources=("mast-*",)), HEARTBEAT, 0, False),
    "a node is not among all sources": (window(sources=("*",)), HEARTBEAT, 0, False),
    "the node by its lane": (window(lanes=("node.mast-1",)), HEARTBEAT, 0, True),
    "another node": (window(lanes=("node.mast-2",)), HEARTBEAT, 0, False),
    "its source in another lane": (window(sources=("mi*",), lanes=("p0",)), {}, 0, False),
}


@pytest.mark.parametrize("case", HELD)
def test_maintenance_covers_what_its_sources_and_lanes_say(case: str) -> None:
    """Within its time a window holds what is about its sources and lanes, and nothing else."""
    of, about, seconds, wanted = HELD[case]
    about = dict(about)
    if "kind" in about:
        about["rule"] = "any"
    assert is_held(rule(), episode(**about), after(seconds), [of]) is wanted


COVERS = {
    ("048201", "048201"): True,
    ("148201", "048201"): True,
    ("048000", "048201"): True,
    ("000000", "048201"): True,
    ("048202", "048201"): False,
    ("049000", "048201"): False,
    ("049201", "048201"): False,
    ("048201", "048000"): True,
    ("049201", "048000"): False,
    ("48201", "048201"): False,
    ("04820x", "048201"): False,
    ("", "048201"): False,
}


@pytest.mark.parametrize("case", COVERS, ids=" ".join)
def test_a_place_takes_in_counties_states_and_the_country(case: tuple[str, str]) -> None:
    """A county is covered by itself, a part of it, its whole state and the whole country."""
    assert covers(*case) is COVERS[case]


places = st.from_regex(r"\A\d{6}\Z")


@given(county=places, part=st.sampled_from("0123456789"))
def test_a_county_is_covered_by_every_part_of_itself_and_by_its_state(county: str, part: str) -> None:
    """Whatever the county: a part of it, its state and the country take it in."""
    assert covers(part + county[1:], county)
    assert covers(f"0{county[1:3]}000", county)
    assert covers("000000", county)


@given(named=st.text(max_size=8), county=places)
def test_what_names_no_place_covers_none(named: str, county: str) -> None:
    """Whatever an alert names as a place: nothing but six digits covers a county, and nothing raises."""
    if not (len(named) == 6 and named.isdigit()):
        assert not covers(named, county)


def alert(**data: Any) -> Event:
    return event("alert.received", "wx-2", **{"event": "TOR", "locations": ["048201"], **data})


OPENS: dict[str, tuple[Rule, str, Event, int]] = {
    "a failure": (rule(), LANE, event("source.failed"), 1),
    "not what the rule is on": (rule(), LANE, event("source.stalled"), 0),
    "its source": (rule(sources=["mi*"]), LANE, event("source.failed"), 1),
    "another source": (rule(sources=["wx-*"]), LANE, event("source.failed"), 0),
    "its lane": (rule(lanes=["node.*"]), LANE, event("source.failed"), 1),
    "another lane": (rule(lanes=["p*"]), LANE, event("source.failed"), 0),
    "no source": (rule(), LANE, event("source.failed", ""), 0),
    "a parked command": (rule(on="parked"), LANE, event("parked.added", "mic", "0199"), 1),
    "a parked command of another source": (
        rule(on="parked", sources=["wx-*"]),
        LANE,
        event("parked.added", "mic", "0199"),
        0,
    ),
    "any alert": (rule(on="alert"), "p0", alert(), 1),
    "its event": (rule(on="alert", events=["TOR", "SVR"]), "p0", alert(), 1),
    "another event": (rule(on="alert", events=["RWT"]), "p0", alert(), 0),
    "its county": (rule(on="alert", counties=["048201"]), "p0", alert(), 1),
    "one of its counties": (
        rule(on="alert", counties=["048157", "048201"]),
        "p0",
        alert(locations=["048999", "148201"]),
        1,
    ),
    "another county": (rule(on="alert", counties=["048157"]), "p0", alert(), 0),
    "the whole state": (rule(on="alert", counties=["048157"]), "p0", alert(locations=["048000"]), 1),
    "places that are none": (rule(on="alert", counties=["048157"]), "p0", alert(locations="x"), 0),
    "event and county": (rule(on="alert", events=["TOR"], counties=["048157"]), "p0", alert(), 0),
}


@pytest.mark.parametrize("case", OPENS)
def test_which_events_open_an_episode(case: str) -> None:
    """An event opens an episode of each rule that is on it and whose filters let it through."""
    of, lane, told, wanted = OPENS[case]
    assert len(openings([of], lane, told)) == wanted


def test_two_rules_open_an_episode_each() -> None:
    """Each rule has its own episode, with the event's source, lane and seq."""
    first, second = openings([rule("a"), rule("b")], LANE, event("source.failed"))
    assert {first.rule, second.rule} == {"a", "b"}
    assert (first.subject, first.source, first.lane, first.seq) == ("mic", "mic", LANE, 1)


CLOSES: dict[str, tuple[str, Event, set[str]]] = {
    "running": (LANE, event("source.running"), {"source.failed", "source.stalled"}),
    "stopped": (LANE, event("source.stopped"), {"source.failed", "source.stalled"}),
    "removed": (LANE, event("source.removed"), {"source.failed", "source.stalled", "silence"}),
    "failed": (LANE, event("source.failed"), {"source.stalled"}),
    "stalled": (LANE, event("source.stalled"), {"source.failed"}),
    "starting": (LANE, event("source.starting"), set()),
    "end of a message": (LANE, event("alert.ended"), set()),
    "retried": (STATION_LANE, event("parked.retried", "", lane="p0", id="0199"), {"parked"}),
    "dropped": (STATION_LANE, event("parked.dropped", "", lane="p0", id="0199"), {"parked"}),
    "dropped elsewhere": ("p0", event("parked.dropped", "", lane="p0", id="0199"), set()),
    "dropped, but what": (STATION_LANE, event("parked.dropped", ""), set()),
}


@pytest.mark.parametrize("case", CLOSES)
def test_which_events_close_which_episodes(case: str) -> None:
    """What is well again closes what was wrong; that a message was heard to its end closes no warning."""
    lane, told, wanted = CLOSES[case]
    ends = closing(lane, told)
    assert (set(ends.kinds) if ends else set()) == wanted


EXPIRES = {
    "as it says": ({"expires_at": "2026-07-01T12:45:00Z"}, timedelta(minutes=45)),
    "in another zone": ({"expires_at": "2026-07-01T07:45:00-05:00"}, timedelta(minutes=45)),
    "before it came": ({"expires_at": "2026-07-01T11:00:00Z"}, timedelta(0)),
    "beyond what a header can say": ({"expires_at": "9999-12-31T23:59:59-14:00"}, LONGEST_ALERT),
    "no zone": ({"expires_at": "2026-07-01T12:45:00"}, ALERT_LASTS),
    "no time": ({"expires_at": "soon"}, ALERT_LASTS),
    "no text": ({"expires_at": 5}, ALERT_LASTS),
    "nothing": ({}, ALERT_LASTS),
}


@pytest.mark.parametrize("case", EXPIRES)
def test_an_alert_is_in_force_as_long_as_it_says(case: str) -> None:
    """Its own validity counts, within what a header can say; one that says none lasts a day."""
    data, lasts = EXPIRES[case]
    assert expiry(alert(**data)) == AT + lasts


def test_only_the_station_lane_acknowledges() -> None:
    """`condition.acknowledged` counts in the lane where it was signed for, and with all its fields."""
    data = {"episode": 5, "rule": "failures", "subject": "mic", "by": "operator"}
    told = event("condition.acknowledged", "", **data)
    seen = acknowledgement(STATION_LANE, told)
    assert seen is not None
    assert (seen.episode, seen.rule, seen.subject, seen.by, seen.at) == (5, "failures", "mic", "operator", AT)
    assert acknowledgement("p0", told) is None
    for missing in data:
        less = {name: value for name, value in data.items() if name != missing}
        assert acknowledgement(STATION_LANE, event("condition.acknowledged", "", **less)) is None


def source(state: str = "running") -> SourceView:
    return msgspec.convert(
        {
            "id": "mic",
            "lane": LANE,
            "node": "local",
            "kind": "file",
            "name": "mic",
            "settings": {},
            "desired": "running",
            "state": state,
            "reason": None,
            "rate": None,
            "channels": None,
            "since": AT,
            "updated_at": AT,
            "seq": 1,
            "hash": "",
        },
        SourceView,
    )


def level(peak: float | None) -> LevelView:
    return LevelView(at=AT, rms_dbfs=peak, peak_dbfs=peak, seconds=1.0)


def test_silence_counts_once_it_has_lasted_without_a_sound() -> None:
    """One peak in between begins the delay anew; a look without a measurement says nothing, and so does."""
    silence = rule("dead-air", on="silence", delay=30)

    def look(begun: dict[tuple[str, str], datetime], peak: float | str | None, seconds: float) -> Any:
        levels = {} if peak == "unknown" else {(LANE, "mic"): level(peak)}  # type: ignore[arg-type]
        return found([silence], silences([source()], levels), begun, set(), after(seconds))

    begun, begin, _ = look({}, -80.0, 0)
    begun, begin, _ = look(begun, None, 29)
    assert begin == []
    _, begin, _ = look(begun, None, 30)
    assert [(one.subject, one.source, one.at, one.seq) for one in begin] == [("mic", "mic", AT, None)]
    for between in (-10.0, "unknown"):
        broken, _, _ = look(begun, between, 29.5)
        assert look(broken, None, 30)[1] == []


def test_silence_ends_with_a_sound_or_with_the_source_not_with_ignorance() -> None:
    """An open silence is over where a peak is heard or nothing runs, not where nothing is measured."""
    silence, key = rule("dead-air", on="silence"), ("dead-air", "mic")
    loud, unknown = {(LANE, "mic"): level(-20.0)}, dict[tuple[str, str], LevelView]()
    for state, levels, ended in (
        ("running", loud, [key]),
        ("running", unknown, []),
        ("stopped", unknown, [key]),
    ):
        _, _, end = found([silence], silences([source(state)], levels), {}, {key}, AT)
        assert end == ended


def test_a_node_is_missed_when_it_was_heard_before_and_should_be() -> None:
    """Late and expected is missing; late and unexpected, or never heard, is not."""
    heard = {"mast-1": after(-20), "mast-2": after(-5), "gone": after(-999)}
    so = {one.subject: one.so for one in heartbeats(heard, {"mast-1", "mast-2", "new"}, AT)}
    assert so == {"mast-1": True, "mast-2": False, "gone": False}


def test_filters_hold_for_what_is_looked_for_too() -> None:
    """A rule about lanes says nothing of others."""
    seen = [Seen(kind="trouble", subject=lane, lane=lane, so=True, detail="x") for lane in ("p0", "node.a")]
    _, begin, _ = found([rule(on="trouble", lanes=["node.*"], delay=0)], seen, {}, set(), AT)
    assert [one.subject for one in begin] == ["node.a"]


TARGET = Target(name="http", url_file="x")
WRONG: dict[str, tuple[str, dict[str, Any]]] = {
    "no such target": ("notify.rules[0].to", {"rules": (rule(to=["nobody"]),)}),
    "two rules of one name": ("notify.rules[1].name", {"rules": (rule(), rule())}),
    "no such zone": ("notify.rules[0].zone", {"rules": (rule(zone="Atlantis"),)}),
    "a day of quiet": ("notify.rules[0].quiet", {"rules": (rule(quiet="06:00-06:00"),)}),
    "counties of failures": ("notify.rules[0].counties", {"rules": (rule(counties=["048201"]),)}),
    "sources of heartbeats": ("notify.rules[0].sources", {"rules": (rule(on="heartbeat", sources=["a"]),)}),
    "a window that ends before": (
        "notify.maintenance[0].until",
        {"maintenance": (Maintenance(begin=AT, until=AT),)},
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_settings_that_contradict_each_other_are_named(case: str) -> None:
    """What cannot be meant is refused with the field that is to blame."""
    field, given = WRONG[case]
    told = contradiction(NotifySection(targets=(TARGET,), **given))
    assert told is not None
    assert told[0] == field


def test_the_delay_is_the_rules_own_where_it_says_one() -> None:
    """Silence and what failovers cause wait half a minute, all else does not, unless a rule says so."""
    assert {on: rule(on=on).holds_for for on in ("silence", "trouble", "verify", "alert", "parked")} == {
        "silence": 30.0,
        "trouble": 30.0,
        "verify": 30.0,
        "alert": 0.0,
        "parked": 0.0,
    }
    assert rule(on="silence", delay=5).holds_for == 5.0


@given(
    secret=st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=3, max_size=20),
    told=st.text(max_size=50),
)
def test_no_part_of_an_address_is_told(secret: str, told: str) -> None:
    """Whatever is said, none of an address' parts stands in it afterwards, on one line of bounded length."""
    address = f"json://ops:{secret}@example.org:8080/{secret}?token={secret}"
    clean = redacted(f"{told} {address} {secret}\nPOST /{secret}", address)
    assert secret not in clean
    assert "\n" not in clean
    assert len(clean) <= 300


def test_the_dead_mans_switch_wants_lanes_followed_and_nodes_heard() -> None:
    """No lane, a lane in trouble or not followed, and a node that is late or unknown are each not well."""
    well = {"p0": LaneState(after(-1), None)}
    assert not_current(well, AT) == ""
    assert not_current({}, AT) == "no lane is followed"
    assert "LogBroken" in not_current({**well, "p1": LaneState(AT, "LogBroken: x")}, AT)
    assert "p1" in not_current({**well, "p1": LaneState(after(-16), None)}, AT)
    assert "p1" in not_current({**well, "p1": LaneState(None, None)}, AT)
    assert not_heard({"a": after(-1)}, {"a"}, AT) == ""
    assert "'b'" not in not_heard({"a": AT, "b": after(-99)}, {"a"}, AT)
    assert "node b" in not_heard({"a": AT, "b": after(-99)}, {"a", "b"}, AT)
    assert "node c" in not_heard({"a": AT}, {"a", "c"}, AT)
