"""Verifying a lane's log: whatever was done to one event is found where it was done."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from streams.audit import Verdict, verify
from streams.messages import GENESIS, Event, canonical, digest, now
from streams.tail import Position

Entry = tuple[bytes, bytes]


def entry(raw: bytes) -> Entry:
    return raw, digest(raw).encode()


def event(seq: int, prev: str, token: int, **changes: Any) -> Entry:
    """One event; with a command it is that command's result."""
    time = now()
    fields: dict[str, Any] = {
        "seq": seq, "prev": prev, "token": token, "at": time, "logged_at": time, "node": "one",
        "type": "command.completed", "data": {"note": seq}, "schema": 1, "command": f"c{seq}",
    }  # fmt: skip
    return entry(canonical(Event(**(fields | changes))))


@st.composite
def logs(draw: st.DrawFn, least: int = 1) -> list[Entry]:
    """A valid log: tokens never fall, some events are results, each of another command."""
    steps = draw(st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=least, max_size=8))
    entries: list[Entry] = []
    token, prev = 1, GENESIS
    for seq, (step, is_result) in enumerate(steps, 1):
        token += step
        changes = {} if is_result else {"type": "source.running", "command": None}
        entries.append(event(seq, prev, token, **changes))
        prev = entries[-1][1].decode()
    return entries


def fault_at(verdict: Verdict) -> int | None:
    return verdict.fault.seq if verdict.fault else None


@given(logs(least=0))
def test_a_valid_log_verifies(log: list[Entry]) -> None:
    """What the owner wrote is in order, and the verdict says how far it goes."""
    verdict = verify("p0", log)
    assert verdict.fault is None
    assert (verdict.events, verdict.seq) == (len(log), len(log))
    assert verdict.hash == (log[-1][1].decode() if log else GENESIS)


@given(logs(), st.data())
def test_one_changed_byte_is_found(log: list[Entry], data: st.DataObject) -> None:
    """An altered event is named, be it its bytes or its hash."""
    at = data.draw(st.integers(0, len(log) - 1))
    raw, stated = log[at]
    changed = bytearray(raw + stated)
    changed[data.draw(st.integers(0, len(changed) - 1))] ^= data.draw(st.integers(1, 255))
    log[at] = bytes(changed[: len(raw)]), bytes(changed[len(raw) :])
    assert fault_at(verify("p0", log)) == at + 1


@given(logs(least=2), st.data())
def test_an_end_that_was_cut_off_is_missed(log: list[Entry], data: st.DataObject) -> None:
    """What lacks at the end is found by the head that the lane states; what came since is no fault."""
    whole = verify("p0", log)
    head = Position(whole.seq, whole.hash)
    cut = data.draw(st.integers(0, len(log) - 1))
    assert fault_at(verify("p0", log[:cut], head)) == cut + 1
    assert fault_at(verify("p0", log, Position(cut + 1, "0" * 64))) == cut + 1
    more = [*log, event(whole.seq + 1, whole.hash, 99)]
    assert verify("p0", more, head).fault is None


@given(logs(least=2), st.data())
def test_an_event_altered_together_with_its_hash_is_found(log: list[Entry], data: st.DataObject) -> None:
    """A forger who hashes anew is found at the next event, which names the hash of the one before."""
    at = data.draw(st.integers(0, len(log) - 2))
    log[at] = entry(log[at][0].replace(b'"node":"one"', b'"node":"two"'))
    assert fault_at(verify("p0", log)) == at + 2


@given(logs(least=2), st.data())
def test_a_dropped_event_is_found(log: list[Entry], data: st.DataObject) -> None:
    """An event that is missing is found where it belongs; the last one by where the log then ends."""
    at = data.draw(st.integers(0, len(log) - 1))
    whole = verify("p0", log)
    del log[at]
    verdict = verify("p0", log)
    if at < len(log):
        assert fault_at(verdict) == at + 1
    else:
        assert (verdict.seq, verdict.hash) != (whole.seq, whole.hash)


@given(logs(least=2), st.data())
def test_swapped_events_are_found(log: list[Entry], data: st.DataObject) -> None:
    """The first of two that changed places is named."""
    first = data.draw(st.integers(0, len(log) - 2))
    second = data.draw(st.integers(first + 1, len(log) - 1))
    log[first], log[second] = log[second], log[first]
    assert fault_at(verify("p0", log)) == first + 1


@given(logs(), st.data())
def test_an_inserted_event_is_found(log: list[Entry], data: st.DataObject) -> None:
    """A copy put in again, or an event made to fit its place, is found there or at the one behind it."""
    at = data.draw(st.integers(0, len(log)))
    copied = [*log[:at], data.draw(st.sampled_from(log)), *log[at:]]
    if copied[at] != (log[at] if at < len(log) else None):
        assert fault_at(verify("p0", copied)) == at + 1
    else:
        assert fault_at(verify("p0", copied)) == at + 2
    if at < len(log):
        prev = log[at - 1][1].decode() if at else GENESIS
        fitting = event(at + 1, prev, 1 if not at else 99, command="forged")
        assert fault_at(verify("p0", [*log[:at], fitting, *log[at:]])) == at + 2


@given(logs())
def test_a_second_result_is_found(log: list[Entry]) -> None:
    """A command with two results is a fault, whatever the second one says."""
    prev, seq = log[-1][1].decode(), len(log) + 1
    first = event(seq, prev, 99, command="twice")
    second = event(seq + 1, first[1].decode(), 99, command="twice", type="command.failed")
    assert fault_at(verify("p0", [*log, first])) is None
    verdict = verify("p0", [*log, first, second])
    assert fault_at(verdict) == seq + 1
    assert "second result of command twice" in str(verdict.fault)


@given(logs())
def test_a_falling_token_is_found(log: list[Entry]) -> None:
    """A former owner's event behind a newer owner's is a fault, though its hashes are right."""
    verdict = verify("p0", [*log, event(len(log) + 1, log[-1][1].decode(), 0)])
    assert fault_at(verdict) == len(log) + 1
    assert "token" in str(verdict.fault)


@given(st.binary(max_size=60))
def test_bytes_that_are_no_event_are_found(raw: bytes) -> None:
    """With a right hash, too, they are a fault and no error."""
    assert fault_at(verify("p0", [entry(raw)])) == 1


def test_an_event_nested_too_deeply_is_a_fault() -> None:
    """What no decoder can read is named like any other bad event."""
    raw = event(1, GENESIS, 1)[0].replace(b'{"note":1}', b'{"note":' + b"[" * 9999 + b"]" * 9999 + b"}")
    assert fault_at(verify("p0", [entry(raw)])) == 1


def test_an_event_that_is_no_utf8_is_a_fault() -> None:
    """A name of a field that is no text is named like any other bad event."""
    raw = event(1, GENESIS, 1)[0].replace(b'"note"', b'"n\xffte"')
    assert fault_at(verify("p0", [entry(raw)])) == 1


@given(logs(least=3), st.data())
def test_a_range_begins_from_what_its_first_event_states(log: list[Entry], data: st.DataObject) -> None:
    """A part of a sound log is sound, joined to the hash before it where that is known; a gap is found."""
    first = data.draw(st.integers(1, len(log) - 1))
    last = data.draw(st.integers(first, len(log)))
    before = Position(first, log[first - 1][1].decode())
    for after in (before, Position(first, "")):
        verdict = verify("p0", log[first:last], after=after)
        assert verdict.fault is None
        assert (verdict.events, verdict.seq) == (last - first, last)
        if last - first > 1:
            assert fault_at(verify("p0", log[first + 1 : last], after=after)) == first + 1
    if last > first:
        assert fault_at(verify("p0", log[first:last], after=Position(first, "0" * 64))) == first + 1
        assert fault_at(verify("p0", log[first:last], Position(last + 1, ""), after=before)) == last + 1


@given(logs(), st.data())
def test_hashes_are_handed_out_where_they_are_asked_for(log: list[Entry], data: st.DataObject) -> None:
    """Each event that was asked for by seq and stands in the log is told with its hash, no other."""
    asked = data.draw(st.sets(st.integers(1, 12)))
    marks = verify("p0", log, marks=asked).marks
    assert marks == {seq: log[seq - 1][1].decode() for seq in asked if seq <= len(log)}


def by_a_set(commands: list[str | None]) -> int | None:
    """The seq of the first second result, found with all ids in memory."""
    seen: set[str] = set()
    for seq, command in enumerate(commands, 1):
        if command in seen:
            return seq
        seen |= {command} - {None}  # type: ignore[arg-type]
    return None


@given(st.lists(st.none() | st.sampled_from("abcdefgh"), max_size=20), st.integers(1, 5), st.data())
def test_second_results_are_found_whatever_is_held(
    commands: list[str | None], limit: int, data: st.DataObject
) -> None:
    """Results beyond those held in memory count as much; the first bad event is named, of either kind."""
    log: list[Entry] = []
    prevs = [GENESIS]
    for seq, command in enumerate(commands, 1):
        log.append(event(seq, prevs[-1], 1, command=command))
        prevs.append(log[-1][1].decode())
    second = by_a_set(commands)
    verdict = verify("p0", log, limit=limit)
    assert fault_at(verdict) == second
    before = len(log) if second is None else second - 1
    assert (verdict.events, verdict.seq, verdict.hash) == (before, before, prevs[before])
    if log:
        at = data.draw(st.integers(1, len(log)))
        log[at - 1] = log[at - 1][0], b"0" * 64
        broken = verify("p0", log, limit=limit)
        assert fault_at(broken) == min(at, second or at)
        assert ("second result" in str(broken.fault)) == (second is not None and second < at)
