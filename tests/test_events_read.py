"""Reading events over HTTP's read side: pages over archive and hot tail, and where something is away."""

from __future__ import annotations

from contextlib import closing

import pytest

from projections.events import WINDOW, Filter, page
from projections.reads import Away, Reads, Unknown
from projections.views import EventView
from streams.settings import Settings
from tests.fix_projections import LANE, Chain, Scribe, Yard
from tests.fix_servers import eventually
from tests.test_archive import archived, archiving
from tests.test_read_api import without


@pytest.fixture
def half_archived(yard: Yard) -> tuple[Yard, Scribe]:
    """A lane of ten events: six in the archive, four only in the log."""
    scribe = yard.scribe()
    scribe.add("mic", running=True)
    scribe.add("tower")
    scribe.settle("c-1", "mic", state="running")
    scribe.write("alert.received", "mic", header="ZCZC-WXR-RWT-000000+0015-0011200-KXXX/NWS-")
    with archiving(yard):
        eventually(lambda: archived(yard) == 6, "six archived")
    for number in range(4):
        scribe.settle(f"c-{number + 2}", "tower")
    return yard, scribe


def all_pages(reads: Reads, limit: int, wanted: Filter = Filter()) -> list[EventView]:  # noqa: B008  # frozen
    """Every event, read page by page."""
    found: list[EventView] = []
    after, more = 0, True
    while more:
        got = page(reads, LANE, after=after, limit=limit, wanted=wanted).data
        assert len(got.events) <= limit
        assert got.next >= after
        after, more = got.next, got.more
        found += got.events
    return found


@pytest.mark.parametrize("limit", [1, 3, 6, 7, 10, 500])
def test_pages_join_archive_and_log(half_archived: tuple[Yard, Scribe], limit: int) -> None:
    """Whatever the pages' size, every event comes once, in order, over the seam between the two."""
    yard, scribe = half_archived
    with closing(Reads(yard.settings)) as reads:
        found = all_pages(reads, limit)
    assert [event.seq for event in found] == list(range(1, 11))
    assert [event.hash for event in found] == [logged.hash for logged in scribe.chain.events]


@pytest.mark.parametrize(
    ("wanted", "seqs"),
    [
        (Filter(source="tower"), [4, 7, 8, 9, 10]),
        (Filter(type="source."), [1, 2, 3, 4]),
        (Filter(type="source.running"), [3]),
        (Filter(command="c-4"), [9]),
        (Filter(source="mic", type="command."), [5]),
        (Filter(source="nobody"), []),
        (Filter(type="source.ad"), []),
    ],
)
def test_filters_mean_the_same_in_archive_and_log(
    half_archived: tuple[Yard, Scribe], wanted: Filter, seqs: list[int]
) -> None:
    """Source, type (whole, or all that begin so) and command choose alike on both sides of the seam."""
    yard, _ = half_archived
    with closing(Reads(yard.settings)) as reads:
        assert [event.seq for event in all_pages(reads, 2, wanted)] == seqs


def test_a_rare_filter_looks_at_so_much_and_says_where_to_go_on(yard: Yard) -> None:
    """A page looks through a window of the archive at most; `next` and `more` lead to what is beyond it."""
    chain = Chain()
    events = [chain.event("source.stalled", "mic") for _ in range(WINDOW + 5)]
    events.append(chain.event("source.failed", "mic"))
    scribe = yard.scribe(chain=chain)
    for start in range(0, len(events), 5000):
        scribe.append(events[start : start + 5000])
    with archiving(yard):
        eventually(lambda: archived(yard) == len(events), "all archived", 60)
    with closing(Reads(yard.settings)) as reads:
        first = page(reads, LANE, after=0, limit=10, wanted=Filter(type="source.failed")).data
        assert (first.events, first.next, first.more) == ([], WINDOW, True)
        second = page(reads, LANE, after=first.next, limit=10, wanted=Filter(type="source.failed")).data
        assert [event.seq for event in second.events] == [len(events)]
        assert not second.more


def test_with_redis_away_the_archive_answers_and_it_is_stale(half_archived: tuple[Yard, Scribe]) -> None:
    """What is archived is told, marked stale; what is only in the log is not known to be missing."""
    yard, _ = half_archived
    with closing(Reads(without(yard.settings, redis=True))) as reads:
        read = page(reads, LANE, after=0, limit=100, wanted=Filter())
        assert [event.seq for event in read.data.events] == list(range(1, 7))
        assert (read.source, read.stale, read.data.more) == ("database", True, False)


def test_without_postgres_nothing_is_claimed(half_archived: tuple[Yard, Scribe]) -> None:
    """Without the archive nobody knows the events: that is said, and no empty page."""
    yard, _ = half_archived
    gone: list[Settings] = [without(yard.settings, postgres=True)]
    gone.append(without(yard.settings, redis=True, postgres=True))
    for settings in gone:
        with closing(Reads(settings)) as reads, pytest.raises(Away):
            page(reads, LANE, after=0, limit=10, wanted=Filter())


def test_a_lane_that_nobody_follows_is_unknown(yard: Yard) -> None:
    """An unknown lane is said to be unknown: it is not a lane in which nothing happened."""
    with closing(Reads(yard.settings)) as reads, pytest.raises(Unknown, match="no lane 'p9'"):
        page(reads, "p9", after=0, limit=10, wanted=Filter())


def test_a_log_that_does_not_join_on_to_the_archive_is_not_told(half_archived: tuple[Yard, Scribe]) -> None:
    """Where the log is another one than what was archived, only the archive is told, as stale."""
    yard, _ = half_archived
    with yard.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE positions SET hash = 'other' WHERE projection = 'archive'")
    with closing(Reads(yard.settings)) as reads:
        read = page(reads, LANE, after=0, limit=100, wanted=Filter())
        assert [event.seq for event in read.data.events] == list(range(1, 7))
        assert read.stale
