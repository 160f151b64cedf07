"""Logs recorded by earlier versions are verified and folded as ever.

They were made by `tests/programs/record_history.py`; each schema version of events keeps its own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from control import stationlane
from ingest import ledger
from projections.folding import Batch, concerning
from projections.notify.episodes import acknowledgement, closing, openings
from projections.projection import ALL, Projection, take
from streams import keybook, memberships
from streams.alerts import ALERT_EVENTS
from streams.audit import verify
from streams.authorship import Authors
from streams.memberships import Memberships
from streams.messages import OUTCOMES, SCHEMA, Event, Logged, canonical, decode_event
from streams.names import STATION_LANE
from streams.notices import Kind, Rule
from streams.recordings import RECORDING_EVENTS
from streams.vocabulary import EVENTS

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
TYPES = EVENTS.union(
    ALERT_EVENTS.values(), RECORDING_EVENTS.values(), keybook.EVENTS, *(one.types or () for one in ALL)
)
"""All types that are written, or that a fold asks for."""
UNFOLDED = {"log.restored", "log.forked"}
"""The types that no fold reads: they are told to people."""
UNREAD = {
    **{f"command.{outcome}": {"entry", "signature"} for outcome in OUTCOMES},
    "alert.burst": {"text", "confidence", "start", "end"},
    "alert.ended": {"end"},
    "condition.acknowledged": {"kind"},
    "group.switched": {"was"},
    "lane.acquired": {"fence"},
    "rejections.counted": {"since", "until", "reasons", "keys"},
    "source.added": {"desired"},
    "source.starting": {"reason"},
}
"""Fields of their data that no fold reads, or that say in all histories what is taken for granted."""
OPENING: tuple[Kind, ...] = ("source.failed", "source.stalled", "parked", "alert")
RULES = [Rule(name=kind, on=kind, to=("desk",)) for kind in OPENING]
Rows = dict[str, Any]


class Line(msgspec.Struct, frozen=True):
    """One event of a recorded log: its bytes, which are text, and the hash that stood beside them."""

    event: str
    hash: str


def read(path: Path) -> list[Logged]:
    """The events of a recorded log."""
    lines = [msgspec.json.decode(line, type=Line) for line in path.read_bytes().splitlines()]
    return [Logged(decode_event(line.event), line.event.encode(), line.hash) for line in lines]


def lane_of(path: Path) -> str:
    """The lane whose log a history is."""
    return STATION_LANE if path.stem == STATION_LANE else LANE


def projected(projection: Projection, events: list[Logged]) -> tuple[Rows, Rows]:
    """The rows by id after the events, as the runner makes them; and those that ended for good."""
    rows: Rows = {}
    ids = set()
    for id, logged, error in concerning(projection, Batch(events)):
        assert id is not None, error
        take(projection, rows, id, logged)
        ids.add(id)
    found = {id: row for id, row in rows.items() if row is not None}
    return (
        {id: row for id, row in found.items() if id in ids},
        {id: row for id, row in found.items() if id not in ids},
    )


def remembered(events: list[Logged]) -> dict[str, Rows]:
    """What the owners of lanes, and who verifies for them, know by the events."""
    past, station = ledger.past_of(events), stationlane.past_of(events)
    members: Memberships = {}
    for logged in events:
        members = memberships.fold(members, logged.event)
    return {
        "ingest": past.sources,
        "ingest.entered": {boot: {"ranges": ranges} for boot, ranges in past.entered.items()},
        "station.keys": station.keys,
        "station.groups": {group.id: group for group in station.groups},
        "station.closed": {f"{one.lane}/{one.id}": one for one in station.closed},
        "members": dict(members),
    }


def notified(lane: str, events: list[Logged]) -> Rows:
    """What each event says of the episodes that people are notified of."""
    said: Rows = {}
    for logged in events:
        event, seq = logged.event, logged.event.seq
        said |= {f"{seq} opens {one.rule}": one for one in openings(RULES, lane, event)}
        said |= {f"{seq} closes": closing(lane, event), f"{seq} acknowledges": acknowledgement(lane, event)}
    return {id: one for id, one in said.items() if one is not None}


def folds(lane: str, events: list[Logged]) -> dict[str, Rows]:
    """What owners remember and each projection's fold makes of the events, as JSON would have it."""
    made = remembered(events) | {"notify": notified(lane, events)}
    for projection in ALL:
        made[projection.name], ended = projected(projection, events)
        if projection.ended is not None:
            made[f"{projection.name}.ended"] = ended
    plain: dict[str, Rows] = msgspec.json.decode(canonical(made))
    return plain


def expected_of(path: Path) -> dict[str, Rows]:
    """What was written down beside a log."""
    expected: dict[str, Rows] = msgspec.json.decode(path.with_suffix(".expected.json").read_bytes())
    return expected


def as_told(made: dict[str, Rows], expected: dict[str, Rows]) -> dict[str, Rows]:
    """Of what is made now what an earlier version told: its folds, and of each row its fields."""
    return {
        name: {id: {field: row.get(field) for field in rows.get(id, row)} for id, row in made[name].items()}
        for name, rows in expected.items()
    }


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
    events, lane = read(path), lane_of(path)
    verdict = verify(lane, [(logged.raw, logged.hash.encode()) for logged in events])
    assert (verdict.fault, verdict.events) == (None, len(events))
    bad = [(logged.raw.replace(b"noaa", b"nooa"), logged.hash.encode()) for logged in events]
    assert verify(lane, bad).fault is not None


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_recorded_log_folds_as_ever(path: Path) -> None:
    """What owners remember and the rows of each projection are those that were written down beside the log.

    What a later version tells beside that is its own.
    """
    expected = expected_of(path)
    assert as_told(folds(lane_of(path), read(path)), expected) == expected


def test_every_type_of_event_is_recorded() -> None:
    """Of each that is written today, or that a fold asks for, there is one in a history of today's schema."""
    paths = [path for path in RECORDED if path.parent.name == f"schema-{SCHEMA}"]
    recorded = {logged.event.type for path in paths for logged in read(path)}
    assert recorded >= TYPES, f"record a history with {sorted(TYPES - recorded)}: see record_history"


def test_every_fold_has_rows_to_be_compared() -> None:
    """Each projection's, and whatever owners remember: none is told of in no history."""
    told = {name for path in RECORDED for name, rows in expected_of(path).items() if rows}
    names = folds(LANE, []).keys()
    assert told >= names, f"record a history with {sorted(names - told)}: see record_history"


def overlooked(change: Callable[[Event], Event | None]) -> bool:
    """Whether all histories fold as ever where each event is another, or none at all."""

    def fold_as_ever(path: Path) -> bool:
        changed = [(change(logged.event), logged) for logged in read(path)]
        events = [Logged(event, logged.raw, logged.hash) for event, logged in changed if event]
        expected = expected_of(path)
        try:
            return as_told(folds(lane_of(path), events), expected) == expected
        except msgspec.ValidationError:
            return False

    return all(fold_as_ever(path) for path in RECORDED)


@pytest.mark.parametrize("type", sorted(TYPES - UNFOLDED))
def test_a_type_that_is_misread_is_found(type: str) -> None:
    """A fold that took no notice of it any more would not make what was written down."""
    assert not overlooked(lambda event: None if event.type == type else event)


@pytest.mark.parametrize("type", sorted(TYPES - UNFOLDED))
def test_a_field_that_is_misread_is_found(type: str) -> None:
    """Nor would one that did not find a field of its data any more."""

    def without(field: str, event: Event) -> Event:
        if event.type != type or field not in event.data:
            return event
        rest = {name: value for name, value in event.data.items() if name != field}
        return msgspec.structs.replace(event, data=rest)

    data = [one.event.data for path in RECORDED for one in read(path) if one.event.type == type]
    fields = {name for one in data for name in one}
    lost = {field for field in fields if overlooked(partial(without, field))}
    assert lost <= UNREAD.get(type, set())


@pytest.mark.parametrize(
    "path", [path for path in RECORDED if lane_of(path) == STATION_LANE], ids=lambda path: path.parent.name
)
def test_the_keys_in_a_recorded_log_verify_what_they_signed(path: Path) -> None:
    """Also with a half that was rotated since, and by one that was revoked; no shared secret signed here."""
    events = read(path)
    keys = keybook.ever(stationlane.past_of(events).keys, {})
    entries = [(logged.raw, logged.hash.encode()) for logged in events]
    verdict = verify(STATION_LANE, entries, authors=Authors(keys))
    assert verdict.fault is None
    assert verdict.signatures is not None
    results = [logged for logged in events if logged.event.type.startswith("command.")]
    assert (verdict.signatures.checked, verdict.signatures.elsewhere) == (len(results), {})
