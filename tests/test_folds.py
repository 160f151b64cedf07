"""The folds: pure, so any log can be tried at a prompt."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from projections.folds import commands, sources
from projections.folds.commands import CommandRow
from projections.folds.sources import SourceRow
from projections.projection import ALL, SOURCES, fold_all
from streams.messages import Logged, canonical
from tests.fix_projections import EPOCH, Chain, folded

IDS = st.sampled_from(["mic", "icecast", "tower.2"])
TYPES = st.sampled_from(
    [
        *(f"source.{fact}" for fact in ("added", "updated", "removed", "starting", "running")),
        *(f"source.{fact}" for fact in ("stalled", "failed", "stopped")),
        *(f"command.{outcome}" for outcome in ("completed", "failed", "rejected", "superseded", "expired")),
        *(f"condition.{what}" for what in ("opened", "closed", "acknowledged")),
        *(f"parked.{what}" for what in ("added", "retried", "dropped")),
        "lane.acquired",
        "lane.released",
        *(f"alert.{fact}" for fact in ("burst", "received", "ended")),
        "source.polished",
    ]
)
NUMBERS = st.integers(-(2**63), 2**64 - 1)
"""What JSON's decoder takes for a whole number."""
ANYTHING = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
DATA = st.fixed_dictionaries(
    {},
    optional={
        "settings": st.dictionaries(st.sampled_from(["kind", "path", "novel"]), ANYTHING, max_size=3)
        | ANYTHING,
        "name": st.text(max_size=5) | ANYTHING,
        "desired": st.sampled_from(["running", "stopped"]) | ANYTHING,
        "reason": st.sampled_from(["unreadable", "replayed", "conflict"]) | ANYTHING,
        "rate": st.integers(8000, 192000) | ANYTHING,
        "channels": ANYTHING,
        "sequence": ANYTHING,
        "request": st.text(max_size=5)
        | st.just('{"key":"operator","issued_at":"2026-01-01T00:00:00Z"}')
        | ANYTHING,
        "received_at": ANYTHING,
        "episode": st.sampled_from(["e-1", "e-2"]) | ANYTHING,
        "condition": st.just("silence") | ANYTHING,
        "by": ANYTHING,
        "id": st.sampled_from(["c-1", "c-2"]) | ANYTHING,
        "lane": st.just("p0") | ANYTHING,
        "why": ANYTHING,
        "deliveries": ANYTHING,
        "header": st.sampled_from(["ZCZC-a", "ZCZC-b"]) | ANYTHING,
        "issued_at": st.just("2026-01-01T00:00:00Z") | ANYTHING,
        "hearing": st.sampled_from(["h-1", "h-2"]) | ANYTHING,
        "event": st.sampled_from(["RWT", "TOR"]) | ANYTHING,
        "event_name": st.just("Tornado Warning") | ANYTHING,
        "confirmed": st.booleans() | ANYTHING,
        "confidence": ANYTHING,
        "locations": st.just(["020103"]) | ANYTHING,
        "places": st.just(["Leavenworth County, KS", None]) | ANYTHING,
        "tones": st.just([{"kind": "1050", "start": 1.0, "seconds": 8.0}]) | ANYTHING,
        "novel": ANYTHING,
    },
)
STEPS = st.lists(st.tuples(TYPES, IDS, st.sampled_from([None, "c-1", "c-2"]), DATA), max_size=25)


PLACES = ("seq", "until_seq", "hash", "since", "until", "updated_at", "finished_at", "at")
PLACES += ("opened_at", "closed_at", "acknowledged_at", "first_at", "last_at", "before_at")


def log_of(steps: list[tuple[str, str, str | None, dict[str, Any]]]) -> list[Logged]:
    chain, token = Chain(), 0
    for type, source, command, data in steps:
        logged = chain.event(type, source, command)
        token += type == "lane.acquired"  # each owner has a fence of its own
        event = msgspec.structs.replace(logged.event, data=data, token=token)
        chain.events[-1] = Logged(event, canonical(event), logged.hash)
    return chain.events


@settings(deadline=None)
@given(STEPS, st.lists(st.integers(1, 6), max_size=25))
def test_any_split_into_batches_gives_the_same_rows(steps: Any, sizes: list[int]) -> None:
    """Rows folded batch by batch, through what a store would keep, equal those folded in one go."""
    events = log_of(steps)
    for projection in ALL:
        kept: dict[str, Any] = {}
        rest = events
        for size in [*sizes, len(events) + 1]:
            batch, rest = rest[:size], rest[size:]
            ids = {key for one in batch if (key := projection.concerns(one.event)) is not None}
            after = fold_all(projection, {key: kept[key] for key in ids if key in kept}, batch)
            ended = after.keys() - ids
            assert not ended if projection.ended is None else not ended & kept.keys()
            kept = {key: row for key, row in {**kept, **after}.items() if row is not None}
        assert kept == folded(events)[projection.name]


@settings(deadline=None)
@given(STEPS)
def test_a_row_knows_the_last_event_that_changed_it(steps: Any) -> None:
    """A source's row names, by seq and hash, the last of its events that this version understands."""
    events = log_of(steps)
    by_seq = {logged.event.seq: logged for logged in events}
    for row in folded(events)["sources"].values():
        last = by_seq[row.seq]
        assert row.hash == last.hash
        assert last.event.source == row.id
        later = [logged for logged in events if logged.event.seq > row.seq]
        assert not [logged for logged in later if SOURCES.concerns(logged.event) == row.id]


@settings(deadline=None)
@given(STEPS, st.integers(0, 25), st.sampled_from(["source.polished", "alert.wondered", "command.wondered"]))
def test_event_types_of_a_newer_version_change_nothing(steps: Any, at: int, type: str) -> None:
    """A log with unknown events in between gives the rows that it gives without them."""
    known = [step for step in steps if step[0] not in ("source.polished",)]
    strange = (type, "mic", "c-1", {"desired": "running", "name": "changed"})
    with_strange = [*known[:at], strange, *known[at:]]

    def without_places(rows: dict[str, dict[str, Any]]) -> Any:
        plain = {
            name: {key: msgspec.to_builtins(row) for key, row in table.items()}
            for name, table in rows.items()
        }
        for table in plain.values():
            for row in table.values():
                # Where it stands in the log, and when that was: an event in between moves both.
                for place in [*PLACES, "hearings", *(name for name in row if name.endswith("_at"))]:
                    row.pop(place, None)
        # What ended has its place in its id.
        for name in ("history", "leases"):
            plain[name] = {str(n): row for n, row in enumerate(plain[name].values())}
            for row in plain[name].values():
                row["id"] = row["id"].partition("@")[0]
        return plain

    assert without_places(folded(log_of(with_strange))) == without_places(folded(log_of(known)))


@settings(deadline=None)
@given(STEPS)
def test_whatever_an_event_holds_its_rows_can_be_stored(steps: Any) -> None:
    """No row holds what Postgres refuses: NUL characters, or integers beyond bigint."""
    for table in folded(log_of(steps)).values():
        for row in table.values():
            assert b"\\u0000" not in msgspec.json.encode(row)
            for value in msgspec.structs.astuple(row):
                assert not isinstance(value, int) or -(2**63) <= value < 2**63


def source_row(*facts: tuple[str, dict[str, Any]]) -> SourceRow | None:
    chain, row = Chain(), None
    for type, data in facts:
        row = sources.fold(row, chain.event(f"source.{type}", "mic", **data))
    return row


ADDED = ("added", {"settings": {"kind": "file", "path": "/a.wav"}, "name": "Mic", "desired": "stopped"})


def test_a_source_is_what_its_events_say() -> None:
    """Added, started and running: the row has the wish, the state and what was found in the audio."""
    row = source_row(ADDED, ("starting", {"desired": "running"}), ("running", {"rate": 48000, "channels": 2}))
    assert row is not None
    assert (row.desired, row.state, row.rate, row.channels) == ("running", "running", 48000, 2)
    assert (row.kind, row.name, row.settings["path"]) == ("file", "Mic", "/a.wav")


def test_a_failed_source_keeps_its_wish_and_its_reason() -> None:
    """A failure changes what is so, not what should be; the next start takes the reason away."""
    facts = [ADDED, ("starting", {"desired": "running"}), ("failed", {"reason": "no such file"})]
    row = source_row(*facts)
    assert row is not None
    assert (row.desired, row.state, row.reason) == ("running", "failed", "no such file")
    row = source_row(*facts, ("starting", {}))
    assert row is not None
    assert (row.state, row.reason) == ("starting", None)


def test_since_is_when_the_state_began() -> None:
    """A second event with the same state, or a new name, does not make the state look younger."""
    row = source_row(
        ADDED, ("failed", {"reason": "one"}), ("failed", {"reason": "two"}), ("updated", {"name": "B"})
    )
    assert row is not None
    assert (row.since - EPOCH).total_seconds() == 1
    assert (row.updated_at - EPOCH).total_seconds() == 3
    assert (row.reason, row.name) == ("two", "B")


def test_a_row_says_what_is_recorded() -> None:
    """Its alerts, until somebody wants all of it; a new name or settings change nothing of that."""
    row = source_row(ADDED)
    assert row is not None
    assert row.recorded == "alerts"
    row = source_row(ADDED, ("updated", {"recorded": "always"}), ("updated", {"name": "B"}))
    assert row is not None
    assert (row.recorded, row.name) == ("always", "B")


def test_a_removed_source_stays_removed() -> None:
    """What a source still says after its removal does not bring it back; a new add does, from scratch."""
    gone = [ADDED, ("failed", {"reason": "x"}), ("removed", {}), ("running", {"rate": 1, "channels": 1})]
    assert source_row(*gone) is None
    row = source_row(*gone, ADDED)
    assert row is not None
    assert (row.state, row.reason, row.rate) == ("stopped", None, None)


def test_settings_of_an_unknown_kind_are_carried_whole() -> None:
    """A source of a kind that this version does not know is kept with all its settings."""
    settings = {"kind": "satellite", "dish": {"azimuth": 192.5, "feeds": [1, 2]}}
    row = source_row(("added", {"settings": settings, "name": "Sky", "novel": 1}))
    assert row is not None
    assert row.kind == "satellite"
    assert row.settings == settings


def result(outcome: str, **data: Any) -> Logged:
    request = '{"id":"c-1","key":"operator","issued_at":"2026-05-01T11:59:59.5Z","source":"mic","novel":[]}'
    more = {"type": "source.start", "sequence": 7, "request": request, "signature": "", **data}
    return Chain().event(f"command.{outcome}", "mic", "c-1", **more)


def test_a_command_is_told_with_who_asked_and_what_became_of_it() -> None:
    """The row joins the result with the signed request that it carries."""
    row = commands.fold(None, result("superseded", by="c-2", received_at="2026-05-01T11:59:59.6Z"))
    assert row is not None
    assert (row.id, row.source, row.type, row.key, row.sequence) == (
        "c-1",
        "mic",
        "source.start",
        "operator",
        7,
    )
    assert (row.outcome, row.by) == ("superseded", "c-2")
    assert row.issued_at is not None
    assert row.received_at is not None
    assert (row.received_at - row.issued_at).total_seconds() == pytest.approx(0.1)


@settings(deadline=None)
@given(STEPS)
def test_reading_a_result_in_one_go_changes_nothing(steps: Any) -> None:
    """What is read at once of a well-formed result is what its fields say one by one."""
    for logged in log_of(steps):
        if (told := commands._well_formed(logged)) is not None:
            each = commands._told(logged.event.data)
            assert msgspec.structs.replace(told, request="") == each


def test_a_result_stands() -> None:
    """A second result of a command never changes the first."""
    row = commands.fold(None, result("completed", state="running"))
    assert commands.fold(row, result("failed", reason="late")) == row


@pytest.mark.parametrize("reason", ["replayed", "conflict"])
def test_someone_elses_bytes_under_an_id_do_not_hide_its_result(reason: str) -> None:
    """Whichever comes first, the command's own result is what is shown."""
    own, foreign = result("completed", state="running"), result("rejected", reason=reason)

    def after(*events: Logged) -> CommandRow | None:
        row = None
        for logged in events:
            row = commands.fold(row, logged)
        return row

    assert after(foreign, own) == after(own, foreign) == after(own)
    shown = after(foreign)
    assert shown is not None
    assert shown.reason == reason


def test_a_request_that_cannot_be_read_is_told_without_it() -> None:
    """A rejected command whose bytes are no command has a row all the same."""
    row = commands.fold(None, result("rejected", request="\x00{", reason="malformed", sequence="seven"))
    assert row is not None
    assert (row.key, row.issued_at, row.sequence, row.reason) == ("", None, 0, "malformed")


def test_ids_that_no_row_could_have_are_left_out() -> None:
    """An id too long for an index, or with a NUL in it, concerns no row instead of stopping the lane."""
    chain = Chain()
    for strange in ("x" * 3000, "a\0b"):
        assert sources.concerns(chain.event("source.added", strange, settings={}).event) is None
        assert commands.concerns(chain.event("command.failed", "mic", strange).event) is None
