"""Rejections in the log: each of a few is told, of a flood only how many there were."""

from __future__ import annotations

import time

import msgspec

from streams import rejections
from streams.admission import Refusal
from streams.messages import Command, now
from streams.rejections import BURST, EVERY, Rejections
from streams.settling import KEPT_OF_UNSIGNED
from streams.submit import Signed
from tests.fix_servers import eventually
from tests.fix_streams import Hall, Scripted, working

FLOOD = 3000


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def refusal(reason: str, command: Command | None = None) -> Refusal:
    return Refusal(outcome="rejected", reason=reason, command=command)


def test_an_allowance_is_for_each_key_and_one_for_strangers(hall: Hall) -> None:
    """Who signs well is charged alone; what is not signed is charged to nobody, whatever key it names."""
    clock = Clock()
    lane = Rejections(clock)
    mine = hall.command().command
    forged = refusal("bad_signature", mine)
    assert [lane.tells(forged) for _ in range(BURST + 1)] == [True] * BURST + [False]
    assert not lane.tells(refusal("malformed"))
    assert lane.tells(refusal("unauthorised", mine))
    clock.now += EVERY
    assert [lane.tells(forged) for _ in range(2)] == [True, False]
    parked = Refusal(outcome="failed", reason="parked", command=mine)
    assert all(lane.tells(parked) for _ in range(2 * BURST))


def test_a_flood_is_answered_and_does_not_fill_the_log(hall: Hall) -> None:
    """Of 3,000 unsigned commands each gets its rejection; the log grows by some dozens of events."""
    submitter, handler = hall.submitter(), Scripted()
    forged = [Signed(one.command, one.raw, "") for one in (hall.command() for _ in range(FLOOD))]
    with working(hall, handler):
        before = len(hall.events())
        begun = time.monotonic()
        submitter.accept_all(forged, timeout=20)
        answers = {}
        deadline = time.monotonic() + 30
        while len(answers) < FLOOD and time.monotonic() < deadline:
            answers |= {answer.id: answer for answer in submitter.receive(1.0)}
        took = time.monotonic() - begun
        assert hall.submitter().submit(hall.command(), timeout=20).outcome == "completed"
    assert {(answer.outcome, answer.reason) for answer in answers.values()} == {("rejected", "unsigned")}
    assert len(answers) == FLOOD
    told = [logged.event for logged in hall.events()][before:]
    single = [event for event in told if event.type == "command.rejected"]
    counted = {event.seq: event for event in told if event.type == "rejections.counted"}
    assert BURST <= len(single) <= BURST + took / EVERY + 1
    assert len(counted) <= FLOOD / rejections.MOST + took / rejections.SPAN + 1
    assert len(single) + sum(event.data["count"] for event in counted.values()) == FLOOD
    assert {answer.seq for answer in answers.values()} == {event.seq for event in single} | set(counted)
    assert all(event.data["reasons"] == {"unsigned": event.data["count"]} for event in counted.values())
    assert (hall.verdict().fault, hall.waiting()) == (None, 0)


def test_the_owner_that_dies_in_a_flood_leaves_nothing_unanswered(hall: Hall) -> None:
    """What waited to be counted is rejected by the next owner, and only what was answered is forgotten."""
    forged = [Signed(one.command, one.raw, "") for one in (hall.command() for _ in range(BURST + 40))]
    submitter = hall.submitter()
    with working(hall, Scripted()):
        submitter.accept_all(forged, timeout=20)
        eventually(lambda: len(hall.events()) >= BURST, "the first are told")
        # It is stopped while the rest wait, and settles them as it leaves.
    assert hall.waiting() == 0
    again = [hall.submitter().accept(one, timeout=5) for one in forged]
    assert {answer and answer.outcome for answer in again} == {"rejected"}


def test_large_bytes_that_are_nobodys_are_not_kept_whole(hall: Hall) -> None:
    """Of what is not signed the log keeps the beginning, whatever its size."""
    one = hall.command(params={"text": "x" * 40_000})
    with working(hall, Scripted()):
        assert hall.submitter().submit(Signed(one.command, one.raw, ""), timeout=20).reason == "unsigned"
    (event,) = [logged.event for logged in hall.events() if logged.event.type == "command.rejected"]
    assert len(event.data["request"]) == KEPT_OF_UNSIGNED
    assert hall.verdict().fault is None


def test_an_answer_names_the_lane_and_time_of_its_count(hall: Hall) -> None:
    """The event of counted rejections says since when, until when, why, and which keys were named."""
    clock = Clock()
    lane = Rejections(clock)
    made = hall.command().command
    stolen = msgspec.structs.replace(made, key="stolen")
    at = now()
    for command in (made, stolen):
        lane.count(refusal("bad_signature", command), None, at)  # type: ignore[arg-type]
    assert lane.due() is None
    clock.now += rejections.SPAN
    counted = lane.due()
    assert counted is not None
    assert counted.draft.data["keys"] == (made.key, "stolen")
    assert counted.draft.data["reasons"] == {"bad_signature": 2}
    assert lane.due() is None
