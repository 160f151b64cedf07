"""Take-overs that take longer than a lease lasts, and what is told of one that fails halfway."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

import pytest
from structlog.testing import capture_logs

from streams.drafts import Draft
from streams.healing import Repair, put_back
from streams.kept import Entry, Kept
from streams.lease import LeaseLost
from streams.messages import Event, Logged
from streams.tail import START, Position
from tests.fix_owner import answer_of
from tests.fix_servers import eventually
from tests.fix_streams import Functions, Hall, Scripted, working

FACTS = 120


@pytest.fixture(autouse=True)
def short_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.lease.LENGTH", 1.0)
    monkeypatch.setattr("streams.worker.RENEW", 0.2)


def written(hall: Hall, count: int = FACTS) -> list[Entry]:
    """A log with so many facts; what stands in it."""
    handler = Scripted()
    with working(hall, handler):
        assert handler.post is not None
        for n in range(count):
            handler.post(Draft(type="source.stalled", source="kwfm", data={"reason": str(n)}))
        answer_of(hall, hall.command())
    return [(logged.raw, logged.hash) for logged in hall.events()]


class Shelf:
    """An archive that holds these events, and takes its time over each."""

    def __init__(self, entries: list[Entry], seconds: float = 0.0) -> None:
        self._entries = entries
        self._seconds = seconds

    def head(self, lane: str) -> Position | None:
        return Position(len(self._entries), self._entries[-1][1])

    def after(self, lane: str, seq: int) -> Iterable[Entry]:
        for entry in self._entries[seq:]:
            time.sleep(self._seconds)
            yield entry

    def hash_at(self, lane: str, seq: int) -> str | None:
        return self._entries[seq - 1][1]


def acquirers(hall: Hall) -> list[str]:
    return [logged.event.node for logged in hall.events() if logged.event.type == "lane.acquired"]


class Slow(Scripted):
    """A handler that takes its time over each event of the log."""

    def restore(self, events: Iterator[Logged], known: bytes = b"") -> None:
        for _ in events:
            time.sleep(0.02)


def of_type(hall: Hall, type: str) -> list[Event]:
    return [logged.event for logged in hall.events() if logged.event.type == type]


def test_a_long_log_is_folded_by_one_owner(hall: Hall) -> None:
    """The lease is renewed while the log is read: a second node does not take the lane meanwhile."""
    written(hall)
    with working(hall, Slow(), node="first", wait=False) as first:
        eventually(lambda: hall.link.call("GET", hall.keys.lease), "the lease")
        with working(hall, Scripted(), node="second", wait=False) as second:
            assert first.owned.wait(20)
            assert answer_of(hall, hall.command()).outcome == "completed"
            assert not second.owned.is_set()
    assert acquirers(hall)[:2] == ["one", "first"]


def test_a_long_restoration_is_made_by_one_owner(hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lease is renewed while an archive is slow to give what the log lost."""
    monkeypatch.setattr("streams.healing.BATCH", 10)
    before = written(hall)
    hall.link.call("DEL", hall.keys.events, hall.keys.head)
    shelf = Shelf(before, 0.02)
    with working(hall, Scripted(), node="first", archive=shelf, wait=False) as first:
        eventually(lambda: hall.link.call("GET", hall.keys.lease), "the lease")
        with working(hall, Scripted(), node="second", archive=shelf, wait=False) as second:
            assert first.owned.wait(20)
            assert not second.owned.is_set()
            # The counter began anew with the lane: nobody has taken it but the first.
            assert hall.link.call("HGET", hall.keys.head, "tokens") == b"1"
    assert acquirers(hall)[:2] == ["one", "first"]
    (restored,) = of_type(hall, "log.restored")
    assert restored.data["restored"] == {"seq": len(before), "hash": before[-1][1]}
    assert hall.verdict().fault is None


def emptied(hall: Hall) -> None:
    hall.link.call("DEL", hall.keys.events, hall.keys.head, hall.keys.lease)


@pytest.mark.parametrize("by", ["owner", "archive"])
def test_a_restoration_whose_owner_died_before_it_told_is_told_by_the_next(
    hall: Hall, functions: Functions, by: str
) -> None:
    """All events were put back, and then came SIGKILL: that they were is said all the same, once."""
    before = written(hall, 3)
    emptied(hall)
    repair = Repair(link=hall.link, keys=hall.keys, lane=hall.lane, lease=functions.acquire("dead"))
    put_back(repair, START, before, by)
    hall.link.call("DEL", hall.keys.lease)
    for node in ("two", "three"):
        with working(hall, Scripted(), node=node, archive=Shelf(before)):
            assert answer_of(hall, hall.command()).outcome == "completed"
    (restored,) = of_type(hall, "log.restored")
    assert restored.seq == len(before) + 1
    assert restored.data == {
        "head": {"seq": 0, "hash": START.hash},
        "restored": {"seq": len(before), "hash": before[-1][1]},
        "by": by,
    }
    assert hall.verdict().fault is None


def test_a_restoration_that_was_cut_off_is_finished_and_told_once(
    hall: Hall, functions: Functions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease is lost after the first of many batches: the next owner finishes, and tells of all."""
    monkeypatch.setattr("streams.healing.BATCH", 10)
    before = written(hall, 40)
    emptied(hall)

    def lose() -> None:
        raise LeaseLost("by this test")

    lease = functions.acquire("dead")
    with pytest.raises(LeaseLost):
        put_back(
            Repair(link=hall.link, keys=hall.keys, lane=hall.lane, lease=lease, tend=lose),
            START, before, "archive",
        )  # fmt: skip
    assert int(hall.link.call("HGET", hall.keys.head, "seq")) == 10
    hall.link.call("DEL", hall.keys.lease)
    with working(hall, Scripted(), node="two", archive=Shelf(before)):
        answer_of(hall, hall.command())
    (restored,) = of_type(hall, "log.restored")
    assert (restored.data["head"]["seq"], restored.data["restored"]["seq"]) == (0, len(before))
    assert [(logged.raw, logged.hash) for logged in hall.events()][: len(before)] == before


def test_an_owner_says_what_nobody_can_put_back(hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an archive, and with more lost than its memory holds: the log says what is missing, once."""
    handler = Scripted()
    with working(hall, handler) as worker, capture_logs() as said:
        answer_of(hall, hall.command())
        dump = {key: hall.link.call("DUMP", key) for key in hall.own_keys()}
        for _ in range(4):
            answer_of(hall, hall.command())
        known = hall.events()[-1]
        worker._log._kept.clear()
        gone = [("DEL", key) for key in hall.own_keys()]
        back = [("RESTORE", key, 0, value) for key, value in dump.items()]
        hall.link.batch([("MULTI",), *gone, *back, ("DEL", hall.keys.lease), ("EXEC",)])
        hall.link.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        eventually(lambda: handler.begun > 1, "the lane acquired again")
        answer_of(hall, hall.command())
    (forked,) = of_type(hall, "log.forked")
    assert forked.data == {
        "head": {"seq": 2, "hash": hall.events()[1].hash},
        "other": {"seq": known.event.seq, "hash": known.hash},
        "lost": known.event.seq - 2,
    }
    assert "events lost" in [line["event"] for line in said if line["log_level"] == "error"]
    assert hall.verdict().fault is None


def test_what_is_kept_is_bounded_and_that_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest events go where too much is not archived; whoever looks after the station is told."""
    monkeypatch.setattr("streams.kept.MOST", 100 * 260)
    kept = Kept("p0")
    entries = [(b"%010d" % n, str(n)) for n in range(150)]
    with capture_logs() as said:
        for entry in entries:
            kept.extend([entry])
    assert list(kept) == entries[50:]
    assert [(line["log_level"], line["lane"]) for line in said] == [("error", "p0")]
    kept.forget(archived=140, head=150)
    assert list(kept) == entries[140:]
    with capture_logs() as said:
        kept.extend(entries)
    assert len(said) == 1
    kept.clear()
    assert list(kept) == []
