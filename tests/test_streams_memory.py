"""Memory is never ahead of the log: where the log is another one, or takes no result, it is folded again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from streams.admission import Task
from streams.connection import Unreachable
from streams.drafts import Draft
from streams.messages import Durability, Logged
from tests.fix_owner import answer_of
from tests.fix_servers import eventually
from tests.fix_streams import Functions, Hall, Remembering, Scripted, chain, insist, working


def write_elsewhere(hall: Hall, functions: Functions, meanwhile: Callable[[], None] = lambda: None) -> None:
    """Somebody else takes the lane, logs that `kwfm` runs, and is gone."""
    hall.link.call("DEL", hall.keys.lease)
    thief = functions.acquire("thief")
    meanwhile()
    head = hall.events()[-1]
    (raw,) = chain(1, token=thief.token, first=head.event.seq + 1, prev=head.hash)
    assert functions.append(thief, [raw], seq=head.event.seq, hash=head.hash) == [b"ok"]
    hall.link.call("DEL", hall.keys.lease)


def is_logged(hall: Hall, source: str) -> bool:
    return source in {logged.event.source for logged in hall.events()}


def test_a_log_that_changed_underneath_is_folded_again(hall: Hall, functions: Functions) -> None:
    """When somebody else wrote meanwhile, the handler gets the whole log anew, and what it posted
    before, on the strength of the old one, is not written on top.
    """
    handler = Scripted()
    with working(hall, handler):
        answer_of(hall, hall.command())
        assert handler.post is not None
        post = handler.post
        stale = Draft(type="source.running", data={}, source="stale")
        write_elsewhere(hall, functions, lambda: post(stale))
        eventually(lambda: handler.begun == 2, "the lane acquired again")
        assert answer_of(hall, hall.command()).outcome == "completed"
    assert [logged.event.type for logged in handler.restored[-1]][-1] == "source.running"
    assert not is_logged(hall, "stale")
    assert hall.verdict().fault is None


class Failing(Scripted):
    """A handler whose second folding fails, after it posted what rests on what it remembers."""

    def __init__(self, hall: Hall) -> None:
        super().__init__()
        self._hall = hall
        self.posted_late = False

    def restore(self, events: Iterator[Logged], known: bytes = b"") -> None:
        super().restore(events, known)
        if len(self.restored) != 2 or self.post is None:
            return
        self.post(Draft(type="source.running", data={}, source="stale"))
        # As long as others would take to write it.
        until = time.monotonic() + 0.5
        while not is_logged(self._hall, "stale") and time.monotonic() < until:
            time.sleep(0.05)
        self.posted_late = True
        raise Unreachable("once", sent=False)


def test_a_log_that_changed_is_folded_again_though_something_failed_in_between(
    hall: Hall, functions: Functions
) -> None:
    """However often the lane is taken until the log is folded, nothing posted before stands on top of it."""
    handler = Failing(hall)
    with working(hall, handler):
        answer_of(hall, hall.command())
        write_elsewhere(hall, functions)
        eventually(lambda: handler.begun == 2, "the lane acquired again")
        assert handler.posted_late
        assert answer_of(hall, hall.command()).outcome == "completed"
    assert [logged.event.type for logged in handler.restored[2]][-1] == "source.running"
    assert not is_logged(hall, "stale")
    assert hall.verdict().fault is None


@pytest.mark.parametrize("durability", ["memory", "replica"])
def test_what_the_log_does_not_take_is_not_remembered(hall: Hall, durability: Durability) -> None:
    """What was lost while it was carried out has no effect; submitted again, it has its own."""
    other = hall.new_link("failover")

    def lose(task: Task) -> None:
        if task.command.id not in lost:
            lost.append(task.command.id)
            other.batch(
                [
                    ("XACK", hall.keys.commands, "ingest", task.delivery.entry),
                    ("XDEL", hall.keys.commands, task.delivery.entry),
                    ("HDEL", hall.keys.ids, task.command.id),
                ]
            )

    lost: list[str] = []
    handler = Remembering(lose)
    with working(hall, handler):
        command = hall.command("source.update", "kwfm", durability=durability)
        assert insist(hall.submitter(), command).outcome == "completed"
    mine = [one.event.type for one in hall.events() if one.event.command == command.command.id]
    assert mine == ["source.added", "command.completed"]
    assert lost == [command.command.id]
    assert len(handler.restored) == 2
