"""A log rolled back or emptied, with an archive: nothing told is missing, nothing is done twice."""

from __future__ import annotations

import time

import pytest
from structlog.testing import capture_logs

from projections.archive_reader import ArchiveReader
from streams.messages import Answer
from streams.submit import Signed
from tests.fix_archive import NOWHERE, ArchivedHall, archive_trouble, rows_of
from tests.fix_projections import Scribe, folded
from tests.fix_servers import eventually
from tests.fix_streams import LANE, Scripted, insist, working


def submitted(hall: ArchivedHall, count: int) -> list[tuple[Signed, Answer]]:
    """So many commands of several sources, each with its answer."""
    submitter = hall.submitter()
    commands = [hall.command(source=f"s{n % 3}") for n in range(count)]
    return [(command, insist(submitter, command)) for command in commands]


def check_kept(
    hall: ArchivedHall, before: list[tuple[bytes, str]], told: list[tuple[Signed, Answer]]
) -> None:
    """The log begins with what it was `before`, verifies, and gives every answer again."""
    assert hall.stored()[: len(before)] == before
    assert hall.verdict().fault is None
    submitter = hall.submitter()
    assert [insist(submitter, command) for command, _ in told] == [answer for _, answer in told]
    assert all(len(outcomes) == 1 for outcomes in hall.results().values())


def restored_by(hall: ArchivedHall) -> list[str]:
    return [logged.event.data["by"] for logged in hall.events() if logged.event.type == "log.restored"]


def check_projected(hall: ArchivedHall) -> None:
    """Archive and projections have the whole log, as it stands now."""
    eventually(lambda: rows_of(hall.yard) == hall.stored(), "the whole log archived")
    eventually(lambda: hall.yard.all_rows(LANE) == folded(hall.events()), "the whole log folded")


def test_an_owner_puts_back_what_it_has_and_projections_go_on(archived_hall: ArchivedHall) -> None:
    """A log rolled back under its owner is whole again from memory, with nothing in the archive."""
    hall, handler = archived_hall, Scripted()
    with working(hall, handler, archive=hall.archive):
        told = submitted(hall, 5)
        dump = hall.dump()
        told += submitted(hall, 5)
        before = hall.stored()
        hall.roll_back(dump)
        told += submitted(hall, 1)
        check_kept(hall, before, told)
        assert restored_by(hall) == ["owner"]
        assert len(handler.executed) == 11
        with hall.yard.projections():
            check_projected(hall)


def test_a_new_owner_puts_back_what_the_archive_has(archived_hall: ArchivedHall) -> None:
    """A log rolled back while nobody owned it is whole again from the archive: same seq, hash, bytes."""
    hall, later = archived_hall, Scripted()
    with hall.yard.projections() as service:
        with working(hall, Scripted(), archive=hall.archive):
            told = submitted(hall, 5)
            dump = hall.dump()
            told += submitted(hall, 5)
        check_projected(hall)
        before = hall.stored()
        hall.roll_back(dump)
        eventually(lambda: "PositionAhead" in (service.runners[LANE].trouble or ""), "the loss noticed")
        with working(hall, later, node="two", archive=hall.archive):
            told += submitted(hall, 1)
            check_kept(hall, before, told)
            assert restored_by(hall) == ["archive"]
            assert len(later.executed) == 1
            check_projected(hall)
            assert service.runners[LANE].trouble is None


def test_an_emptied_redis_is_filled_from_the_archive(archived_hall: ArchivedHall) -> None:
    """A lane whose Redis lost everything goes on after its last event; it is never begun at seq 1.

    Nor do its tokens fall, though their counter was lost too.
    """
    hall, later = archived_hall, Scripted()
    with hall.yard.projections():
        told: list[tuple[Signed, Answer]] = []
        for node in ("one", "two", "three", "one"):
            with working(hall, Scripted(), node=node, archive=hall.archive):
                told += submitted(hall, 5)
        hall.wait_until_archived()
        before = hall.stored()
        hall.roll_back({})
        with working(hall, later, node="two", archive=hall.archive):
            told += submitted(hall, 2)
            check_kept(hall, before, told)
            assert restored_by(hall) == ["archive"]
            assert [answer.sequence for _, answer in told[-2:]] == [9, 9]
            assert hall.events()[-1].event.token > 4
            assert len(later.executed) == 2
            check_projected(hall)


def test_archive_and_owner_together_put_everything_back(archived_hall: ArchivedHall) -> None:
    """What the owner let go of as archived, and what is not archived yet, join on to one another."""
    hall, handler = archived_hall, Scripted()
    with working(hall, handler, archive=hall.archive) as worker:
        told = submitted(hall, 3)
        dump = hall.dump()
        with hall.yard.projections():
            told += submitted(hall, 5)
            hall.wait_until_archived()
        told += submitted(hall, 5)
        missing = hall.stored()[hall.archived() :]
        eventually(lambda: list(worker._log._kept) == missing, "only what is not archived kept")
        before = hall.stored()
        hall.roll_back(dump)
        told += submitted(hall, 1)
        check_kept(hall, before, told)
        assert restored_by(hall) == ["archive"]
        assert len(handler.executed) == 14


def test_an_owner_waits_for_the_archive_where_it_knows_what_is_missing(archived_hall: ArchivedHall) -> None:
    """With Postgres away, an owner that let archived events go does not write over them: it waits."""
    hall, reader = archived_hall, ArchiveReader(archived_hall.settings.postgres)
    with working(hall, Scripted(), archive=reader) as worker:
        told = submitted(hall, 3)
        dump = hall.dump()
        with hall.yard.projections():
            told += submitted(hall, 5)
            hall.wait_until_archived()
        told += submitted(hall, 1)
        before = hall.stored()
        reader._postgres = NOWHERE
        with capture_logs() as said:
            hall.roll_back(dump)
            eventually(lambda: "ArchiveAway" in [line.get("why") for line in said], "the archive missed")
        assert not worker.owned.is_set()
        assert hall.stored() == before[: len(hall.stored())]
        reader._postgres = hall.settings.postgres
        told += submitted(hall, 1)
        check_kept(hall, before, told)


@pytest.mark.parametrize("emptied", [True, False])
def test_postgres_away_at_a_take_over(archived_hall: ArchivedHall, emptied: bool) -> None:
    """With an empty Redis the new owner waits and says so; with a log that has its head it goes on."""
    hall, reader = archived_hall, ArchiveReader(NOWHERE)
    with hall.yard.projections(), working(hall, Scripted(), archive=hall.archive):
        told = submitted(hall, 4)
    before = hall.stored()
    with hall.yard.projections():
        hall.wait_until_archived()
    if emptied:
        hall.roll_back({})
    began = time.monotonic()
    with (
        capture_logs() as said,
        working(hall, Scripted(), node="two", archive=reader, wait=not emptied) as worker,
    ):
        if emptied:
            eventually(lambda: "ArchiveAway" in [line.get("why") for line in said], "the archive missed")
            assert not worker.owned.wait(0.5)
            assert hall.head() == 0
            reader._postgres = hall.settings.postgres
            assert worker.owned.wait(20)
        else:
            assert time.monotonic() - began < 3
            assert "the archive was not asked" in [line["event"] for line in said]
        told += submitted(hall, 1)
        check_kept(hall, before, told)
    assert restored_by(hall) == (["archive"] if emptied else [])


def test_a_fork_is_logged_once_and_both_branches_stay(archived_hall: ArchivedHall) -> None:
    """Where log and archive contradict each other, every owner goes on in the log, and one event tells it.

    The archive keeps its branch, stands still, and names both heads.
    """
    hall = archived_hall
    other = Scribe(hall.new_link(), hall.keys)
    for name in "abc":
        other.add(name)
    with hall.yard.projections():
        hall.wait_until_archived()
    branch = rows_of(hall.yard)
    hall.link.call("DEL", hall.keys.events, hall.keys.head, hall.keys.archived)
    with working(hall, Scripted()):
        submitted(hall, 2)
    for node in ("two", "three", "two"):
        with working(hall, Scripted(), node=node, archive=hall.archive):
            submitted(hall, 1)
    forks = [logged.event for logged in hall.events() if logged.event.type == "log.forked"]
    assert [event.data["other"] for event in forks] == [{"seq": 3, "hash": other.chain.hash}]
    assert hall.verdict().fault is None
    with hall.yard.projections():
        eventually(lambda: archive_trouble(hall.yard, LANE), "the archive standing still")
        trouble = archive_trouble(hall.yard, LANE) or ""
    assert f"position 3 ({other.chain.hash[:12]}" in trouble
    assert f"{hall.head()} ({hall.stored()[-1][1][:12]}" in trouble
    assert rows_of(hall.yard) == branch
    assert hall.archived() == 0


def test_an_owner_keeps_only_what_is_not_archived(archived_hall: ArchivedHall) -> None:
    """What the archive has leaves the owner's memory; without an archive all stays, up to the bound."""
    hall = archived_hall
    with working(hall, Scripted()) as worker:
        submitted(hall, 10)
        eventually(lambda: list(worker._log._kept) == hall.stored(), "everything kept")
        with hall.yard.projections():
            hall.wait_until_archived()
            submitted(hall, 1)
            eventually(lambda: len(worker._log._kept) <= 2, "the archived ones let go")
