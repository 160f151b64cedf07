"""Whether a command may be executed: every reason to refuse it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.admission import Delivery, Refusal, Task, admit, parse_delivery, settled_answer
from streams.messages import MAX_COMMAND_BYTES, Command, canonical, digest
from streams.signing import Key, sign

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
SECRET = "a2V5" * 10 + "a2s="
ENGINEER = Key(id="engineer", algorithm="hmac-sha256", role="engineer", secret=SECRET)
OPERATOR = Key(id="operator", algorithm="hmac-sha256", role="operator", secret=SECRET)
VIEWER = Key(id="viewer", algorithm="hmac-sha256", role="viewer", secret=SECRET)
KEYRING = {key.id: key for key in (ENGINEER, OPERATOR, VIEWER)}
ENTRY = f"{int(NOW.timestamp() * 1000)}-0"


def command(**changes: Any) -> Command:
    made = Command(
        id="id-1", station="north", lane="p0", source="kwfm", type="source.start", params={}, key="engineer",
        issued_at=NOW, expires_at=NOW + timedelta(seconds=60), schema=1,
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


def delivery(raw: bytes | Command, signature: str | None = None, **changes: Any) -> Delivery:
    """A delivery as the lane would make it of submitted bytes, `changes` made afterwards."""
    signer = KEYRING.get(raw.key, ENGINEER) if isinstance(raw, Command) else ENGINEER
    raw = canonical(raw) if isinstance(raw, Command) else raw
    made = Delivery(
        entry=ENTRY, raw=raw, signature=sign(raw, signer) if signature is None else signature, id="id-1",
        client="me", sequence=1, deliveries=1, mark=f"{digest(raw)} 1 {ENTRY} ", received_at=NOW,
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


def judged(given: Delivery, time: datetime = NOW) -> Task | Refusal:
    return admit(given, keyring=KEYRING, station="north", lane="p0", time=time)


def refusal(given: Delivery, time: datetime = NOW) -> Refusal:
    verdict = judged(given, time)
    assert isinstance(verdict, Refusal)
    return verdict


def test_a_signed_and_timely_command_is_admitted() -> None:
    """What is in order becomes a task with its number and its deliveries."""
    task = judged(delivery(command(), sequence=7, deliveries=3))
    assert isinstance(task, Task)
    assert (task.command.id, task.sequence, task.deliveries) == ("id-1", 7, 3)
    assert not task.cancelled.is_set()


REFUSED: dict[str, tuple[Delivery, str, str | None]] = {
    "unsigned": (delivery(command(), signature=""), "unsigned", "signature"),
    "bad signature": (delivery(command(), signature="00" * 32), "bad_signature", "signature"),
    "signed by another": (delivery(command(key="stranger")), "unknown_key", "key"),
    "operator may not add": (delivery(command(key="operator", type="source.add")), "unauthorised", "key"),
    "viewer may not start": (delivery(command(key="viewer")), "unauthorised", "key"),
    "another station": (delivery(command(station="south")), "replayed", "station"),
    "another lane": (delivery(command(lane="p1")), "replayed", "lane"),
    "another id": (delivery(command(), id="id-2"), "replayed", "id"),
    "no mark": (delivery(command(), mark=""), "replayed", None),
    "another entry's mark": (delivery(command(), mark=f"{digest(b'')} 1 1-1 "), "replayed", None),
    "other bytes' mark": (delivery(command(), mark=f"{digest(b'')} 1 {ENTRY} "), "replayed", None),
    "no JSON": (delivery(b"start it"), "malformed", None),
    "another shape": (delivery(b"[]"), "malformed", None),
    "a field missing": (delivery(b'{"id":"id-1"}'), "malformed", None),
    "no text": (delivery(b"\xff\xfe"), "malformed", None),
    "nested too deeply": (delivery(b'{"params":{"a":' + b"[" * 60_000), "malformed", None),
    "too large": (delivery(command(params={"a": "x" * MAX_COMMAND_BYTES})), "too_large", None),
    "issued 1.001 s ahead": (
        delivery(command(issued_at=NOW + timedelta(milliseconds=1001))), "not_yet_valid", "issued_at",
    ),
    "valid for more than 24 h": (
        delivery(command(expires_at=NOW + timedelta(hours=24, microseconds=1))),
        "invalid_validity", "expires_at",
    ),
    "valid until before its issue": (
        delivery(command(expires_at=NOW - timedelta(microseconds=1))), "invalid_validity", "expires_at",
    ),
    "of the station lane": (delivery(command(type="parked.drop")), "wrong_lane", "lane"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_command_is_rejected_with_its_reason(case: str) -> None:
    """Never tried; the reason is told, and the field where one is to blame."""
    given, reason, field = REFUSED[case]
    refused = refusal(given)
    assert (refused.outcome, refused.reason, refused.field) == ("rejected", reason, field)
    assert refused.detail


def test_times_without_a_zone_are_malformed() -> None:
    """12:00 is not a time that two machines agree on."""
    for field in ("issued_at", "expires_at"):
        body = json.loads(canonical(command()))
        body[field] = body[field].replace("Z", "").replace("+00:00", "")
        assert refusal(delivery(canonical(body))).reason == "malformed"


def test_the_edges_of_validity_are_inside() -> None:
    """1 s ahead, 24 h long, and one microsecond before the end are all in order."""
    assert isinstance(judged(delivery(command(issued_at=NOW + timedelta(seconds=1)))), Task)
    assert isinstance(judged(delivery(command(expires_at=NOW + timedelta(hours=24)))), Task)
    last = NOW + timedelta(seconds=60) - timedelta(microseconds=1)
    assert isinstance(judged(delivery(command()), last), Task)


def test_an_expired_command_is_expired() -> None:
    """At the end of its validity it is too late."""
    refused = refusal(delivery(command()), NOW + timedelta(seconds=60))
    assert (refused.outcome, refused.reason) == ("expired", "expired")


@pytest.mark.parametrize("deliveries", [2, 3])
def test_a_late_command_that_was_delivered_before_is_interrupted(deliveries: int) -> None:
    """It may have been tried; nobody can tell. In time it is tried again."""
    given = delivery(command(), deliveries=deliveries)
    assert isinstance(judged(given), Task)
    refused = refusal(given, NOW + timedelta(seconds=60))
    assert (refused.outcome, refused.reason, refused.field) == ("failed", "interrupted", "expires_at")
    assert refused.attributed


def test_the_fourth_delivery_is_parked() -> None:
    """Three deliveries without a result are enough; the fourth is not tried."""
    assert isinstance(judged(delivery(command(), deliveries=3)), Task)
    refused = refusal(delivery(command(), deliveries=4))
    assert (refused.outcome, refused.reason) == ("failed", "parked")


def test_what_was_tried_three_times_is_parked_however_late() -> None:
    """`expired` is said of what was never tried; this was."""
    refused = refusal(delivery(command(), deliveries=4), NOW + timedelta(hours=1))
    assert (refused.outcome, refused.reason) == ("failed", "parked")


def test_a_type_of_a_newer_version_is_parked() -> None:
    """It is set aside, not rejected, and the detail names it; whoever may not sign it is rejected first."""
    refused = refusal(delivery(command(type="source.paint")))
    assert (refused.outcome, refused.reason, refused.field) == ("failed", "parked", "type")
    assert "unknown type 'source.paint'" in (refused.detail or "")
    assert refusal(delivery(command(type="source.paint", key="operator"))).reason == "unauthorised"
    assert refusal(delivery(command(type="source.paint")), NOW + timedelta(seconds=60)).outcome == "expired"


def test_a_source_has_no_place_in_the_station_lane() -> None:
    """Commands of sources are rejected there, those of parked commands admitted."""
    for type, verdict in (("source.start", Refusal), ("parked.drop", Task)):
        given = delivery(command(type=type, lane="station"))
        assert isinstance(admit(given, keyring=KEYRING, station="north", lane="station", time=NOW), verdict)


def test_a_command_submitted_after_its_id_may_be_forgotten_is_replayed() -> None:
    """From ten minutes after its validity on nobody can tell whether it is the first: it is replayed.

    One that was submitted in time and waited that long is expired.
    """
    late = NOW + timedelta(minutes=11)
    assert refusal(delivery(command(), received_at=late), late).reason == "replayed"
    assert refusal(delivery(command()), late).reason == "expired"


@pytest.mark.parametrize(
    "changes",
    [
        {"expires_at": NOW + timedelta(hours=30)},
        {"issued_at": NOW + timedelta(hours=5), "expires_at": NOW + timedelta(hours=6)},
        {"issued_at": NOW + timedelta(days=400), "expires_at": NOW + timedelta(days=400, minutes=1)},
    ],
)
def test_a_command_refused_for_its_time_is_never_tried_later(changes: dict[str, Any]) -> None:
    """While its id is remembered it has its answer; once that may be forgotten it is replayed, not valid."""
    made = command(**changes)
    assert refusal(delivery(made)).outcome == "rejected"
    for hours in (1, 6, 25, 29, 31, 50, 24 * 400, 24 * 401):
        later = NOW + timedelta(hours=hours)
        verdict = judged(delivery(made, received_at=later), later)
        if isinstance(verdict, Task):
            # It would be valid now, had its id not been taken: the mark must still stand.
            assert later < made.expires_at + timedelta(minutes=10)


def test_only_what_names_its_command_for_good_is_attributed() -> None:
    """A result names the command only where no second submission could make another result of it."""
    unattributed = {case for case, (given, _, _) in REFUSED.items() if not refusal(given).attributed}
    assert {REFUSED[case][1] for case in unattributed} == {"replayed", "malformed", "too_large"}
    assert {REFUSED[case][1] for case in REFUSED.keys() - unattributed} >= {"unsigned", "bad_signature"}


def test_only_a_mark_of_its_own_is_settled() -> None:
    """A command put past submit must not answer for the one whose id it uses."""
    assert not refusal(REFUSED["no mark"][0]).marked
    assert not refusal(REFUSED["other bytes' mark"][0]).marked
    assert refusal(REFUSED["another lane"][0]).marked


def test_the_answer_that_stands_is_that_of_this_entry() -> None:
    """An answer under the id counts for the entry that it was given to, and for no other."""
    assert settled_answer(delivery(command())) is None
    given = delivery(command())
    assert settled_answer(msgspec.structs.replace(given, mark=given.mark + '{"a": 1}')) == '{"a": 1}'
    other = f"{digest(given.raw)} 1 9-9 answer"
    assert settled_answer(msgspec.structs.replace(given, mark=other)) is None


@given(at=st.integers(0), flip=st.integers(1, 255), where=st.sampled_from(["raw", "signature"]))
def test_any_single_byte_change_is_refused(at: int, flip: int, where: str) -> None:
    """Bytes other than those signed, or another signature than the one made, are never executed."""
    given = delivery(command())
    changed = bytearray(given.raw if where == "raw" else given.signature.encode())
    changed[at % len(changed)] ^= flip
    if where == "raw":
        raw = bytes(changed)
        given = msgspec.structs.replace(given, raw=raw, mark=f"{digest(raw)} 1 {ENTRY} ")
    else:
        given = msgspec.structs.replace(given, signature=changed.decode("latin-1"))
    refused = refusal(given)
    assert refused.outcome == "rejected"
    assert refused.reason in {"malformed", "bad_signature", "unknown_key", "replayed"}


entries = st.builds(lambda ms, n: f"{ms}-{n}".encode(), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
names = st.sampled_from([b"i", b"c", b"s", b"q", b"r"]) | st.binary(max_size=4)
values = (
    st.binary(max_size=40)
    | st.just(canonical(command()))
    | st.integers(0, 10**30).map(lambda number: str(number).encode())
    | st.sampled_from(["²".encode(), "٣".encode(), b"9" * 5000, b"id-1", b"engineer"])
)


@settings(max_examples=300)
@given(entry=entries, fields=st.lists(st.tuples(names, values), max_size=6), mark=st.binary(max_size=20))
def test_arbitrary_fields_are_refused_and_never_raise(
    entry: bytes, fields: list[tuple[bytes, bytes]], mark: bytes
) -> None:
    """Whatever somebody puts into the stream gets a verdict that can be written down as JSON."""
    flat = [part for pair in fields for part in pair]
    given = parse_delivery(entry, 1, mark, flat)
    refused = refusal(given)
    assert refused.outcome == "rejected"
    assert canonical([given, refused])


@settings(max_examples=300)
@given(
    body=st.fixed_dictionaries(
        {},
        optional={
            field: st.none() | st.integers() | st.text(max_size=5) | st.datetimes().map(str) | st.just([])
            for field in Command.__struct_fields__
        },
    )
)
def test_arbitrary_commands_are_refused_and_never_raise(body: dict[str, Any]) -> None:
    """A command of the wrong shape, accepted by submit, is refused like any other."""
    raw = json.dumps({**json.loads(canonical(command())), **body}).encode()
    verdict = judged(delivery(raw))
    if isinstance(verdict, Refusal):
        assert verdict.outcome in {"rejected", "expired"} or verdict.reason == "parked"
        assert canonical(verdict)
    else:
        assert verdict.command.key == "engineer"
