"""Reading what one has just caused: `after=LANE:SEQ`, and who waits for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
from hypothesis import given
from hypothesis import strategies as st
from litestar import Litestar
from litestar.testing import TestClient
from sqlalchemy import Connection

from projections.after import LONGEST_WAIT, After, Malformed, NotFolded, parse, waiting
from projections.http import ReadSide
from projections.parameters import AT_ONCE, Waiters
from projections.reads import Away, Reads
from tests.fix_projections import LANE, Yard
from tests.fix_servers import eventually
from tests.fix_web import Web


@pytest.fixture
def side(yard: Yard) -> Iterator[ReadSide]:
    """The read side of the station, in this process."""
    made = ReadSide(yard.settings)
    yield made
    made.close()


@pytest.fixture
def client(side: ReadSide) -> Iterator[TestClient[Litestar]]:
    """Somebody who asks it over HTTP."""
    with TestClient(Litestar(side.routes, openapi_config=None)) as asking:
        yield asking


def test_a_read_waits_until_its_event_is_folded(yard: Yard, client: TestClient[Litestar]) -> None:
    """A source that was added a moment ago is in the list that is asked for after its event."""
    scribe = yard.scribe()
    scribe.add("mic")
    yard.beat()
    paths = ("/api/audio/sources", "/api/audio/sources/late", "/api/audio/health/dashboard")
    with yard.projections():
        eventually(lambda: client.get("/api/audio/sources").json().get("data"), "the first source")
        with ThreadPoolExecutor(len(paths)) as threads:
            # Seq 1 is mic; the event that is waited for is not written yet.
            asked = [
                threads.submit(client.get, path, params={"after": f"{LANE}:2", "wait": 20}) for path in paths
            ]
            time.sleep(0.3)  # the reads are under way, and nothing can have answered them
            assert not any(one.done() for one in asked)
            scribe.add("late")
            answers = [one.result(timeout=20) for one in asked]
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    listed, shown, dashboard = (answer.json()["data"] for answer in answers)
    assert [view["id"] for view in listed] == ["late", "mic"]
    assert shown["id"] == "late"
    assert [health["id"] for health in dashboard["sources"]] == ["late", "mic"]


def test_what_is_not_folded_in_time_is_504(yard: Yard, client: TestClient[Litestar]) -> None:
    """It says how far the lane is and when to ask again; it never answers with what is older."""
    yard.scribe().add("mic")
    with yard.projections():
        eventually(lambda: client.get("/api/audio/sources").json().get("data"), "the source")
        for path in ("/api/audio/sources", "/api/commands", "/api/commands/c-1", "/api/audio/health/metrics"):
            began = time.monotonic()
            late = client.get(path, params={"after": f"{LANE}:2", "wait": 0.2})
            assert time.monotonic() - began < 5
            assert late.status_code == 504, path
            assert late.headers["retry-after"] == "1"
            assert late.json()["reason"] == "not_folded_yet"
            assert "folded up to 1" in late.json()["message"]
        nowhere = client.get("/api/audio/sources", params={"after": "p9:1", "wait": 0})
        assert (nowhere.status_code, nowhere.json()["field"]) == (504, "after")


def test_only_so_many_wait_at_once() -> None:
    """One more than there are places is told to come back; a place that is left is free again."""
    waiters = Waiters()
    inside = [waiters.asked(f"{LANE}:{seq}", 5) for seq in range(1, AT_ONCE + 1)]
    for one in inside:
        assert one.__enter__() is not None
    with pytest.raises(Away, match="ask again"), waiters.asked(f"{LANE}:1", 5):
        pass
    with waiters.asked(None, 5) as nothing:
        assert nothing is None, "whoever does not wait needs no place"
    inside[0].__exit__(None, None, None)
    with waiters.asked(f"{LANE}:1", 5) as after:
        assert after == After(LANE, 1, 5)


@given(st.text(max_size=80))
def test_whatever_is_asked_for_is_understood_or_refused(text: str) -> None:
    """LANE:SEQ is taken apart; anything else is malformed, and says of which parameter."""
    field, understood = "", ""
    try:
        after = parse(text)
    except Malformed as error:
        field = error.field
    else:
        understood = f"{after.lane}:{text.rpartition(':')[2]}"
        assert after.seq >= 0
    assert (field, understood) in (("after", ""), ("", text))


@pytest.mark.parametrize(
    "text", ["p0", "p0:", ":1", "p0:-1", "p0:1\n", "node.A:1", "p0:1:2", "p0: 1", "x0:1"]
)
def test_what_is_no_event_is_malformed(text: str) -> None:
    """Near misses are refused too."""
    with pytest.raises(Malformed, match="not LANE:SEQ"):
        parse(text)


def test_who_stops_lets_nobody_wait(yard: Yard) -> None:
    """A wait of half a minute ends as soon as the process stops: it would be killed meanwhile."""
    reads = Reads(yard.settings)
    yard.scribe().add("mic")
    failed: list[Exception] = []

    def ask() -> None:
        try:
            reads.sources(After(LANE, 99, LONGEST_WAIT))
        except Exception as error:
            failed.append(error)

    with yard.projections():
        eventually(lambda: reads.sources().data, "the source")
        asking = threading.Thread(target=ask)
        asking.start()
        time.sleep(0.3)  # it waits by now; were it not so, the test would only be easier
        assert asking.is_alive()
        began = time.monotonic()
        reads.stop()
        asking.join(10)
        assert time.monotonic() - began < 2
    assert isinstance(failed[0], NotFolded)
    reads.close()


def test_a_web_process_stops_though_somebody_waits(web: Web) -> None:
    """SIGTERM ends the process within its 10 s while a read waits for an event that does not come."""
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(
            web.client.get, "/api/audio/sources", params={"after": "p0:99", "wait": LONGEST_WAIT}
        )
        time.sleep(0.5)  # the request is on its way; an earlier SIGTERM would be easier
        began = time.monotonic()
        web.process.terminate()
        web.process.wait(8)
        assert time.monotonic() - began < 5
        assert asked.exception(timeout=10) is not None or asked.result().status_code in (503, 504)


def test_nobody_waits_beyond_the_time() -> None:
    """A time that is no number ends the wait as well."""
    asked = []

    def read(ask: Callable[[Connection], int]) -> int:
        asked.append(time.monotonic())
        raise NotFolded(After("p0", 1), None)

    for within in (0.0, float("nan"), -1.0):
        with pytest.raises(NotFolded, match="is not followed"):
            waiting(read, lambda connection: 1, After("p0", 1, within), Event())
    assert len(asked) == 3
