"""The read model of recordings: what is known of each, whatever order it is told in."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest

from projections.folds import alerts, decoders, recordings, weekly_tests
from streams.messages import GENESIS, SCHEMA, Event, Logged, now

ID = "01997e2c-7f6a-7c3e-9d0a-3f2b6c1e8a55"
AT = now()
TOLD: dict[str, dict[str, Any]] = {
    "started": {"kind": "alert", "begun_at": AT.isoformat(), "rate": 24000, "channels": 1},
    "finished": {
        "kind": "alert", "begun_at": AT.isoformat(), "ended_at": AT.isoformat(), "seconds": 30.5,
        "rate": 24000, "channels": 1, "bytes": 1000, "sha256": "ab" * 32, "file": "p0/s/x.flac",
        "hearings": ["h"], "spool": "mast/b/3",
    },
    "removed": {"reason": "older than 90 days"},
}  # fmt: skip


def logged(type: str, seq: int = 1, source: str = "s", **data: Any) -> Logged:
    event = Event(
        seq=seq, prev=GENESIS, token=1, at=AT, logged_at=AT, node="owner", type=type, data=data,
        schema=SCHEMA, source=source,
    )  # fmt: skip
    return Logged(event, b"", "hash")


def fold(*states: str, **data: Any) -> recordings.RecordingRow:
    row = None
    for seq, state in enumerate(states, 1):
        told = {**TOLD.get(state, {}), **data, "recording": ID}
        row = recordings.fold(row, logged(f"recording.{state}", seq, **told))
    assert row is not None
    return row


def test_a_recording_from_its_start_to_its_removal() -> None:
    """It has what its events say; the node is the one that has the file, not the one that logged it."""
    assert fold("started").state == "started"
    row = fold("started", "finished")
    assert (row.state, row.node, row.sha256, row.seconds) == ("finished", "mast", "ab" * 32, 30.5)
    gone = fold("started", "finished", "removed")
    assert (gone.state, gone.reason, gone.sha256) == ("removed", "older than 90 days", "ab" * 32)


@pytest.mark.parametrize("order", list(permutations(["started", "finished", "finished"])))
def test_what_is_told_late_or_twice_changes_nothing(order: tuple[str, ...]) -> None:
    """A spool may tell of a start after the end."""
    assert fold(*order).state == "finished"
    assert fold(*order).bytes == 1000


def test_a_recording_that_failed_and_was_salvaged_is_finished() -> None:
    """A file that is there counts for more than that it was given up."""
    row = fold("started", "failed", "finished", reason="killed")
    assert (row.state, row.reason) == ("finished", None)


@pytest.mark.parametrize("data", [{}, {"recording": 7}, {"recording": "x" * 300}])
def test_an_event_that_names_none_is_none(data: dict[str, Any]) -> None:
    """Other hands write events too."""
    assert recordings.concerns(logged("recording.finished", **data).event) is None


def test_a_test_is_another_alert_than_the_real_one_and_counts_for_nothing() -> None:
    """The same header, injected and heard: two rows; decoder and weekly tests know only the real one."""
    header = {"header": "ZCZC-WXR-RWT-020103+0015-3281305-TOCSIN  -", "event": "RWT", "confirmed": True}
    real = logged("alert.received", hearing="a", **header)
    test = logged("alert.received", hearing="b", injected=True, **header)
    assert alerts.concerns(real.event) != alerts.concerns(test.event)
    one, other = alerts.fold(None, real), alerts.fold(None, test)
    assert one is not None
    assert other is not None
    assert (one.injected, other.injected) == (False, True)
    assert weekly_tests.concerns(test.event) is None
    assert weekly_tests.concerns(real.event) == "s"
    row = decoders.fold(None, logged("source.added"))
    assert decoders.fold(row, test) == row
    assert decoders.fold(row, logged("alert.burst", text="ZCZC", injected=True)) == row
    assert decoders.fold(row, real) != row
