"""Submitting commands and learning what became of them."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest

from streams.connection import Unreachable
from streams.handler import Result
from streams.messages import MAX_COMMAND_BYTES, canonical
from streams.submit import InDoubt, NoAnswer, Refused, Signed
from tests.fix_servers import needs_waitaof
from tests.fix_streams import DONE, Hall, Scripted, working
from tests.test_streams_connection import kill_clients


def test_the_submitter_gets_the_real_outcome(hall: Hall) -> None:
    """What the handler said is what the submitter is told, with the seq of the result in the log."""
    result = Result(
        outcome="failed", reason="no_signal", field="source", detail="the antenna is off", state="failed"
    )
    with working(hall, Scripted(lambda task: result)):
        answer = hall.submitter().submit(hall.command())
    logged = hall.events()[answer.seq - 1]
    assert (answer.outcome, answer.reason, answer.field) == ("failed", "no_signal", "source")
    assert (answer.detail, answer.state, answer.sequence) == ("the antenna is off", "failed", 1)
    assert (logged.event.type, logged.event.command) == ("command.failed", answer.id)


def test_the_same_command_again_gets_the_first_answer(hall: Hall) -> None:
    """Sending it again, to the same or another owner, adds nothing and executes nothing."""
    handler = Scripted()
    command = hall.command()
    with working(hall, handler):
        first = hall.submitter().submit(command)
    log = hall.events()
    assert hall.submitter().submit(command) == first
    assert hall.events() == log
    assert len(handler.executed) == 1


def test_many_at_once_in_order(hall: Hall) -> None:
    """Many in one round trip: each accepted in the order given, refused by itself, answered as it ends."""
    commands = [hall.command(source=f"s{index % 3}") for index in range(30)]
    again = hall.command(id=commands[0].command.id, type="source.stop")
    submitter = hall.submitter()
    accepted = submitter.accept_all([*commands, again], timeout=5)
    assert accepted[:30] == [None] * 30
    assert isinstance(accepted[30], Refused)
    assert accepted[30].reason == "conflict"
    answers = []
    with working(hall, Scripted()):
        while len(answers) < 30:
            received = submitter.receive(5)
            assert received, "answers are missing"
            answers += received
    assert {answer.id for answer in answers} == {one.command.id for one in commands}
    assert submitter.accept_all(commands, timeout=5) == [
        next(answer for answer in answers if answer.id == one.command.id) for one in commands
    ]
    for source in ("s0", "s1", "s2"):
        mine = [one.command.id for one in commands if one.command.source == source]
        by_sequence = sorted((answer.sequence, answer.id) for answer in answers if answer.id in mine)
        assert [id for _, id in by_sequence] == mine


def test_ten_at_once_are_one(hall: Hall) -> None:
    """Ten threads submit the same command: one entry, one execution, one result, ten equal answers."""
    handler = Scripted()
    command = hall.command()
    ready = threading.Barrier(10)

    def submit() -> object:
        submitter = hall.submitter()
        ready.wait(10)
        return submitter.submit(command)

    with working(hall, handler), ThreadPoolExecutor(10) as pool:
        answers = {canonical(answer) for answer in pool.map(lambda _: submit(), range(10))}
    assert len(answers) == 1
    assert len(handler.executed) == 1
    assert hall.results() == {command.command.id: ["completed"]}
    assert int(hall.link.call("HGET", hall.keys.sequence, "kwfm")) == 1


def test_ten_at_once_without_an_owner_are_one_entry(hall: Hall) -> None:
    """Before anybody executes it, too, the command stands in the lane once."""
    command = hall.command()
    with ThreadPoolExecutor(10) as pool:
        list(pool.map(lambda _: hall.submitter().accept(command, timeout=5), range(10)))
    assert hall.waiting() == 1


def test_other_bytes_under_the_same_id_are_a_conflict(hall: Hall) -> None:
    """An id stands for one command; another one under it is refused and changes nothing."""
    command = hall.command()
    hall.submitter().accept(command, timeout=5)
    before = hall.dump()
    other = hall.command(type="source.stop", id=command.command.id)
    with pytest.raises(Refused) as caught:
        hall.submitter().submit(other)
    assert (caught.value.reason, caught.value.field) == ("conflict", "id")
    assert hall.dump() == before


def test_if_sequence_lets_only_the_faster_of_two_through(hall: Hall) -> None:
    """Two who decided on the same state: the second is told, and nothing of it is added."""
    first, second = (hall.command(if_sequence=0) for _ in range(2))
    hall.submitter().accept(first, timeout=5)
    with pytest.raises(Refused, match="sequence 1, not 0") as caught:
        hall.submitter().submit(second)
    assert (caught.value.reason, caught.value.field) == ("sequence", "if_sequence")
    assert hall.waiting() == 1
    hall.submitter().accept(hall.command(if_sequence=1), timeout=5)
    assert hall.submitter().accept(first, timeout=5) is None


def test_without_an_owner_there_is_honestly_no_answer_yet(hall: Hall) -> None:
    """After its time the submitter is told the id to ask again by; later the same id has its answer."""
    command = hall.command()
    submitter = hall.submitter()
    began = time.monotonic()
    with pytest.raises(NoAnswer) as caught:
        submitter.submit(command, timeout=0.3)
    assert caught.value.id == command.command.id
    assert 0.25 < time.monotonic() - began < 3
    with working(hall, Scripted()):
        assert submitter.submit(command).outcome == "completed"


def test_a_lost_reply_is_got_by_asking_again(hall: Hall) -> None:
    """The reply stream only wakes the submitter: with it gone, the answer comes from the id's mark."""
    release = threading.Event()
    command = hall.command()

    def play(task: object) -> Result:
        assert release.wait(10)
        return DONE

    submitter = hall.submitter()
    with working(hall, Scripted(play)), ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(submitter.submit, command)
        key = hall.station.replies(submitter._replies)
        # A key of another type cannot take the reply: it is lost, and the lane must go on all the same.
        hall.link.call("SET", key, "in the way", "EX", 60)
        release.set()
        assert waiting.result(20).outcome == "completed"
        hall.link.call("DEL", key)
        assert submitter.submit(hall.command(source="other")).outcome == "completed"
    assert hall.verdict().fault is None


def test_a_lost_reply_does_not_keep_the_submitter_waiting(hall: Hall) -> None:
    """Whose reply was deleted while it waited asks the lane itself, within its time."""
    took = threading.Event()
    release = threading.Event()

    def play(task: object) -> Result:
        took.set()
        assert release.wait(10)
        return DONE

    command = hall.command()
    anonymous = hall.submitter()
    with working(hall, Scripted(play)), ThreadPoolExecutor(1) as pool:
        anonymous._replies = "nobody"
        assert anonymous.accept(command, timeout=5) is None
        assert took.wait(10)
        # The reply goes to "nobody"; this submitter waits for one of its own.
        waiting = pool.submit(hall.submitter().submit, command)
        release.set()
        assert waiting.result(10).outcome == "completed"


def test_replies_go_away_by_themselves(hall: Hall) -> None:
    """A client's replies have a time to live: a submitter that left leaves nothing for ever."""
    submitter = hall.submitter()
    with working(hall, Scripted()):
        submitter.submit(hall.command())
    assert 0 < hall.link.call("TTL", hall.station.replies(submitter._replies)) <= 120


def test_a_command_that_is_too_large_is_refused_before_it_is_sent(hall: Hall) -> None:
    """Its size is told; nothing reaches the lane."""
    with pytest.raises(Refused, match=str(MAX_COMMAND_BYTES)) as caught:
        hall.submitter().submit(hall.command(params={"a": "x" * MAX_COMMAND_BYTES}))
    assert caught.value.reason == "too_large"
    assert hall.own_keys() == set()


def test_a_durability_that_is_not_offered_is_refused_before_it_is_sent(hall: Hall) -> None:
    """`archive` comes later: who wants it is told, and nothing is submitted."""
    with pytest.raises(Refused) as caught:
        hall.submitter().submit(hall.command(durability="archive"))
    assert (caught.value.reason, caught.value.field) == ("durability", "durability")
    assert hall.own_keys() == set()


@needs_waitaof
def test_disk_without_an_append_only_file_is_refused_before_it_is_sent(hall: Hall) -> None:
    """Where no disk can be waited for, the command is not accepted first and disowned afterwards."""
    hall.link.call("CONFIG", "SET", "appendonly", "no")
    try:
        with pytest.raises(Refused, match="appendonly") as caught:
            hall.submitter().submit(hall.command(durability="disk"))
        assert caught.value.reason == "durability"
        assert hall.own_keys() == set()
    finally:
        hall.link.call("CONFIG", "SET", "appendonly", "yes")


def test_a_command_of_an_unloaded_library_says_what_to_do(hall: Hall) -> None:
    """Without the server-side functions nothing is submitted, and the message says how to get them."""
    submitter = hall.submitter()
    hall.link.call("FUNCTION", "DELETE", "tocsin")
    with pytest.raises(Unreachable, match="tocsin access load") as caught:
        submitter.submit(hall.command())
    assert not caught.value.sent


def test_many_are_submitted_in_one_round_trip_and_answered_as_they_end(hall: Hall) -> None:
    """Each of a batch has its own fate: accepted, refused for its own reason, or answered already."""
    submitter = hall.submitter()
    with working(hall, Scripted()):
        done = hall.command(source="done")
        first = submitter.submit(done)
        new = [hall.command(source=f"new-{n}") for n in range(20)]
        large = hall.command(params={"a": "x" * MAX_COMMAND_BYTES})
        other = hall.command(type="source.stop", id=done.command.id)
        accepted = submitter.accept_all([*new, done, large, other], timeout=5)
        assert accepted[:20] == [None] * 20
        assert accepted[20] == first
        assert [one.reason for one in accepted[21:] if isinstance(one, Refused)] == ["too_large", "conflict"]
        answers: set[str] = set()
        while len(answers) < 20:
            received = submitter.receive(5)
            assert received, answers
            answers |= {answer.id for answer in received}
    assert answers == {command.command.id for command in new}


def test_what_is_submitted_together_is_one_call_for_each_lane(hall: Hall) -> None:
    """However the lanes alternate; each command is told its own, and each source's are in their order."""

    def calls() -> int:
        return int(hall.link.call("INFO", "commandstats").split(b"cmdstat_fcall:calls=")[1].split(b",")[0])

    submitter = hall.submitter()
    commands = [hall.command(source=f"s{n % 2}", lane=f"p{n % 3}") for n in range(30)]
    other = hall.command(type="source.stop", id=commands[4].command.id, lane=commands[4].command.lane)
    submitter.accept(commands[0], timeout=5)
    before = calls()
    accepted = submitter.accept_all([*commands[:10], other, *commands[10:]], timeout=5)
    assert calls() - before == 3
    assert [at for at, one in enumerate(accepted) if one is not None] == [10]
    for lane in range(3):
        stream = hall.link.call("XRANGE", hall.station.lane(f"p{lane}").commands, "-", "+")
        ids = [dict(zip(fields[::2], fields[1::2], strict=True))[b"i"].decode() for _, fields in stream]
        assert ids == [one.command.id for one in commands if one.command.lane == f"p{lane}"]


def test_a_batch_of_which_one_met_an_error_is_in_doubt(hall: Hall) -> None:
    """Where the others may have been accepted it is not said that nothing was submitted."""
    broken = hall.station.lane("p1")
    hall.link.call("SET", broken.commands, "no stream")
    commands = [hall.command(), hall.command(lane="p1")]
    with pytest.raises(InDoubt):
        hall.submitter().accept_all(commands, timeout=5)
    assert hall.waiting() == 1
    with pytest.raises(Unreachable) as caught:
        hall.submitter().accept_all(commands[1:], timeout=5)
    assert not caught.value.sent


def test_a_connection_lost_while_submitting_leaves_doubt_and_the_id(hall: Hall) -> None:
    """Nobody knows whether it was accepted; the message says so, and sending the same again settles it."""
    submitter = hall.submitter()
    submitter.accept(hall.command(source="other"), timeout=5)
    command = hall.command()
    kill_clients(hall.link, "tocsin-submit")
    with pytest.raises(InDoubt, match="submitting the same id again is safe") as caught:
        submitter.submit(command)
    assert caught.value.id == command.command.id
    with working(hall, Scripted()):
        assert submitter.submit(command).outcome == "completed"


def test_a_connection_lost_while_waiting_only_delays_the_answer(hall: Hall) -> None:
    """Once accepted, the submitter comes back by itself and gets its answer."""
    release = threading.Event()
    began = threading.Event()

    def play(task: object) -> Result:
        began.set()
        assert release.wait(10)
        return DONE

    with working(hall, Scripted(play)), ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(hall.submitter().submit, hall.command())
        assert began.wait(10)
        kill_clients(hall.link, "tocsin-submit")
        release.set()
        assert waiting.result(10).outcome == "completed"


def test_a_signature_is_of_the_bytes_that_travel(hall: Hall) -> None:
    """What was altered after signing is rejected with its reason, executed by nobody, and logged."""
    handler = Scripted()
    command = hall.command()
    altered = command.raw.replace(b"source.start", b"source.stop_")
    with working(hall, handler):
        answer = hall.submitter().submit(Signed(command.command, altered, command.signature))
        unsigned = hall.command()
        bare = hall.submitter().submit(msgspec.structs.replace(unsigned, signature=""))
    assert (answer.outcome, answer.reason) == ("rejected", "bad_signature")
    assert (bare.outcome, bare.reason) == ("rejected", "unsigned")
    assert handler.executed == []
    assert hall.results() == {command.command.id: ["rejected"], unsigned.command.id: ["rejected"]}
