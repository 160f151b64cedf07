"""What is spooled: on disk before anything else, once in the log, whatever order it comes in."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.entered import MOST, Entered, stands, with_id
from ingest.ledger import Ledger, past_of
from ingest.spool import Spool
from streams.drafts import Draft
from streams.messages import GENESIS, SCHEMA, Event, Logged, now

IDS = st.tuples(st.sampled_from("ab"), st.integers(1, 30)).map(lambda one: f"n/{one[0]}/{one[1]}")


@given(ids=st.lists(IDS, max_size=60))
def test_each_id_stands_once_it_was_entered_and_no_other(ids: list[str]) -> None:
    """Whatever the order and the gaps, the ranges say exactly which ids were entered."""
    entered: Entered = {}
    for id in ids:
        entered = with_id(entered, id)
    for boot in "ab":
        for counter in range(1, 32):
            id = f"n/{boot}/{counter}"
            assert stands(entered, id) == (id in ids)
    for ranges in entered.values():
        assert list(ranges) == sorted(ranges)
        assert all(one[1] + 1 < other[0] for one, other in pairwise(ranges))


def test_what_is_entered_stays_bounded() -> None:
    """A thousand boots are known of a lane; the oldest is forgotten for the newest."""
    entered: Entered = {}
    for boot in range(MOST + 1):
        entered = with_id(entered, f"n/{boot}/1")
    assert len(entered) == MOST
    assert stands(entered, f"n/{MOST}/1")
    assert not stands(entered, "n/0/1")


@pytest.mark.parametrize("odd", [None, 7, "", "n/b/", "n/b/x", "n/b/0", "n/b/-1"])
def test_an_id_that_is_none_changes_nothing(odd: object) -> None:
    """Other versions and other hands write events too."""
    assert with_id({}, odd) == {}


def test_a_fact_is_on_disk_when_it_is_kept_and_there_after_a_restart(tmp_path: Path) -> None:
    """Another process finds it as it was kept; counters go by lane; nothing half written is left."""
    spool = Spool(tmp_path, "here")
    kept = [spool.keep(lane, "s", "alert.ended", {"end": 1.5}, now()) for lane in ("p0", "p1", "p0")]
    assert [one.counter for one in kept] == [1, 1, 2]
    again = Spool(tmp_path, "here")
    assert again.pending("p0") == [kept[0], kept[2]]
    assert again.lanes() == ["p0", "p1"]
    assert again.keep("p0", "s", "alert.ended", {}, now()).id not in {one.id for one in kept}
    again.forget(kept[1])
    assert Spool(tmp_path, "here").lanes() == ["p0"]
    assert list(tmp_path.rglob("*.part")) == []


def test_a_file_that_cannot_be_read_is_left_and_harms_no_other(tmp_path: Path) -> None:
    """Half a file, as a disk that was full leaves it, is said and left for people."""
    kept = Spool(tmp_path, "here").keep("p0", "s", "alert.ended", {}, now())
    (tmp_path / "p0" / "broken.json").write_text("{")
    assert Spool(tmp_path, "here").pending("p0") == [kept]
    assert (tmp_path / "p0" / "broken.json").exists()


def test_a_disk_that_refuses_loses_no_fact_of_a_running_process(tmp_path: Path) -> None:
    """Where nothing can be written the fact goes on, in memory, to be logged."""
    (tmp_path / "spool").write_text("no folder")
    spool = Spool(tmp_path / "spool", "here")
    kept = spool.keep("p0", "s", "alert.ended", {}, now())
    assert spool.pending("p0") == [kept]


def test_a_ledger_enters_what_it_has_not(tmp_path: Path) -> None:
    """Entered once however often it comes, kept while nothing is logged, known again from the log."""
    spool, ledger, log = Spool(tmp_path, "here"), Ledger(), list[Logged]()
    kept = spool.keep("p0", "gone", "alert.ended", {"end": 1.0}, now())

    def post(draft: Draft) -> None:
        event = Event(
            seq=len(log) + 1, prev=GENESIS, token=1, at=draft.at or now(), logged_at=now(), node="here",
            type=draft.type, data=draft.data, schema=SCHEMA, source=draft.source,
        )  # fmt: skip
        log.append(Logged(event, b"", ""))

    assert not ledger.enter(kept)
    ledger.reopen(post)
    assert ledger.enter(kept)
    assert ledger.enter(kept)
    assert [one.event.at for one in log] == [kept.at]
    past = past_of(log)
    assert stands(past.entered, kept.id)
    assert past.sources == {}
    assert msgspec.to_builtins(past.entered) == msgspec.to_builtins(ledger.entered)
