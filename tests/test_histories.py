"""Logs recorded by earlier versions are verified and folded as ever.

They were made by `tests/programs/record_history.py`; each schema version of events keeps its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from ingest.ledger import sources_of
from projections.projection import ALL
from streams.audit import verify
from streams.messages import OUTCOMES, SCHEMA, Logged, canonical, decode_event

FOLDER = Path(__file__).parent / "histories"
LANE = "node.here"
RECORDED = sorted(FOLDER.glob("schema-*/*.jsonl"))
FIRST_TYPES = {
    *(f"command.{outcome}" for outcome in OUTCOMES),
    *(f"source.{what}" for what in ("added", "updated", "removed")),
    *(f"source.{state}" for state in ("starting", "running", "stalled", "failed", "stopped")),
    "lane.acquired",
    "lane.released",
    "parked.added",
    "log.restored",
    "log.forked",
}
"""The types that schema 1 began with, those of accidents among them."""


class Line(msgspec.Struct, frozen=True):
    """One event of a recorded log: its bytes, which are text, and the hash that stood beside them."""

    event: str
    hash: str


def read(path: Path) -> list[Logged]:
    """The events of a recorded log."""
    lines = [msgspec.json.decode(line, type=Line) for line in path.read_bytes().splitlines()]
    return [Logged(decode_event(line.event), line.event.encode(), line.hash) for line in lines]


def folds(events: list[Logged]) -> dict[str, Any]:
    """What ingest's fold and each projection's make of the events, as JSON would have it."""
    made: dict[str, Any] = {"ingest": sources_of(events)}
    for projection in ALL:
        rows: dict[str, Any] = {}
        for logged in events:
            if (key := projection.concerns(logged.event)) is not None:
                rows[key] = projection.fold(rows.get(key), logged)
        made[projection.name] = {key: row for key, row in rows.items() if row is not None}
    plain: dict[str, Any] = msgspec.to_builtins(made)
    return plain


def test_there_is_a_history_of_every_schema() -> None:
    """Each version of the events, up to today's, was recorded."""
    assert {int(path.parent.name.removeprefix("schema-")) for path in RECORDED} == set(range(1, SCHEMA + 1))


def test_the_history_of_schema_1_is_rich() -> None:
    """Sources and results of every kind are in it."""
    types = {e.event.type for path in RECORDED if path.parent.name == "schema-1" for e in read(path)}
    assert types >= FIRST_TYPES


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_recorded_log_verifies(path: Path) -> None:
    """Bytes, hashes, numbers and results are as they were written; a changed byte would be found."""
    events = read(path)
    verdict = verify(LANE, [(logged.raw, logged.hash.encode()) for logged in events])
    assert (verdict.fault, verdict.events) == (None, len(events))
    bad = [(logged.raw.replace(b"noaa", b"nooa"), logged.hash.encode()) for logged in events]
    assert verify(LANE, bad).fault is not None


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_recorded_log_folds_as_ever(path: Path) -> None:
    """Ingest's sources and the rows of each projection are those that were written down beside the log.

    What a later version tells beside that is its own.
    """
    expected = msgspec.json.decode(path.with_suffix(".expected.json").read_bytes())
    made = msgspec.json.decode(canonical(folds(read(path))))
    for name, rows in expected.items():
        now = {id: {field: row.get(field) for field in rows.get(id, row)} for id, row in made[name].items()}
        assert now == rows
