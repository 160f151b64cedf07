"""Commands that cannot be processed: set aside with a copy, listed, retried, dropped, and logged."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import pytest

from streams.healing import Repair, put_back
from streams.messages import Command, canonical, decode_command
from streams.signing import create_key, sign
from streams.submit import Signed
from streams.tail import START
from tests.fix_cli import Obedient, Terminal
from tests.fix_control import ROOT, Bureau
from tests.fix_servers import eventually
from tests.fix_streams import LANE as STREAM_LANE
from tests.fix_streams import Functions, Hall, Scripted, working

LANE = "node.local"


@contextmanager
def crashing(bureau: Bureau, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that owns the lane and crashes on commands for `poison`; killed at the end."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.programs.crashing", str(bureau.folder.path), LANE],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
        env={**os.environ, **environment},
    ) as started:
        try:
            yield started
        finally:
            started.kill()


def test_a_crash_on_one_command_is_parked_and_the_lane_goes_on(bureau: Bureau, tocsin: Terminal) -> None:
    """Three crashes; the fourth owner parks it and goes on; mended, a retry completes, with its cause."""
    poison = bureau.command("source.start", LANE, "poison", params={"newer": [1]})
    bureau.submitter.accept(poison, timeout=5)
    for _ in range(3):
        with crashing(bureau) as process:
            assert process.wait(30) == -signal.SIGKILL
    with crashing(bureau):
        answer = bureau.do(poison)
        assert (answer.outcome, answer.reason) == ("failed", "parked")
        assert bureau.do(bureau.command("source.start", LANE, "healthy")).outcome == "completed"
    (listed,) = tocsin("parked", "list", "--json").json["parked"]
    assert (listed["id"], listed["lane"], listed["source"]) == (poison.command.id, LANE, "poison")
    assert "3 times" in listed["why"]
    assert poison.command.id in tocsin("parked", "list").out
    shown = tocsin("parked", "show", poison.command.id, "--json").json["parked"]
    assert (shown["request"].encode(), shown["signature"]) == (poison.raw, poison.signature)

    bureau.start()
    with crashing(bureau, TOCSIN_TEST_MENDED="1"):
        ran = tocsin("parked", "retry", poison.command.id, "--json")
    assert ran.code == 0, ran.err
    again = ran.json["command"]
    assert (again["outcome"], again["type"], again["source"]) == ("completed", "source.start", "poison")
    assert bureau.results(LANE)[poison.command.id] == ["failed"]
    assert bureau.results(LANE)[again["id"]] == ["completed"]
    (result,) = [e for e in bureau.events(LANE) if e.command == again["id"]]
    made = decode_command(result.data["request"].encode())
    assert (made.cause, made.params) == (poison.command.id, {"newer": [1]})
    (told,) = [event for event in bureau.events() if event.type == "parked.retried"]
    assert told.data == {"lane": LANE, "id": poison.command.id, "by": again["id"]}
    eventually(lambda: bureau.parked(LANE) == [], "the copy is gone")
    assert tocsin("parked", "retry", poison.command.id).code == 4
    assert tocsin("audit", "verify").code == 0


def test_what_waits_beside_a_poisonous_command_is_not_parked_with_it(bureau: Bureau) -> None:
    """Pending behind it in its source, or executed beside it, at each of three crashes: they complete."""
    poison = bureau.command("source.start", LANE, "poison")
    innocents = [
        bureau.command("source.update", LANE, source)
        for source in ("slow", "poison", "slow", "poison", "quick")
    ]
    for command in (innocents[0], poison, *innocents[1:]):
        bureau.submitter.accept(command, timeout=5)
    for _ in range(3):
        with crashing(bureau) as process:
            assert process.wait(30) == -signal.SIGKILL
    with crashing(bureau):
        assert bureau.do(poison).reason == "parked"
        for command in innocents:
            assert bureau.do(command).outcome == "completed"
    assert [copy.id for copy in bureau.parked(LANE)] == [poison.command.id]


def test_an_unknown_type_is_parked_and_dropped(bureau: Bureau, tocsin: Terminal, obedient: Obedient) -> None:
    """What a newer version signed is set aside with its event; a drop is logged, and nothing is left."""
    newer = bureau.command("source.paint", LANE, "kwfm")
    answer = bureau.do(newer)
    assert (answer.outcome, answer.reason) == ("failed", "parked")
    assert "unknown type 'source.paint'" in (answer.detail or "")
    assert obedient.executed == []
    (added,) = [event for event in bureau.events(LANE) if event.type == "parked.added"]
    assert (added.command, added.source, added.data["type"]) == (newer.command.id, "kwfm", "source.paint")
    (copy,) = bureau.parked(LANE)
    assert (copy.raw, copy.signature, copy.deliveries) == (newer.raw, newer.signature, 1)

    bureau.start()
    ran = tocsin("parked", "drop", newer.command.id)
    assert ran.code == 0, ran.err
    (told,) = [event for event in bureau.events() if event.type == "parked.dropped"]
    assert told.data == {"lane": LANE, "id": newer.command.id}
    eventually(lambda: bureau.parked(LANE) == [], "the copy is gone")
    assert tocsin("parked", "list").out.strip() == "Nothing is parked."
    assert tocsin("parked", "drop", newer.command.id).code == 4
    assert bureau.results(LANE) == {newer.command.id: ["failed"]}
    assert list(bureau.results("station").values()) == [["completed"]]
    assert tocsin("audit", "verify").code == 0


def test_a_retry_of_a_type_still_unknown_is_parked_again(
    bureau: Bureau, tocsin: Terminal, obedient: Obedient
) -> None:
    """The old copy goes and the new command's comes; the retrier is told that it failed, and why."""
    newer = bureau.command("source.paint", LANE, "kwfm")
    bureau.do(newer)
    bureau.start()
    ran = tocsin("parked", "retry", newer.command.id, "--json", "--durability", "memory", "--expires", "5m")
    assert ran.code == 3
    id = ran.json["command"]["id"]
    eventually(lambda: [copy.id for copy in bureau.parked(LANE)] == [id], "the new copy alone")
    again = bureau.parked(LANE)[0].command
    assert again.cause == newer.command.id
    assert again.durability == "memory"
    assert (again.expires_at - again.issued_at).total_seconds() == 300


def test_whoever_is_no_engineer_may_not_drop(bureau: Bureau, tocsin: Terminal, obedient: Obedient) -> None:
    """An operator's drop is rejected as unauthorised, and the copy stays."""
    newer = bureau.command("source.paint", LANE, "kwfm")
    bureau.do(newer)
    create_key(bureau.folder.keys, "desk", "operator")
    bureau.start()
    ran = tocsin("parked", "drop", newer.command.id, "--json", TOCSIN_KEYS_SIGN_WITH="desk")
    assert ran.code == 4
    assert ran.json["command"]["reason"] == "unauthorised"
    assert [copy.id for copy in bureau.parked(LANE)] == [newer.command.id]


def test_nothing_is_parked_by_an_append_that_is_refused(hall: Hall, functions: Functions) -> None:
    """An append that another owner's fence, or a command that is not open, refuses leaves no copy."""
    command = hall.command()
    functions.submit(command.command.id, command.raw)
    lease = functions.acquire()
    functions.take(lease.fence)
    keys = hall.keys

    def append(fence: str, entry: str) -> bytes:
        status: bytes = hall.link.call(
            "FCALL", "tocsin_append", 8, keys.lease, keys.head, keys.events, keys.commands, keys.ids,
            keys.id_expiry, keys.parked, keys.archived, fence, 0, "0" * 64, lease.token, "0", 0,
            1, entry, command.command.id, "{}", 9_999_999_999_999,
            1, command.raw, command.signature, command.command.id, "a test", 4,
        )[0]  # fmt: skip
        return status

    (entry,) = [row[0].decode() for row in hall.link.call("XRANGE", keys.commands, "-", "+")]
    assert append("another 9 x", entry) == b"fenced"
    assert append(lease.fence, "1-1") == b"settled"
    assert hall.link.call("XLEN", keys.parked) == 0
    assert append(lease.fence, entry) == b"ok"
    assert append(lease.fence, entry) == b"settled"
    ((_, fields),) = hall.link.call("XRANGE", keys.parked, "-", "+")
    assert dict(zip(fields[::2], fields[1::2], strict=True)) == {
        b"c": command.raw, b"s": command.signature.encode(), b"i": command.command.id.encode(),
        b"r": b"a test", b"d": b"4",
    }  # fmt: skip


@pytest.mark.parametrize("type", ["source.start", "source.paint"])
def test_fields_of_a_newer_version_are_carried(hall: Hall, type: str) -> None:
    """A signed field that this version does not know is neither refused nor lost: its bytes are kept."""
    known = hall.command(type).command
    raw = canonical({**msgspec.to_builtins(known), "priority": "high"})
    newer = Signed(msgspec.convert(known, Command, from_attributes=True), raw, sign(raw, hall.key))
    handler = Scripted()
    with working(hall, handler):
        answer = hall.submitter().submit(newer, timeout=20)
    assert answer.outcome == ("completed" if type == "source.start" else "failed")
    (result,) = [e.event for e in hall.events() if e.event.type == f"command.{answer.outcome}"]
    assert result.data["request"].encode() == raw
    kept = [fields[1] for _, fields in hall.link.call("XRANGE", hall.keys.parked, "-", "+")]
    assert kept == ([] if type == "source.start" else [raw])


def test_a_copy_that_a_failover_took_comes_back_with_its_events(hall: Hall, functions: Functions) -> None:
    """What is put back of a log that was lost makes the copy anew, with the same bytes and reason."""
    newer = hall.command("source.paint")
    with working(hall, Scripted()):
        assert hall.submitter().submit(newer, timeout=20).reason == "parked"
    ((_, before),) = hall.link.call("XRANGE", hall.keys.parked, "-", "+")
    lost = [(logged.raw, logged.hash) for logged in hall.events()]
    hall.link.call("DEL", hall.keys.parked, hall.keys.events, hall.keys.head)
    repair = Repair(link=hall.link, keys=hall.keys, lane=STREAM_LANE, lease=functions.acquire())
    put_back(repair, START, lost)
    ((_, after),) = hall.link.call("XRANGE", hall.keys.parked, "-", "+")
    assert after == before
    assert hall.verdict().fault is None
