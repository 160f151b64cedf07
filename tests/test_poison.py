"""Events that a fold cannot take: they are set aside, and only their own followers wait for them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from projections.mending import CannotMend, go_on, mend
from projections.poison import OnError
from projections.projection import ALL, COMMANDS, SOURCES, Projection
from projections.runner import Runner
from streams.connection import connect
from streams.messages import Logged
from tests.fix_projections import LANE, Scribe, Yard, folded
from tests.fix_rebuild import named, parked_in, position_of, refusing
from tests.fix_servers import eventually
from tests.test_projections_runner import running


def runner_of(
    yard: Yard, stopping: threading.Event, *projections: Projection, on_error: OnError = "park"
) -> Runner:
    link = connect(yard.settings.redis, "runner")
    keys = yard.keys.lane(LANE)
    return Runner(yard.engine, link, LANE, keys, stopping, projections=projections or ALL, on_error=on_error)


BAD = refusing(SOURCES, named("poison"))


def story(scribe: Scribe) -> None:
    """Two sources; the third event is poison, the fourth follows it, the others do not."""
    for name in ("mic", "tower"):
        scribe.add(name)
    scribe.write("source.updated", "mic", name="poison")
    scribe.write("source.updated", "mic", name="follower")
    scribe.write("source.updated", "tower", name="other")
    scribe.settle("c-1", "mic")


def names(yard: Yard) -> dict[str, str]:
    return {id: row.name for id, row in yard.rows(SOURCES).items()}


def at(yard: Yard, seq: int, *projections: Projection) -> Callable[[], bool]:
    return lambda: all(position_of(yard, one)[0] == seq for one in projections or (SOURCES, COMMANDS))


def test_a_poison_event_holds_back_its_source_and_not_the_lane(yard: Yard) -> None:
    """The source keeps its last good row, others go on in order, and the other projections have it all."""
    scribe, stopping = yard.scribe(), threading.Event()
    story(scribe)
    with running(runner_of(yard, stopping, BAD, COMMANDS), stopping=stopping):
        eventually(at(yard, 6), "the lane folded")
        scribe.write("source.failed", "mic", reason="held back as well")
        scribe.write("source.failed", "tower", reason="goes on")
        eventually(at(yard, 8), "the lane folded on")
    assert names(yard) == {"mic": "mic", "tower": "other"}
    assert yard.rows(SOURCES)["tower"].state == "failed"
    assert yard.rows(COMMANDS) == folded(scribe.chain.events)["commands"]
    assert parked_in(yard) == [("sources", 3, "parked", 2)]
    assert position_of(yard) == (8, None)


@pytest.fixture
def parked_yard(yard: Yard) -> Yard:
    """The story, folded by a fold that refuses an event of it, and archived."""
    scribe = yard.scribe()
    story(scribe)
    runner = runner_of(yard, threading.Event(), BAD, COMMANDS)
    runner.commit(runner.positions(), scribe.chain.events)
    with yard.projections():
        eventually(lambda: archived(yard) == 6, "all archived")
    return yard


def archived(yard: Yard) -> int:
    with yard.engine.connect() as connection:
        found: int = connection.exec_driver_sql("SELECT count(*) FROM archive").scalar_one()
        return found


def test_a_mended_fold_takes_it_and_its_followers(parked_yard: Yard) -> None:
    """Retried by a fold that can take it, the rows are as if nothing had happened."""
    events = parked_yard_events(parked_yard)
    assert mend(parked_yard.engine, SOURCES, LANE, 3, "retry") == []
    assert parked_yard.rows(SOURCES) == folded(events)["sources"]
    assert parked_in(parked_yard) == []


def parked_yard_events(yard: Yard) -> list[Logged]:
    from projections.rebuild import read

    with yard.engine.connect() as connection:
        return read(connection, LANE, 0, 100)


def test_retried_in_vain_it_stays_parked(parked_yard: Yard) -> None:
    """The same fold parks it again, with its followers counted anew, and changes no row."""
    rows = parked_yard.rows(SOURCES)
    again = mend(parked_yard.engine, BAD, LANE, 3, "retry")
    assert [(one.seq, one.followers) for one in again] == [(3, 1)]
    assert parked_yard.rows(SOURCES) == rows
    assert "to my taste" in again[0].error


def test_a_dropped_event_lets_its_followers_through(parked_yard: Yard) -> None:
    """Given up, it stays listed as dropped, and what it held back is folded without it."""
    assert mend(parked_yard.engine, BAD, LANE, 3, "drop") == []
    assert names(parked_yard) == {"mic": "follower", "tower": "other"}
    assert parked_in(parked_yard) == [("sources", 3, "dropped", 0)]
    with pytest.raises(CannotMend, match=r"node\.local:3"):
        mend(parked_yard.engine, SOURCES, LANE, 3, "retry")


def test_what_the_archive_lacks_cannot_be_retried_yet(parked_yard: Yard) -> None:
    """Followers that are not archived yet are not left out: it is refused, and nothing is changed."""
    with parked_yard.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM archive WHERE seq > 4")
    with pytest.raises(CannotMend, match="ends before event 5"):
        mend(parked_yard.engine, SOURCES, LANE, 3, "retry")
    assert parked_in(parked_yard) == [("sources", 3, "parked", 1)]


def test_a_projection_that_is_to_stop_stands_before_the_event(yard: Yard) -> None:
    """It says why and keeps what it had; the others go on; told to go on, it folds all that waits."""
    scribe, stopping = yard.scribe(), threading.Event()
    story(scribe)
    stopped = runner_of(yard, stopping, BAD, COMMANDS, on_error="stop")
    with running(stopped, stopping=stopping):
        eventually(at(yard, 6, COMMANDS), "the others folded")
        scribe.settle("c-2", "mic")
        eventually(at(yard, 7, COMMANDS), "the others go on")
    assert position_of(yard) == (2, "poison")
    assert (names(yard), parked_in(yard)) == ({"mic": "mic", "tower": "tower"}, [])
    assert "event 3 (source.updated) cannot be folded" in (stopped.trouble or "")

    assert go_on(yard.engine, SOURCES, LANE)
    assert not go_on(yard.engine, SOURCES, LANE)
    stopping = threading.Event()
    with running(runner_of(yard, stopping, SOURCES, COMMANDS, on_error="stop"), stopping=stopping):
        eventually(at(yard, 7), "all folded")
    assert yard.rows(SOURCES) == folded(scribe.chain.events)["sources"]
    assert position_of(yard) == (7, None)


def test_a_row_that_postgres_refuses_is_poison_too(yard: Yard) -> None:
    """A fold that makes a number too large for its column stops neither the lane nor the batch."""

    def too_large(row: Any, logged: Logged) -> Any:
        made = SOURCES.fold(row, logged)
        return msgspec.structs.replace(made, rate=2**70) if named("poison")(logged) else made

    scribe, stopping = yard.scribe(), threading.Event()
    story(scribe)
    bad = msgspec.structs.replace(SOURCES, fold=too_large)
    with running(runner_of(yard, stopping, bad, COMMANDS), stopping=stopping):
        eventually(at(yard, 6), "the lane folded")
    assert names(yard) == {"mic": "mic", "tower": "other"}
    assert parked_in(yard) == [("sources", 3, "parked", 1)]
