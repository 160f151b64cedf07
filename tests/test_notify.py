"""Notifications, end to end: an event in a lane's log, a mail or a request at a real receiver."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from sqlalchemy import delete, func, select, update

from projections.projection import ALL, SOURCES
from projections.service import Service
from projections.tables import ARCHIVE, episodes, marks, positions, rebuilds
from streams.messages import now
from streams.names import STATION_LANE
from streams.notices import Maintenance
from tests.fix_notify import Bell, NowChain, rule
from tests.fix_projections import LANE, Scribe, Yard
from tests.fix_rebuild import ask_for, rebuilt
from tests.fix_servers import eventually

MARKER = "marker"
"""A source whose failure is written last: once it is told, all before it has been read."""


@contextmanager
def ringing(bell: Bell, *rules: Any, **more: Any) -> Iterator[Yard]:
    """The station with its projections and its notifier at work."""
    station = bell.ringing(*rules, **more)
    try:
        with station.projections():
            eventually(bell.live, "the notifier")
            yield station
    finally:
        station.close()


def told(bell: Bell, *titles: str) -> None:
    """Wait until all that waits is sent; fail unless exactly `titles` arrived, in any order."""
    wanted = sorted(f"[test] {title}" for title in titles)
    eventually(lambda: len(bell.http.titles) >= len(wanted), f"{wanted} told")
    eventually(lambda: set(bell.states()) <= {"sent"}, "all sent")
    assert sorted(bell.http.titles) == wanted
    assert len(bell.http.ids) == len(set(bell.http.ids))


def writing(station: Yard, lane: str = LANE) -> Scribe:
    """Who writes the lane's log, from its beginning, at the present time."""
    return station.scribe(lane, NowChain())


def of_subject(bell: Bell, subject: str) -> list[dict[str, Any]]:
    """The episodes about the subject."""
    return [one for one in bell.episodes() if one["subject"] == subject]


def test_a_failed_source_is_told_once_to_each_target(bell: Bell) -> None:
    """One event, one episode, one mail and one request, each saying what, where and why."""
    with ringing(bell, rule(to=["http", "mail"])) as station:
        scribe = writing(station)
        scribe.add("mic", running=True)
        scribe.write("source.failed", "mic", reason="no carrier")
        eventually(lambda: bell.states() == ["sent", "sent"], "both told")
    assert bell.http.titles == ["[test] source mic failed"]
    assert bell.mail.titles == ["[test] source mic failed"]
    assert "no carrier" in bell.http.taken[0]["message"]
    assert LANE in bell.http.taken[0]["message"]


def test_what_flaps_is_one_episode_and_what_comes_later_another(bell: Bell) -> None:
    """A source that fails again within `settle` is told once; after that it is told again."""
    with ringing(bell, rule(settle=0), rule("calm", settle=600)) as station:
        scribe = writing(station)
        for _ in range(3):
            scribe.write("source.failed", "mic")
            scribe.write("source.running", "mic")
        told(bell, *["source mic failed"] * 4)
    assert [one["rule"] for one in bell.episodes()].count("calm") == 1


def test_only_alerts_of_the_rules_events_and_places_are_told(bell: Bell) -> None:
    """Of three warnings those of the rule's event are told, for its county, its state, and nobody else's."""
    tornado = rule("tornado", on="alert", events=["TOR"], counties=["048201"])
    with ringing(bell, tornado, rule()) as station:
        scribe = writing(station)
        in_force = msgspec.to_builtins(now() + timedelta(minutes=30))
        for event, place in (("TOR", "048157"), ("RWT", "048201"), ("TOR", "048201"), ("TOR", "048000")):
            scribe.write("alert.received", "wx", event=event, locations=[place], expires_at=in_force)
        scribe.write("source.failed", MARKER)
        told(bell, "alert received by source wx", "alert received by source wx", f"source {MARKER} failed")
    messages = "".join(one["message"] for one in bell.http.taken)
    assert "TOR for 048201" in messages
    assert "TOR for 048000" in messages
    assert "In force until" in messages


def test_a_warning_in_force_is_told_after_an_outage_though_its_message_has_ended(bell: Bell) -> None:
    """Projections that were away for 11 minutes tell a warning that is in force; not one that is over.

    The end of the message closed it once, so it was over before anybody was told.
    """
    with ringing(bell, rule(on="alert")):
        pass
    with bell.yard.engine.begin() as connection:
        connection.execute(update(marks).values(at=now() - timedelta(hours=1)))
    scribe = bell.yard.scribe(chain=NowChain(ago=11 * 60))
    for source, minutes in (("over", 5), ("wx", 30)):
        in_force = msgspec.to_builtins(now() + timedelta(minutes=minutes - 11))
        scribe.write("alert.received", source, event="TOR", locations=["048201"], expires_at=in_force)
        scribe.write("alert.ended", source)
    with ringing(bell, rule(on="alert")):
        told(bell, "alert received by source wx")
        eventually(lambda: of_subject(bell, "over")[0]["muted"], "the other one muted")
    assert of_subject(bell, "wx")[0]["closed_at"] is None


def test_a_warning_is_repeated_while_it_is_in_force(bell: Bell) -> None:
    """`repeat` holds for alerts: until the validity ends, not the message; then no more."""
    with ringing(bell, rule(on="alert", repeat=1)) as station:
        scribe = writing(station)
        in_force = msgspec.to_builtins(now() + timedelta(seconds=10))
        scribe.write("alert.received", "wx", event="TOR", locations=["048201"], expires_at=in_force)
        scribe.write("alert.ended", "wx")
        eventually(lambda: "[test] alert received by source wx (still, 2)" in bell.http.titles, "repeated")
        eventually(lambda: bell.episodes()[0]["closed_at"], "over")
    (one,) = bell.episodes()
    assert one["closed_at"] == one["expires_at"]


def test_a_source_is_told_once_its_delay_is_over_and_not_if_it_recovers_before(bell: Bell) -> None:
    """Of two sources that fail, only the one that has not recovered within the delay is told."""
    with ringing(bell, rule(delay=2)) as station:
        scribe = writing(station)
        scribe.write("source.failed", "brief")
        scribe.write("source.running", "brief")
        scribe.write("source.failed", "lasting")
        told(bell, "source lasting failed")
    (kept,) = of_subject(bell, "lasting")
    assert (kept["notified_at"] - kept["opened_at"]).total_seconds() >= 2


def test_nothing_goes_out_during_maintenance_and_what_lasts_goes_out_then(bell: Bell) -> None:
    """What begins during maintenance is told at its end if it lasts, and never if it is over by then."""
    until = now() + timedelta(seconds=6)
    window = Maintenance(begin=now() - timedelta(hours=1), until=until, sources=("mic*",))
    with ringing(bell, rule(), maintenance=(window,)) as station:
        scribe = writing(station)
        scribe.write("source.failed", "mic-1")
        scribe.write("source.failed", "mic-2")
        scribe.write("source.running", "mic-2")
        scribe.write("source.failed", MARKER)
        told(bell, f"source {MARKER} failed")
        assert now() < until, "too slow for this test"
        told(bell, f"source {MARKER} failed", "source mic-1 failed")
    assert of_subject(bell, "mic-1")[0]["notified_at"] >= until
    assert of_subject(bell, "mic-2")[0]["muted"]


def test_nothing_goes_out_in_quiet_hours_of_the_zone(bell: Bell) -> None:
    """A rule whose quiet hours are now, in its zone, keeps still; another tells the same."""
    at = now() + timedelta(hours=9)  # Tokyo is nine hours ahead, all year
    hours = f"{at - timedelta(hours=1):%H:%M}-{at + timedelta(hours=1):%H:%M}"
    with ringing(bell, rule("night", quiet=hours, zone="Asia/Tokyo"), rule("day", quiet=hours)) as station:
        writing(station).write("source.failed", "mic")
        told(bell, "source mic failed")
        eventually(lambda: len(bell.episodes()) == 2, "both episodes")
    assert {one["rule"] for one in bell.episodes() if one["notified_at"]} == {"day"}


def test_an_episode_is_repeated_until_it_is_acknowledged(bell: Bell) -> None:
    """The log's `condition.acknowledged` ends the repeats of that episode, and of no other."""
    with ringing(bell, rule(repeat=1)) as station:
        scribe, desk = writing(station), writing(station, STATION_LANE)
        scribe.write("source.failed", "mic")
        scribe.write("source.failed", "other")
        eventually(lambda: len([one for one in bell.notifications() if one["number"] == 1]) == 2, "repeats")
        (mic,) = of_subject(bell, "mic")
        about = {"episode": mic["id"], "rule": "failures", "subject": "mic", "by": "operator"}
        desk.write("condition.acknowledged", "", "0199", **{**about, "subject": "elsewhere"})
        desk.write("condition.acknowledged", "", "0199", **about)
        eventually(lambda: of_subject(bell, "mic")[0]["acknowledged_by"] == "operator", "acknowledged")
        repeats = of_subject(bell, "mic")[0]["repeats"]
        (other,) = of_subject(bell, "other")
        eventually(lambda: of_subject(bell, "other")[0]["repeats"] >= other["repeats"] + 2, "two more")
        assert of_subject(bell, "mic")[0]["repeats"] == repeats
        assert of_subject(bell, "other")[0]["acknowledged_at"] is None


def test_silence_is_told_once_and_ends_with_a_sound(bell: Bell) -> None:
    """A running source without a peak for the delay is one episode, over as soon as it is heard."""
    with ringing(bell, rule("dead-air", on="silence", delay=1.5)) as station:
        scribe = writing(station)
        scribe.add("mic", running=True)
        scribe.add("stopped")

        def measured(peak: float | None, reached: Any) -> Any:
            def attempt() -> bool:
                scribe.measure("mic", peak, peak)
                scribe.measure("stopped", None, None)
                return bool(reached())

            return attempt

        eventually(measured(None, lambda: bell.http.titles), "the silence told")
        eventually(measured(-20.0, lambda: of_subject(bell, "mic")[0]["closed_at"]), "over")
        told(bell, "source mic is silent")
    assert "digital silence" in bell.http.taken[0]["message"]
    assert of_subject(bell, "stopped") == []


def test_a_node_that_falls_silent_is_told_once_and_ends_when_it_is_heard(bell: Bell) -> None:
    """A heartbeat older than 15 s is one episode of its node, over with the next heartbeat."""
    with ringing(bell, rule(on="heartbeat")) as station:
        station.beat(time=msgspec.to_builtins(now() - timedelta(seconds=20)))
        told(bell, "ingest node local is not heard")
        station.beat()
        eventually(lambda: of_subject(bell, "local")[0]["closed_at"], "over")
    assert len(bell.http.taken) == 1


def test_a_parked_command_is_told_once_and_ends_with_the_decision(bell: Bell) -> None:
    """A command set aside is one episode, which the station lane's `parked.dropped` ends."""
    with ringing(bell, rule(on="parked")) as station:
        writing(station).write("parked.added", "mic", "0199", type="source.start", why="it crashed")
        told(bell, "command 0199 was set aside")
        writing(station, STATION_LANE).write("parked.dropped", "", "0200", lane=LANE, id="0199")
        eventually(lambda: of_subject(bell, "0199")[0]["closed_at"], "over")
    assert "source.start of mic: it crashed" in bell.http.taken[0]["message"]


def test_an_archive_that_stands_still_is_told(bell: Bell) -> None:
    """With the archiver stuck nothing is read from the archive, and just that is told, and nodes too.

    What was found by looking waited for the archive once, so the worst troubles were never told.
    """
    with ringing(bell, rule()) as station:
        scribe = writing(station)
        scribe.write("source.failed", MARKER)
        told(bell, f"source {MARKER} failed")
    with bell.yard.engine.begin() as connection:
        stuck = update(positions).where(positions.c.projection == ARCHIVE, positions.c.lane == LANE)
        connection.execute(stuck.values(hash="0" * 64))
    scribe.write("source.failed", "unread")
    with ringing(bell, rule("stuck", on="trouble", delay=0), rule("nodes", on="heartbeat")) as station:
        station.beat(time=msgspec.to_builtins(now() - timedelta(seconds=20)))
        told(
            bell,
            f"source {MARKER} failed",
            f"lane {LANE} cannot be followed",
            "ingest node local is not heard",
        )
    assert "PositionAhead" in "".join(one["message"] for one in bell.http.taken)


def test_nothing_is_told_of_what_was_before_the_notifier(bell: Bell) -> None:
    """A station that gets its first rules tells nothing of the failures in its history."""
    scribe = bell.yard.scribe(chain=NowChain(ago=30))
    for number in range(20):
        scribe.write("source.failed", f"old-{number}")
    with ringing(bell, rule()):
        scribe.chain.ago = 0  # type: ignore[attr-defined]  # a NowChain
        scribe.write("source.failed", MARKER)
        told(bell, f"source {MARKER} failed")


def test_nothing_is_told_again_while_all_is_read_again(bell: Bell) -> None:
    """Read models that are rebuilt, and an archive that is read from its beginning, tell nobody twice."""
    with ringing(bell, rule(settle=0)) as station:
        scribe = writing(station)
        for number in range(5):
            scribe.write("source.failed", f"mic-{number}")
            scribe.write("source.running", f"mic-{number}")
        wanted = [f"source mic-{number} failed" for number in range(5)]
        told(bell, *wanted)
    with bell.yard.engine.begin() as connection:
        connection.execute(delete(marks).where(marks.c.name == LANE))
        connection.execute(delete(positions).where(positions.c.projection != ARCHIVE))
    with ringing(bell, rule(settle=0)):
        scribe.write("source.failed", MARKER)
        told(bell, *wanted, f"source {MARKER} failed")
        with bell.yard.engine.connect() as connection:
            read = select(marks.c.seq).where(marks.c.name == LANE)
            assert connection.execute(read).scalar_one() == scribe.chain.seq


def test_nobody_is_told_anything_by_a_rebuild(bell: Bell, monkeypatch: pytest.MonkeyPatch) -> None:
    """All is folded again, by command and for a new version: only what happens meanwhile is told."""
    monkeypatch.setattr("projections.rebuild.BATCH", 2)
    rules = rule(settle=0), rule("alerts", on="alert"), rule("stuck", on="trouble", delay=0)
    with ringing(bell, *rules) as station:
        scribe = writing(station)
        in_force = msgspec.to_builtins(now() + timedelta(minutes=30))
        for number in range(3):
            scribe.add(f"mic-{number}", running=True)
            scribe.write("source.failed", f"mic-{number}")
        scribe.write("source.running", "mic-0")
        scribe.write("alert.received", "wx", event="TOR", locations=["048201"], expires_at=in_force)
        wanted = [*(f"source mic-{number} failed" for number in range(3)), "alert received by source wx"]
        told(bell, *wanted)
        ask_for(station, *ALL)
        scribe.write("source.failed", "meanwhile")
        eventually(rebuilt(station), "all rebuilt")
        wanted.append("source meanwhile failed")
        told(bell, *wanted)
    with bell.yard.engine.begin() as connection:
        connection.execute(update(positions).where(positions.c.projection != ARCHIVE).values(version=0))
        connection.execute(delete(rebuilds))
    with ringing(bell, *rules) as station:
        eventually(rebuilt(station), "all rebuilt for the new version")
        scribe.write("source.failed", MARKER)
        told(bell, *wanted, f"source {MARKER} failed")
    assert bell.yard.rows(SOURCES)["mic-0"].state == "running"


def test_two_processes_tell_each_episode_once(bell: Bell) -> None:
    """Projections that run twice, and one of them restarted in the midst, tell each failure once."""
    with ringing(bell, rule()) as station:
        scribe = writing(station)
        for number in range(20):
            with station.projections() if number == 10 else _nothing():
                scribe.write("source.failed", f"mic-{number}")
        told(bell, *[f"source mic-{number} failed" for number in range(20)])


@contextmanager
def _nothing() -> Iterator[Service | None]:
    yield None


def test_a_rule_that_is_gone_tells_nothing_and_forgets_nothing(bell: Bell) -> None:
    """Without its rule an open episode is not told; with it again it is, if it lasts."""
    hours = f"{now() - timedelta(hours=1):%H:%M}-{now() + timedelta(hours=1):%H:%M}"
    with ringing(bell, rule(quiet=hours)) as station:
        scribe = writing(station)
        scribe.write("source.failed", "mic")
        eventually(lambda: bell.episodes(), "the episode")
    with ringing(bell, rule("another")):
        scribe.write("source.failed", MARKER)
        told(bell, f"source {MARKER} failed")
    with ringing(bell, rule()):
        told(bell, f"source {MARKER} failed", "source mic failed")
    with bell.yard.engine.connect() as connection:
        assert connection.execute(select(func.count()).select_from(episodes)).scalar_one() == 2


@pytest.mark.parametrize("name", ["http", "mail"])
def test_what_began_while_a_receiver_was_away_is_told_once_it_is_back(bell: Bell, name: Any) -> None:
    """From the log to the mail: a receiver that was stopped gets each episode once."""
    receiver = bell.receiver(name)
    receiver.stop()
    with ringing(bell, rule(to=[name])) as station:
        scribe = writing(station)
        for number in range(3):
            scribe.write("source.failed", f"mic-{number}")
        eventually(lambda: any(one["attempts"] for one in bell.notifications()), "an attempt")
        receiver.start()
        eventually(lambda: bell.states() == ["sent"] * 3, "all sent", 40)
    assert sorted(receiver.titles) == [f"[test] source mic-{number} failed" for number in range(3)]
