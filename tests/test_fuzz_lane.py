"""Forged commands through a lane, to a real owner: each is answered by why it is refused, none has an effect.

A fifth as many as `test_fuzz.py` makes, a part of them fuzzed as there: the others are valid commands with
one thing wrong about them. `TOCSIN_FUZZ_SEED` makes the same ones again, but for times, ids and keys.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

from redis.exceptions import ResponseError

from streams.admission import Task
from streams.handler import Result
from streams.messages import decode_answer, digest
from tests.fix_forged import CLIENT, COMPLETED, WAYS, Forged, Forger, Said
from tests.fix_owner import answer_of
from tests.fix_servers import eventually
from tests.fix_streams import Hall, Scripted, working
from tests.test_fuzz import COUNT, SEED, fuzzed

THROUGH_A_LANE = COUNT // 5
AT_ONCE = 500
"""Envelopes sent in one round trip."""
FUZZED = 0.25
"""The part of them that anything may be wrong about."""


class Both(Scripted):
    """Carries out the commands of some sources in the lane's own thread, those of others in theirs."""

    def attempt(self, task: Task) -> Result | None:
        return self.execute(task) if task.command.source[-1] in "0246" else None


def fuzzed_request(forger: Forger, chance: random.Random) -> tuple[list[Any], tuple[bytes, bytes] | None]:
    """A fuzzed envelope, by submit or past it; and its bytes and signature, where it may be carried out."""
    one = forger.valid()
    _, _, _, fields = fuzzed(chance, one, b"1-1")
    found = dict(zip(fields[::2], fields[1::2], strict=False))
    id, raw, signature = (found.get(name, b"") for name in (b"i", b"c", b"s"))
    is_own = id == one.command.id.encode()
    is_whole = is_own and (raw, signature) == (one.raw, one.signature.encode())
    way = chance.choice(["submit", "past it", "marked"])
    if way == "submit":
        request = forger.submitted(one, id=id, raw=raw, signature=signature, digest=digest(raw))
    else:
        # Two with one id would each take away the other's mark.
        request = forger.planted(fields, marked=way == "marked" and is_own and b"c" in found)
    return request, (raw, signature) if is_whole and way != "past it" else None


def is_entry(reply: Any) -> bool:
    """Whether the server took it into the stream: it does not where a field has no value."""
    if isinstance(reply, ResponseError):
        assert "wrong number of arguments" in str(reply), reply
        return False
    return isinstance(reply, bytes) or reply[0][0] == b"accepted"


def check_answers(hall: Hall, forged: list[tuple[str, Forged]]) -> None:
    """Each forged command has the answers that it is to have, and no others."""
    told: dict[str, list[Said]] = {}
    for _, fields in hall.link.call("XRANGE", hall.station.replies(CLIENT.decode()), "-", "+"):
        for answer in map(decode_answer, fields[1::2]):
            told.setdefault(answer.id, []).append((answer.outcome, answer.reason))
    for how, one in forged:
        said = told.get(one.id, [])
        # Where there are two, that of the first comes before that of the second, or after: it is counted.
        fits = len(said) == len(one.said) and (
            all(answer in may for answer, may in zip(said, one.said, strict=True))
            or all(answer in may for answer, may in zip(said, reversed(one.said), strict=True))
        )
        assert fits, f"{how}: {said}, seed {SEED}"


def test_a_lane_of_forged_commands_carries_out_only_what_was_signed(hall: Hall) -> None:
    """Through submit or past it: what is not whole has no effect, each has one verdict, the log verifies."""
    chance = random.Random(SEED)
    forger, handler = Forger(hall, chance), Both()
    forged: list[tuple[str, Forged]] = []
    must: list[tuple[bytes, bytes]] = []
    may: set[tuple[bytes, bytes]] = set()
    entries = 0
    with working(hall, handler):
        while entries < THROUGH_A_LANE:
            requests: list[list[Any]] = []
            while len(requests) < AT_ONCE:
                if chance.random() < FUZZED:
                    request, whole = fuzzed_request(forger, chance)
                    requests.append(request)
                    may |= {whole} if whole else set()
                    continue
                how = chance.choice(list(WAYS))
                one = forger.make(how)
                forged.append((how, one))
                requests += one.requests
                if COMPLETED in one.said[0]:
                    raw, signature = one.requests[0][10:12]
                    must.append((raw, signature.encode()))
            replies = hall.link.batch(requests)
            entries += sum(map(is_entry, replies))
        eventually(lambda: hall.waiting() == 0, "a verdict on every envelope", 120)
        assert answer_of(hall, hall.command()).outcome == "completed"
    done = Counter((task.delivery.raw, task.delivery.signature.encode()) for task in handler.executed[:-1])
    assert max(done.values()) == 1, f"executed twice, seed {SEED}"
    assert set(must) <= set(done) <= {*must, *may}, f"seed {SEED}"
    check_answers(hall, forged)
    events = [logged.event for logged in hall.events()]
    kinds = Counter(event.type for event in events)
    counted = sum(event.data["count"] for event in events if event.type == "rejections.counted")
    results = {
        type: kinds.pop(type, 0) for type in ("command.rejected", "command.completed", "command.expired")
    }
    assert results["command.completed"] == len(handler.executed)
    assert sum(results.values()) + counted == entries + 1
    assert set(kinds) == {"lane.acquired", "lane.released", "rejections.counted"}
    assert hall.verdict().fault is None
