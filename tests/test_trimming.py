"""Trimming: Redis lets go only of what is archived, folded and old enough, and nobody misses it."""

from __future__ import annotations

import threading
import time
from typing import Any

import msgspec
import pytest
from sqlalchemy import text

from projections.archive_reader import ArchiveReader
from streams.audit import verify
from streams.durability import replication_id
from streams.handler import Result
from streams.history import history
from streams.messages import digest
from streams.replay import stored
from streams.settings import ArchiveSection
from streams.submit import Full
from tests.fix_archive import NOWHERE, rows_of
from tests.fix_projections import folded
from tests.fix_servers import eventually
from tests.fix_streams import DONE, LANE, Functions, Hall, Scripted, chain, insist, working
from tests.fix_trimming import Counting, TrimmedHall

RAWS = chain(9)


def trim(hall: Hall, fence: str, seq: int, known: bytes = b"") -> Any:
    """Ask for a cut at `seq`."""
    keys, kind = hall.keys, "test/1" if known else ""
    return hall.link.call(
        "FCALL", "tocsin_trim", 5, keys.lease, keys.head, keys.events, keys.state, keys.archived,
        fence, seq, digest(RAWS[seq - 1]), kind, known,
    )  # fmt: skip


def tell(hall: Hall, seq: int, folded: int) -> None:
    told = (seq, digest(RAWS[seq - 1]), folded)
    assert hall.link.call("FCALL", "tocsin_archived", 2, hall.keys.archived, hall.keys.events, *told) == b"ok"


def standing(hall: Hall) -> list[bytes]:
    return [raw for raw, _ in stored(hall.link, hall.keys)]


def fill(hall: Hall, count: int, sources: int = 3) -> None:
    """So many commands of some sources, each answered."""
    submitter = hall.submitter()
    for number in range(count):
        insist(submitter, hall.command(source=f"s{number % sources}"))


def test_a_cut_is_made_only_where_everybody_has_the_events(hall: Hall, functions: Functions) -> None:
    """Beyond what is archived, folded or durable here nothing goes; and only the owner may let it go."""
    lease = functions.acquire()
    functions.append(lease, RAWS)
    before = hall.dump()
    assert trim(hall, lease.fence, 5) == [b"early"]
    assert hall.dump() == before
    tell(hall, 6, 4)
    functions.raise_watermark(9, digest(RAWS[8]), 1, replication_id(hall.link))
    assert trim(hall, lease.fence, 5) == [b"early"]
    tell(hall, 6, 8)
    assert trim(hall, lease.fence, 7) == [b"early"]
    assert trim(hall, "another's fence", 5) == [b"fenced"]
    hall.link.call("HSET", hall.keys.head, "wm_replid", "f" * 40)
    assert trim(hall, lease.fence, 5) == [b"early"]
    functions.raise_watermark(9, digest(RAWS[8]), 1, replication_id(hall.link))
    assert len(standing(hall)) == 9
    assert trim(hall, lease.fence, 5, b"what is known") == [b"ok", 4]
    assert standing(hall) == RAWS[4:]
    kept = hall.link.call("HMGET", hall.keys.state, "seq", "hash", "kind", "known")
    assert kept == [b"5", digest(RAWS[4]).encode(), b"test/1", b"what is known"]


def test_a_cut_at_another_event_is_refused(hall: Hall, functions: Functions) -> None:
    """An owner whose log is not the one that stands lets nothing go."""
    lease = functions.acquire()
    functions.append(lease, RAWS, at_once=True)
    tell(hall, 9, 9)
    keys = hall.keys
    cut = (lease.fence, 5, digest(b"another"), "", "")
    reply = hall.link.call(
        "FCALL", "tocsin_trim", 5, keys.lease, keys.head, keys.events, keys.state, keys.archived, *cut
    )
    assert reply == [b"differs"]
    assert len(standing(hall)) == 9


def test_what_is_archived_and_folded_goes_and_the_history_stays_whole(trimmed_hall: TrimmedHall) -> None:
    """Redis keeps a short tail; history, verdict, rows and answers are as if nothing were gone."""
    hall = trimmed_hall
    with working(hall, Scripted(), archive=hall.archive), hall.yard.projections():
        told = [
            (command := hall.command(source=f"s{n % 3}"), insist(hall.submitter(), command))
            for n in range(30)
        ]
        eventually(lambda: hall.first() >= hall.head(), "all but the last event gone from Redis")
        events = hall.whole()
        assert len(events) >= 31
        assert verify(LANE, history(hall.link, hall.keys, hall.archive)).fault is None
        eventually(lambda: hall.yard.all_rows(LANE) == folded(hall.whole()), "the whole log folded")
        assert [insist(hall.submitter(), command) for command, _ in told] == [answer for _, answer in told]
        assert hall.whole()[: len(events)] == events


def test_without_projections_nothing_is_trimmed(trimmed_hall: TrimmedHall) -> None:
    """What is archived and not folded stays, however long it takes; it goes once it is folded."""
    hall = trimmed_hall
    with working(hall, Scripted(), archive=hall.archive), hall.archiving():
        fill(hall, 10)
        hall.wait_until_archived()
        looks = hall.looks()
        eventually(lambda: hall.looks() > looks + 5, "the owner looked several times")
        assert hall.first() == 1
        with hall.folding():
            eventually(lambda: hall.first() >= hall.head(), "all but the last event gone")


def test_without_the_archive_nothing_is_trimmed(trimmed_hall: TrimmedHall) -> None:
    """What is folded and not archived stays; it goes once it is archived."""
    hall = trimmed_hall
    with working(hall, Scripted(), archive=hall.archive), hall.folding():
        fill(hall, 10)
        eventually(lambda: hall.yard.all_rows(LANE) == folded(hall.whole()), "everything folded")
        looks = hall.looks()
        eventually(lambda: hall.looks() > looks + 5, "the owner looked several times")
        assert hall.first() == 1
        with hall.archiving():
            eventually(lambda: hall.first() >= hall.head(), "all but the last event gone")
    assert rows_of(hall.yard)[0] == (hall.whole()[0].raw, hall.whole()[0].hash)


def test_what_is_young_is_kept(trimmed_hall: TrimmedHall) -> None:
    """Events are kept in Redis for the time that is set, archived or not; then they go, and only they."""
    hall = trimmed_hall
    hall.settings = msgspec.structs.replace(hall.settings, archive=ArchiveSection(keep=2.0))
    with working(hall, Scripted(), archive=hall.archive), hall.yard.projections():
        fill(hall, 5)
        old = hall.head()
        hall.wait_until_archived()
        assert hall.first() == 1
        time.sleep(1.0)  # for these events to be older than the next
        fill(hall, 5)
        eventually(lambda: hall.first() == old, "the old ones gone")
        assert hall.head() > old


def test_a_projection_that_is_new_folds_from_the_first_event(trimmed_hall: TrimmedHall) -> None:
    """Given a trimmed lane, a projection without a position reads the past from the archive."""
    hall = trimmed_hall
    with working(hall, Scripted(), archive=hall.archive):
        with hall.yard.projections():
            fill(hall, 20)
            eventually(lambda: hall.first() >= hall.head(), "all but the last event gone from Redis")
            eventually(lambda: hall.yard.all_rows(LANE) == folded(hall.whole()), "everything folded")
        with hall.yard.engine.begin() as connection:
            connection.execute(text("DELETE FROM positions WHERE projection = 'commands'"))
            connection.execute(text("DELETE FROM commands"))
        with hall.yard.projections():
            fill(hall, 1)
            eventually(lambda: hall.yard.all_rows(LANE) == folded(hall.whole()), "everything folded again")


def test_a_new_owner_needs_no_archive_for_what_was_trimmed(trimmed_hall: TrimmedHall) -> None:
    """With Postgres away a trimmed lane is taken over all the same, by reading what is kept of its past."""
    hall, later = trimmed_hall, Counting()
    with working(hall, Counting(), archive=hall.archive), hall.yard.projections():
        fill(hall, 20)
        eventually(lambda: hall.first() >= hall.head(), "all but the last event gone from Redis")
    events = hall.whole()
    assert hall.first() > 20
    with working(hall, later, node="two", archive=ArchiveReader(NOWHERE)):
        assert later.read == len(events) - hall.first() < 5
        assert later.counts["command.completed"] == 20
        assert sum(later.counts.values()) == len(events)
        fill(hall, 1)


def test_an_owner_that_cannot_read_what_is_kept_reads_the_archive(trimmed_hall: TrimmedHall) -> None:
    """A summary of another kind is passed over: with the archive all is read, without it the lane waits."""
    hall, later = trimmed_hall, Counting()
    with working(hall, Counting(), archive=hall.archive), hall.yard.projections():
        fill(hall, 20)
        eventually(lambda: hall.first() >= hall.head(), "all but the last event gone from Redis")
    hall.link.call("HSET", hall.keys.state, "kind", "counts/2")
    events = hall.whole()
    with working(hall, later, node="two", archive=ArchiveReader(NOWHERE), wait=False) as worker:
        assert not worker.owned.wait(1.0)
    with working(hall, later, node="two", archive=hall.archive):
        assert later.restored[-1][: len(events)] == events
        assert later.counts["command.completed"] == 20


def limit(hall: Hall, part: float) -> None:
    """Set Redis' maxmemory so that this part of it is in use now."""
    info = hall.link.call("INFO", "memory").decode()
    used = int(info.split("used_memory:")[1].split()[0])
    hall.link.call("CONFIG", "SET", "maxmemory", int(used / part))


def test_at_the_high_water_mark_commands_are_refused_and_results_are_not(trimmed_hall: TrimmedHall) -> None:
    """In a long outage of the archive no new command is taken, and those taken before get their results.

    Once the archive is back there is room again, and commands are taken, without anybody's help.
    """
    hall, submitter = trimmed_hall, trimmed_hall.submitter()
    release = threading.Event()
    handler = Scripted(lambda task: DONE if release.wait(20) else Result(outcome="failed"))
    with working(hall, handler, archive=hall.archive):
        first = hall.command()
        assert submitter.accept(first, timeout=10) is None
        ballast = hall.station.replies("ballast")
        try:
            hall.link.call("SET", ballast, b"x" * 30_000_000)
            limit(hall, 0.85)
            with pytest.raises(Full, match="high_water"):
                eventually(lambda: submitter.submit(hall.command(), timeout=5) is None, "refused")
            release.set()
            assert insist(submitter, first).outcome == "completed"
            with hall.yard.projections():
                eventually(lambda: hall.first() >= hall.head(), "the log trimmed")
                hall.link.call("DEL", ballast)
                eventually(lambda: taken(hall), "commands taken again")
        finally:
            hall.link.call("CONFIG", "SET", "maxmemory", 0)


def taken(hall: Hall) -> bool:
    try:
        return hall.submitter().submit(hall.command(), timeout=5).outcome == "completed"
    except Full:
        return False


def test_a_full_redis_is_trimmed(trimmed_hall: TrimmedHall) -> None:
    """Where nothing at all can be written any more, what is archived still goes: that is what makes room."""
    hall = trimmed_hall
    with working(hall, Scripted(), archive=hall.archive):
        fill(hall, 50)
        limit(hall, 1.01)
        try:
            with hall.yard.projections():
                eventually(lambda: hall.first() >= 50, "the log trimmed")
        finally:
            hall.link.call("CONFIG", "SET", "maxmemory", 0)
        fill(hall, 1)
