"""Redis lost altogether: lanes, sequences, marks and claims come from the archive; the station goes on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta

import msgspec
import pytest

from control.restoring import restore_lane
from projections.archive_reader import ArchiveReader
from streams import healing
from streams.audit import verify
from streams.drafts import Draft
from streams.history import Entry, history
from streams.lease import Lease, acquire
from streams.messages import Answer
from streams.submit import Signed
from tests.fix_archive import rows_of
from tests.fix_ingest_lane import Owned
from tests.fix_projections import folded
from tests.fix_servers import eventually
from tests.fix_streams import LANE, Hall, Scripted, insist, working
from tests.fix_trimming import Counting, TrimmedHall


def told(hall: Hall, count: int) -> list[tuple[Signed, Answer]]:
    submitter = hall.submitter()
    commands = [hall.command(source=f"s{number % 3}") for number in range(count)]
    return [(command, insist(submitter, command)) for command in commands]


def test_a_trimmed_lane_is_rebuilt_from_the_archive(trimmed_hall: TrimmedHall) -> None:
    """The lane goes on behind its last event, with its sequences, marks and past; Redis gets only its end."""
    hall, later = trimmed_hall, Counting()
    with hall.yard.projections():
        with working(hall, Counting(), archive=hall.archive):
            before = told(hall, 30)
            eventually(lambda: hall.first() >= hall.head(), "the log trimmed")
        hall.wait_until_archived()
        events = hall.whole()
        hall.roll_back({})
        with working(hall, later, node="two", archive=hall.archive):
            assert hall.first() >= len(events)
            assert later.counts["command.completed"] == 30
            assert hall.whole()[: len(events)] == events
            submitter = hall.submitter()
            assert [insist(submitter, command) for command, _ in before] == [answer for _, answer in before]
            assert later.executed == []
            assert [answer.sequence for _, answer in told(hall, 3)] == [11, 11, 11]
            assert verify(LANE, history(hall.link, hall.keys, hall.archive)).fault is None
            eventually(
                lambda: rows_of(hall.yard) == [(one.raw, one.hash) for one in hall.whole()], "archived"
            )
            eventually(lambda: hall.yard.all_rows(LANE) == folded(hall.whole()), "folded")


def test_what_is_to_be_forgotten_is_not_remembered_again(
    trimmed_hall: TrimmedHall, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Marks whose time is over do not fill the new Redis; the sequences they tell are kept all the same."""
    hall = trimmed_hall
    with hall.yard.projections():
        with working(hall, Scripted(), archive=hall.archive):
            told(hall, 9)
        hall.wait_until_archived()
    hall.roll_back({})
    monkeypatch.setattr(healing, "FORGET", timedelta(minutes=-2))
    with working(hall, Scripted(), node="two", archive=hall.archive):
        assert hall.link.call("HLEN", hall.keys.ids) == 0
        assert hall.link.call("HMGET", hall.keys.sequence, "s0", "s1", "s2") == [b"3", b"3", b"3"]


class Slow(ArchiveReader):
    """An archive that takes its time."""

    def after(self, lane: str, seq: int, upto: int | None = None) -> Iterator[Entry]:
        for entry in super().after(lane, seq, upto):
            time.sleep(0.02)
            yield entry


def test_a_past_that_takes_longer_than_a_lease_is_given_back(
    trimmed_hall: TrimmedHall, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An owner that reads the past for longer than its lease lasts renews it meanwhile, and owns the lane."""
    hall, later = trimmed_hall, Counting()
    with hall.yard.projections():
        with working(hall, Scripted(), archive=hall.archive):
            told(hall, 60)
        hall.wait_until_archived()
    hall.roll_back({})
    monkeypatch.setattr("streams.lease.LENGTH", 0.8)
    monkeypatch.setattr("streams.worker.RENEW", 0.1)
    monkeypatch.setattr("streams.healing.BATCH", 5)
    with working(hall, later, node="two", archive=Slow(hall.settings.postgres)):
        assert later.counts["command.completed"] == 60
        assert len(later.restored) == 1
        told(hall, 3)


def test_young_events_stand_in_redis_again(trimmed_hall: TrimmedHall) -> None:
    """What would not have been trimmed is put back as it was."""
    hall = trimmed_hall
    hall.settings = msgspec.structs.replace(
        hall.settings, archive=msgspec.structs.replace(hall.settings.archive, keep=3600.0)
    )
    with hall.yard.projections():
        with working(hall, Scripted(), archive=hall.archive):
            told(hall, 5)
        hall.wait_until_archived()
        before = hall.stored()
        hall.roll_back({})
        with working(hall, Scripted(), node="two", archive=hall.archive):
            assert hall.stored()[: len(before)] == before


def test_claims_that_were_lost_are_made_again(hall: Hall, owned: Owned) -> None:
    """An owner claims the ids of its sources whenever it takes its lane over; another's claim stands."""
    for name in ("a", "b", "c"):
        assert owned.add("/nowhere", source=name).outcome == "completed"
    owned.do("source.remove", "b")
    eventually(lambda: hall.link.call("HLEN", hall.station.sources) == 2, "the removed one's claim freed")
    hall.link.call("DEL", hall.station.sources)
    hall.link.call("HSET", hall.station.sources, "c", "p7")
    owned.own()
    eventually(lambda: hall.link.call("HGET", hall.station.sources, "a"), "claimed again")
    found = hall.link.call("HGETALL", hall.station.sources)
    assert dict(zip(found[::2], found[1::2], strict=True)) == {b"a": b"node.here", b"c": b"p7"}


def test_a_lane_without_an_owner_is_given_back_on_demand(trimmed_hall: TrimmedHall) -> None:
    """Whoever restores a station gives lanes back that nobody owns, once, with their sources' claims."""
    hall = trimmed_hall
    with hall.yard.projections():
        with working(hall, Scripted(), archive=hall.archive) as worker:
            for name, type in (("mic", "added"), ("tower", "added"), ("tower", "removed")):
                worker._post(Draft(type=f"source.{type}", source=name, data={}))
            told(hall, 9)
        hall.wait_until_archived()
    seq = hall.head()
    hall.roll_back({})
    found = restore_lane(hall.settings, LANE, hall.archive)
    assert (found.by, found.before, found.archived, found.sources) == ("us", 0, seq, 1)
    assert found.whole
    assert hall.link.call("HGETALL", hall.station.sources) == [b"mic", LANE.encode()]
    assert hall.whole()[-1].event.type == "log.restored"
    assert verify(LANE, history(hall.link, hall.keys, hall.archive)).fault is None
    again = restore_lane(hall.settings, LANE, hall.archive)
    assert (again.by, again.before, again.sources) == ("nobody", found.seq, 0)
    with working(hall, Scripted(), node="two", archive=hall.archive):
        assert [answer.sequence for _, answer in told(hall, 3)] == [4, 4, 4]


def test_a_lane_that_has_an_owner_is_left_to_it(trimmed_hall: TrimmedHall) -> None:
    """While somebody else holds a lane that is not whole, nothing is put back over their head."""
    hall = trimmed_hall
    with hall.yard.projections():
        with working(hall, Scripted(), archive=hall.archive):
            told(hall, 3)
        hall.wait_until_archived()
    hall.roll_back({})
    held = acquire(hall.link, hall.keys, "somebody")
    assert isinstance(held, Lease)
    found = restore_lane(hall.settings, LANE, hall.archive, patience=0.5)
    assert (found.by, found.owner, found.whole) == ("owner", "somebody", False)
    assert hall.stored() == []
