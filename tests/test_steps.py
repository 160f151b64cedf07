"""No write on the way of a command or an event is without a step at which a test can end the process.

Which modules those are, and where they write, is read off the code: what is added is found, and what
has no step of its own is to be named here, with why it needs none.
"""

from __future__ import annotations

import ast
from itertools import pairwise

import pytest

from tests.fix_steps import Said, on_the_way, said_in, said_of, steps_in
from tests.test_crash_points import ALL_STEPS

THE_WAY = on_the_way("streams/worker.py", "projections/runner.py", "projections/archive.py")
"""The modules from read to reply, and from read to commit."""
LINKS = {"streams/connection.py", "streams/routed.py"}
"""What they are given to send is looked at where it is given."""
CARRIERS = {
    "streams/healing.py _restore": "restore",
    "streams/intake.py Intake.take": "intake.take",
    "streams/lease.py renew": "renew",
    "streams/log.py LaneLog._conclude": "conclude",
    "streams/log.py LaneLog.prove_head": "log.prove_head",
    "streams/tenure.py Tenure.tend": "tenure.tend",
}
"""Functions that write without a step, and how they are called: that call counts as a write in its place."""
EXEMPT = {
    "projections/archive.py Archiver.positions": "writes only to have its commit wait for standbys",
    "projections/lasting.py lasting": "the transaction of whoever uses it",
    "projections/folding.py fold_carefully": "within the transaction of its caller",
    "projections/runner.py Runner._note": "tells of a trouble, again and again until it is over",
    "projections/runner.py Runner.positions": "notes troubles; whoever reads next notes them again",
    "streams/library.py load_library": "the functions are no data: whoever misses them loads them",
    "streams/tail.py Tail.read": "blocks until there is more to read",
    "streams/worker.py LaneWorker._admit": "deletes, then acknowledges: what is gone is given to nobody",
}
"""Functions that write with no step at all, or with none between two writes, and why that may be."""


def written() -> dict[str, list[Said]]:
    """The steps and writes of each function on the way that writes, in the order of its text."""
    found: dict[str, list[Said]] = {}
    for path in THE_WAY:
        if path in LINKS:
            continue
        for name, said in said_in(path).items():
            marked = [one._replace(kind="write") if carries(path, one) else one for one in said]
            if any(one.kind == "write" for one in marked):
                found[f"{path} {name}"] = [one for one in marked if one.kind != "call"]
    return found


def carries(path: str, said: Said) -> bool:
    """Whether this is the call of a carrier; one with a private name is called in its own module alone."""
    return any(
        calls(said, call)
        for carrier, call in CARRIERS.items()
        if carrier.startswith(f"{path} ") or not is_private(carrier)
    )


def calls(said: Said, name: str) -> bool:
    """Whether the call is one of `name`, over whatever it is reached by; leading underscores do not count."""
    return f".{said.what}".replace("._", ".").endswith(f".{name}")


def is_private(name: str) -> bool:
    return name.replace(" ", ".").split(".")[-1].startswith("_")


def lacking(said: list[Said]) -> list[Said]:
    """The writes without a step between them and the one before; the first where there is no step at all."""
    alone = [] if any(one.kind == "step" for one in said) else said[:1]
    return alone + [one for before, one in pairwise(said) if before.kind == one.kind == "write"]


def test_every_step_in_the_rooms_has_its_crash() -> None:
    """No two places share a name, or one of them would never be tested; none stands where nobody looks."""
    assert len(set(ALL_STEPS)) == len(ALL_STEPS)
    assert sorted(ALL_STEPS) == sorted(steps_in("streams", "control", "ingest", "projections"))


def test_every_write_on_the_way_has_its_step() -> None:
    """Between any two writes of a function stands a step; what has none is named, and so are its callers."""
    found = {
        f"{name}, line {one.line}: {one.what}"
        for name, said in written().items()
        if name not in CARRIERS and name not in EXEMPT
        for one in lacking(said)
    }
    assert found == set()


def test_what_is_named_is_so() -> None:
    """Whoever is excused writes without a step, and whoever carries is called; else the lists say nothing."""
    writing = written()
    assert [name for name in (*CARRIERS, *EXEMPT) if not lacking(writing.get(name, []))] == []
    said = [one for path in THE_WAY for some in said_in(path).values() for one in some]
    assert [name for name in CARRIERS.values() if not any(calls(one, name) for one in said)] == []


def test_the_way_is_the_whole_way() -> None:
    """It is not found too short: the writes that everything hangs on are among what was found."""
    assert set(written()) >= {
        "projections/archive.py Archiver._tell_owner",
        "projections/archive.py Archiver.commit",
        "projections/runner.py Runner.commit",
        "streams/durability.py Prover.prove",
        "streams/held_replies.py HeldReplies._send",
        "streams/lease.py acquire",
        "streams/lease.py release",
        "streams/log.py LaneLog._finish",
        "streams/log.py LaneLog._write",
        "streams/proofs.py Proofs._prove",
        "streams/trimming.py Trimmer.trim",
        "streams/worker.py LaneWorker._take",
    }


@pytest.mark.parametrize(
    ("text", "alone"),
    [
        ("link.call('HSET', key)", 1),
        ("link.call('HGET', key)", 0),
        ("link.call(*request)", 1),
        ("link.batch([('HGET', key), ('DEL', key)])", 1),
        ("link.batch([('HGET', key), ('XRANGE', key)])", 0),
        ("link.batch(requests)", 1),
        ("step('before'); link.call('DEL', key)", 0),
        ("step('before'); link.call('DEL', key); link.call('DEL', other)", 1),
        ("link.call('DEL', key); step('between'); link.call('DEL', other)", 0),
        ("for one in link.batch(requests):\n        step('behind')", 0),
        ("with engine.begin() as connection: pass", 1),
    ],
)
def test_what_counts_as_a_write(text: str, alone: int) -> None:
    """What only reads needs no step; what cannot be told from the text does."""
    (said,) = said_of(ast.parse(f"def function() -> None:\n    {text}\n")).values()
    assert len(lacking([one for one in said if one.kind != "call"])) == alone
