"""Checkpoints: what was signed is found again, and any other history is told from it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.checkpoint import Checkpoint, InvalidCheckpoint, checkpoint, differences, parse
from streams.signing import InvalidKey, without_secret
from streams.tail import START, Position
from tests.fix_audit import AUDITOR, BOB, EPOCH, flipped

LANES = ("node.a", "p0", "p1", "station")
hashes = st.integers(0, 2**256 - 1).map(lambda number: f"{number:064x}")
heads = st.dictionaries(
    st.sampled_from(LANES), st.builds(Position, st.integers(1, 10**9), hashes), min_size=1
)


def found_in(at: dict[str, Position]) -> dict[str, dict[int, str]]:
    """What a log with these events says of them."""
    return {lane: {head.seq: head.hash} for lane, head in at.items()}


def made(at: dict[str, Position]) -> Checkpoint:
    return checkpoint("station", at, EPOCH, AUDITOR)


@given(heads)
def test_what_was_signed_is_found_again(at: dict[str, Position]) -> None:
    """A checkpoint is read as it was made, and the log that it was made of does not differ from it."""
    kept = parse(made(at).text)
    assert kept == made(at)
    assert {lane: head.seq for lane, head in kept.lanes.items()} == {
        lane: head.seq for lane, head in at.items()
    }
    assert list(differences(kept, found_in(at))) == []


@given(heads, st.data())
def test_another_history_is_told_from_it(at: dict[str, Position], data: st.DataObject) -> None:
    """One lane's event is another, or missing: that is told, be it in the half that is shown or not."""
    kept = made(at)
    lane = data.draw(st.sampled_from(sorted(at)))
    head = at[lane]
    place = data.draw(st.integers(0, 63))
    other = head.hash[:place] + ("1" if head.hash[place] == "0" else "0") + head.hash[place + 1 :]
    told = list(differences(kept, found_in(at) | {lane: {head.seq: other}}))
    assert len(told) == 1
    if place < 32:
        assert told[0][:2] == (lane, head.seq)
    else:
        assert "root" in told[0][2]
    ((where, seq, problem),) = differences(kept, found_in(at) | {lane: {}})
    assert (where, seq) == (lane, head.seq)
    assert "missing" in problem


def test_a_lane_alone_can_be_compared() -> None:
    """Where only one lane was read, it alone is judged, by the half of its hash that the checkpoint shows."""
    at = {"p0": Position(3, "a" * 64), "p1": Position(4, "b" * 64)}
    assert list(differences(made(at), {"p0": {3: "a" * 64}})) == []
    assert [told[:2] for told in differences(made(at), {"p0": {3: "b" * 64}})] == [("p0", 3)]


def test_no_byte_of_it_can_be_changed() -> None:
    """Every change of one byte is noticed, as is a line more or less."""
    text = made({"p0": Position(3, "a" * 64), "station": Position(1, "b" * 64)}).text
    for changed in flipped(text.encode()):
        with pytest.raises(InvalidCheckpoint):
            parse(changed.decode("utf-8", "replace"))
    lines = text.splitlines(keepends=True)
    for at in range(len(lines)):
        for other in (lines[:at] + lines[at + 1 :], lines[: at + 1] + lines[at:]):
            with pytest.raises(InvalidCheckpoint):
                parse("".join(other))


def test_it_is_short_enough_to_print() -> None:
    """With all lanes of a station of the usual size it fits a page of 80 columns by 25 lines, keys aside."""
    at = {f"p{index}": Position(10**12, "a" * 64) for index in range(8)}
    text = made(at | {"node.local": Position(10**12, "b" * 64), "station": Position(9, "c" * 64)}).text
    assert len(text.splitlines()) <= 25
    assert all(len(line) <= 80 for line in text.splitlines() if not line.startswith("signature"))


def test_only_an_ed25519_key_signs_one() -> None:
    """A shared secret proves nothing to others, a public half cannot sign, no events are nothing."""
    at = {"p0": Position(1, "a" * 64)}
    for key in (BOB, without_secret(AUDITOR)):
        with pytest.raises(InvalidKey):
            checkpoint("station", at, EPOCH, key)
    with pytest.raises(InvalidCheckpoint, match="nothing to sign"):
        checkpoint("station", {"p0": START}, EPOCH, AUDITOR)
