"""The projection of keys, and rejections that are counted: as stories."""

from __future__ import annotations

from projections.folds.keys import KeyRow
from projections.projection import KEYS, TOTALS
from tests.fix_projections import Chain, folded

ALICE = {"id": "alice", "algorithm": "ed25519", "public": "AAA", "role": "operator", "by": "chief"}


def keys(chain: Chain) -> dict[str, KeyRow]:
    return folded(chain.events)[KEYS.name]


def test_a_key_has_its_limits_and_what_became_of_it() -> None:
    """Created, rotated, revoked: one row that says when and by whom; afterwards nothing changes it."""
    chain = Chain()
    made = chain.event("key.created", "", **ALICE, sources=["west-*"])
    row = keys(chain)["alice"]
    assert (row.role, row.sources, row.groups, row.created_by) == ("operator", ["west-*"], [], "chief")
    turned = chain.event(
        "key.rotated", "", id="alice", public="BBB", until="2026-01-01T00:00:00Z", by="alice"
    )
    gone = chain.event("key.revoked", "", id="alice", by="chief", reason="left")
    chain.event("key.created", "", **{**ALICE, "role": "engineer"})
    chain.event("key.rotated", "", id="alice", public="CCC", by="alice")
    row = keys(chain)["alice"]
    assert (row.public, row.role, row.reason, row.revoked_by) == ("BBB", "operator", "left", "chief")
    assert (row.created_at, row.rotated_at, row.revoked_at) == (made.event.at, turned.event.at, gone.event.at)


def test_the_end_of_a_key_in_a_file_is_known() -> None:
    """Of a key that only its revocation tells of, that much is there."""
    chain = Chain()
    chain.event("key.revoked", "", id="operator", by="deputy")
    row = keys(chain)["operator"]
    assert (row.role, row.created_at, row.revoked_by) == (None, None, "deputy")


def test_a_key_that_was_a_file_is_known_from_its_rotation() -> None:
    """The event says what the key was; where it does not, nothing is made up."""
    chain = Chain()
    was = {"public": "AAA", "role": "engineer", "sources": ["west-*"]}
    until = "2026-01-01T00:00:00Z"
    chain.event("key.rotated", "", id="stray", public="BBB", until=until, by="first")
    made = chain.event("key.rotated", "", id="first", public="BBB", until=until, by="first", was=was)
    row = keys(chain)["first"]
    assert (row.public, row.role, row.sources) == ("BBB", "engineer", ["west-*"])
    assert (row.created_at, row.rotated_at) == (None, made.event.at)
    assert "stray" not in keys(chain)


def test_counted_rejections_count_in_the_totals() -> None:
    """An event that stands for many rejections adds their number, and a foolish one adds nothing."""
    chain = Chain()
    chain.event("rejections.counted", "", count=250, reasons={"unsigned": 250})
    for foolish in (-5, "many", None):
        chain.event("rejections.counted", "", count=foolish)
    assert folded(chain.events)[TOTALS.name]["other/rejected"].count == 250
