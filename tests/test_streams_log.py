"""Writing a lane's log: one append for what was posted, once, whatever is lost on the way."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import msgspec
import pytest

from streams.connection import Unreachable
from streams.drafts import Draft, NotTaken, Settlement
from streams.durability import Prover, highest
from streams.lease import Lease, LeaseLost
from streams.log import LaneLog
from streams.messages import GENESIS, Answer, now
from streams.names import StationKeys
from tests.fix_streams import LANE, Functions, Hall, Wire


class Owner:
    """The owner of the hall's lane, with its log in hand, reaching the server over the wire."""

    def __init__(self, hall: Hall, functions: Functions, wire: Wire) -> None:
        self.hall = hall
        self.functions = functions
        self.link = hall.new_link("log", wire.redis)
        self.log = LaneLog(
            self.link, StationKeys(hall.settings.station.id), LANE, "one", Prover(wire.redis), "memory"
        )
        self.lease = functions.acquire("one")
        assert self.log.take(self.lease)

    def take_again(self) -> bool:
        """Acquire anew, as the owner does after an interruption."""
        self.lease = self.functions.acquire("one", before=self.lease.fence)
        return self.log.take(self.lease)

    def command(self, id: str) -> Settlement:
        """A command that was submitted and taken, and what settles it."""
        entry = self.functions.submit(id, client="me")[2].decode()
        self.functions.take(self.lease.fence)
        answer = Answer(id=id, lane=LANE, outcome="completed", sequence=1, seq=0)
        forget_at = now() + timedelta(minutes=11)
        return Settlement(entry=entry, answer=answer, client="me", durability="memory", forget_at=forget_at)

    def settle(self, settlement: Settlement) -> None:
        data = {
            "type": "source.start",
            "sequence": 1,
            "request": "{}",
            "signature": "",
            "entry": settlement.entry,
        }
        result = Draft(type="command.completed", command=settlement.answer.id, source="kwfm", data=data)
        self.log.settle((result,), settlement)

    def types(self) -> list[str]:
        return [logged.event.type for logged in self.hall.events()]


@pytest.fixture
def owner(hall: Hall, functions: Functions, wire: Wire) -> Iterator[Owner]:
    made = Owner(hall, functions, wire)
    yield made
    assert hall.verdict().fault is None
    made.log.close()


def note(text: str) -> Draft:
    return Draft(type="source.running", source="kwfm", data={"reason": text})


def test_what_was_posted_is_written_in_one_append(owner: Owner) -> None:
    """Nothing is written before the flush; then everything, in order, under the lease's token."""
    for text in "abc":
        owner.log.post(note(text))
    assert owner.types() == []
    owner.log.flush()
    events = [logged.event for logged in owner.hall.events()]
    assert [event.data["reason"] for event in events] == ["a", "b", "c"]
    assert {event.token for event in events} == {owner.lease.token}
    assert len({event.logged_at for event in events}) == 1
    assert (owner.log.seq, owner.log.hash) == (3, owner.hall.events()[-1].hash)


def test_an_event_keeps_the_time_when_it_happened(owner: Owner) -> None:
    """`at` is the fact's own time where it is given; `logged_at` is when it was written."""
    then = now() - timedelta(hours=1)
    owner.log.post(msgspec.structs.replace(note("late"), at=then))
    owner.log.post(note("now"))
    owner.log.flush()
    late, prompt = (logged.event for logged in owner.hall.events())
    assert late.at == then
    assert late.logged_at > then
    assert prompt.at == prompt.logged_at


def test_many_threads_post_and_flush_at_once(owner: Owner) -> None:
    """Each event gets its own place, none is lost, and the chain holds."""
    ready = threading.Barrier(8)

    def post(who: int) -> None:
        ready.wait(10)
        for n in range(50):
            owner.log.post(note(f"{who}-{n}"))
            owner.log.flush()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(post, range(8)))
    texts = [logged.event.data["reason"] for logged in owner.hall.events()]
    assert sorted(texts) == sorted(f"{who}-{n}" for who in range(8) for n in range(50))
    for who in range(8):
        assert [text for text in texts if text.startswith(f"{who}-")] == [f"{who}-{n}" for n in range(50)]


def test_a_settled_command_gets_its_answer_and_its_reply(owner: Owner) -> None:
    """The answer names the seq of its result; it stands in the mark and in the client's replies."""
    owner.log.post(note("before"))
    settlement = owner.command("id-1")
    owner.settle(settlement)
    assert owner.log.unwritten() == {settlement.entry}
    owner.log.flush()
    assert owner.log.unwritten() == set()
    link = owner.hall.link
    ((_, fields),) = link.call("XRANGE", owner.hall.station.replies("me"), "-", "+")
    answer = msgspec.json.decode(fields[1], type=Answer)
    assert (fields[0], answer.id, answer.seq) == (b"a", "id-1", 2)
    assert owner.functions.submit("id-1")[1].split(b" ", 3)[3] == fields[1]


def test_a_result_that_is_not_taken_lets_nothing_be_written_until_the_log_is_folded(owner: Owner) -> None:
    """Where a command is not open any more, memory says what no log does: what rests on it is discarded."""
    first, second, third = (owner.command(f"id-{n}") for n in range(3))
    owner.settle(second)
    owner.log.flush()
    for settlement in (first, second, third):
        owner.settle(settlement)
    with pytest.raises(NotTaken, match="id-1"):
        owner.log.flush()
    owner.log.flush()
    assert not owner.take_again()
    owner.log.flush()
    assert [logged.event.command for logged in owner.hall.events()] == ["id-1"]
    assert owner.log.unwritten() == {settlement.entry for settlement in (first, second, third)}
    owner.log.discard()
    assert owner.take_again()
    owner.log.post(note("after"))
    owner.settle(first)
    owner.log.flush()
    assert [logged.event.command for logged in owner.hall.events()] == ["id-1", None, "id-0"]


@pytest.mark.parametrize("what", ["request", "reply"])
def test_an_interrupted_append_is_made_once(owner: Owner, wire: Wire, what: str) -> None:
    """Whether the append or only its answer was lost, the head tells: it stands once, and is replied to."""
    owner.log.post(note("a"))
    owner.settle(owner.command("id-1"))
    wire.lose("tocsin_append", what)  # type: ignore[arg-type]
    with pytest.raises(Unreachable):
        owner.log.flush()
    with pytest.raises(LeaseLost, match="interrupted"):
        owner.log.flush()
    owner.log.post(note("b"))
    assert owner.take_again()
    owner.log.flush()
    assert owner.types() == ["source.running", "command.completed", "source.running"]
    assert owner.hall.link.call("XLEN", owner.hall.station.replies("me")) == 1
    assert owner.log.unwritten() == set()


def test_an_append_that_lost_to_another_owner_is_told(owner: Owner) -> None:
    """With a stale lease nothing is written; what was posted is kept until the lane is ours again."""
    owner.log.post(note("a"))
    other = owner.functions.acquire("two", before=owner.lease.fence)
    with pytest.raises(LeaseLost):
        owner.log.flush()
    assert owner.types() == []
    owner.lease = other
    assert owner.take_again()
    owner.log.flush()
    assert owner.types() == ["source.running"]


def test_a_log_that_went_on_elsewhere_is_not_taken_for_ones_own(owner: Owner, hall: Hall) -> None:
    """Where the head is not where this owner left it, it is told to fold the log again."""
    owner.log.post(note("a"))
    owner.log.flush()
    other = LaneLog(hall.new_link(), hall.station, LANE, "two", Prover(hall.settings.redis), "memory")
    owner.lease = owner.functions.acquire("two", before=owner.lease.fence)
    assert not other.take(owner.lease)
    other.discard()
    other.post(note("b"))
    other.flush()
    assert not owner.take_again()
    owner.log.discard()
    owner.log.post(note("c"))
    owner.log.flush()
    assert [logged.event.data["reason"] for logged in hall.events()] == ["a", "b", "c"]
    assert [logged.event.node for logged in hall.events()] == ["one", "two", "one"]


def test_an_expired_lease_is_not_written_under(owner: Owner) -> None:
    """By the owner's own clock its time is over: it does not even ask the server."""
    owner.log.post(note("a"))
    owner.log.extend(msgspec.structs.replace(owner.lease, until=0.0))
    with pytest.raises(LeaseLost, match="no valid lease"):
        owner.log.flush()
    assert owner.types() == []
    owner.log.extend(owner.lease)
    owner.log.flush()
    assert owner.types() == ["source.running"]


def test_what_was_dropped_is_never_written(owner: Owner) -> None:
    """When the lane is another's, what was meant for it is forgotten: its commands are pending there."""
    owner.log.post(note("a"))
    owner.settle(owner.command("id-1"))
    owner.log.drop()
    assert owner.take_again()
    owner.log.flush()
    assert owner.types() == []
    assert owner.hall.waiting() == 1


def test_data_that_json_cannot_hold_is_refused_at_once(owner: Owner) -> None:
    """Whoever posts it is told; it does not stand in the way of what others post."""
    with pytest.raises(TypeError):
        owner.log.post(Draft(type="source.running", data={"level": object()}))
    owner.log.post(note("a"))
    owner.log.flush()
    assert owner.types() == ["source.running"]


def test_the_watermark_follows_each_append(owner: Owner) -> None:
    """At durability memory readers see an event as soon as it stands."""
    for seq in range(1, 4):
        owner.log.post(note("a"))
        owner.log.flush()
        assert len(owner.functions.tail()[2]) == seq


def test_a_proven_head_is_shown(owner: Owner) -> None:
    """On a new primary the watermark is raised to the head once that is proven, before anything is added."""
    owner.log.prove_head()
    owner.log.post(note("a"))
    owner.log.flush()
    owner.hall.link.call("HSET", owner.hall.keys.head, "wm_replid", "0" * 40)
    assert owner.functions.tail()[2] == []
    assert owner.take_again()
    owner.log.prove_head()
    assert len(owner.functions.tail()[2]) == 1


def test_a_log_begins_at_genesis(hall: Hall) -> None:
    """A lane that was never written has seq 0 and the hash of nothing."""
    log = LaneLog(hall.new_link(), hall.station, LANE, "one", Prover(hall.settings.redis), "memory")
    assert (log.seq, log.hash) == (0, GENESIS)
    lease = Lease(fence="x 1 y", token=1, head_seq=0, head_hash=GENESIS, until=0.0)
    assert log.take(lease)


def test_the_highest_durability_holds_for_all() -> None:
    """What goes out together waits for the most demanding of its commands."""
    assert highest(["memory"]) == "memory"
    assert highest(["memory", "replica", "memory"]) == "replica"
    assert highest(["disk", "replica"]) == "disk"


def test_a_flush_ends_while_others_go_on_posting(owner: Owner) -> None:
    """Whoever flushes writes what was posted before, and is not kept by what is posted meanwhile.

    The lane's own thread was: it came back to its lease too late.
    """
    posted, stop = threading.Event(), threading.Event()

    def post() -> None:
        until = time.monotonic() + 30
        while not stop.is_set() and time.monotonic() < until:
            for _ in range(200):  # far more than is written meanwhile
                owner.log.post(note("meanwhile"))
            posted.set()
            time.sleep(0.002)  # or the interpreter leaves the one that flushes no turn

    poster = threading.Thread(target=post)
    poster.start()
    try:
        posted.wait(10)
        owner.log.flush()
        assert poster.is_alive()
    finally:
        stop.set()
        poster.join(20)
    owner.log.flush()
    assert not owner.log.behind
