"""The projections of alerts: messages with their hearings, and what each decoder has heard."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from projections.folds.alerts import HEARINGS, AlertRow, alert_id
from projections.folds.decoders import OTHER, DecoderRow
from projections.projection import ALERTS, DECODERS
from streams.messages import Logged
from tests.fix_alerts import received
from tests.fix_projections import Chain, folded

SOURCES = ("mic", "tower")


def one(events: list[Logged], source: str = "mic") -> AlertRow:
    """The only row of that source."""
    (row,) = [row for row in folded(events)[ALERTS.name].values() if row.source == source]
    assert isinstance(row, AlertRow)
    return row


def decoder(events: list[Logged]) -> DecoderRow | None:
    found = folded(events)[DECODERS.name].get("mic")
    assert found is None or isinstance(found, DecoderRow)
    return found


def test_a_message_has_what_its_header_says_and_when_it_ended() -> None:
    """Received and ended: one row, one hearing, with the times at which both were heard."""
    chain = Chain()
    begun = chain.event("alert.received", "mic", **received("h-1"))
    ended = chain.event(
        "alert.ended", "mic", **{**received("h-1"), "tones": [{"kind": "1050", "seconds": 8}]}
    )
    row = one(chain.events)
    assert (row.event, row.event_name, row.heard) == ("RWT", "Required Weekly Test", 1)
    assert (row.locations, row.places) == (["020103"], ["Leavenworth County, KS"])
    assert (row.first_at, row.last_at, row.ended_at) == (begun.event.at, begun.event.at, ended.event.at)
    (hearing,) = row.hearings
    assert hearing["id"] == "h-1"
    assert hearing["tones"] == [{"kind": "1050", "start": None, "seconds": 8.0}]
    assert (row.seq, row.hash) == (2, ended.hash)


def test_heard_again_it_is_the_same_message_once_more() -> None:
    """A message that a source plays twice has two hearings; one that is told twice has one."""
    chain = Chain()
    for hearing in ("h-1", "h-2", "h-2", "h-1"):
        chain.event("alert.received", "mic", **received(hearing))
    row = one(chain.events)
    assert (row.heard, [hearing["id"] for hearing in row.hearings]) == (2, ["h-1", "h-2"])


def test_two_sources_have_a_row_each_that_know_of_one_another() -> None:
    """The same message heard by two: the rows share `alert`, by which readers put them together."""
    chain = Chain()
    chain.event("alert.received", "mic", **received("h-1"))
    chain.event("alert.received", "tower", **received("h-2"))
    assert one(chain.events).alert == one(chain.events, "tower").alert
    assert one(chain.events).id != one(chain.events, "tower").id


def test_the_same_header_a_year_later_is_another_message() -> None:
    """A header has no year: its time of issue, which has one, tells two of them apart."""
    chain = Chain()
    chain.event("alert.received", "mic", **received("h-1"))
    chain.event("alert.received", "mic", **{**received("h-2"), "issued_at": "2025-05-01T11:55:00Z"})
    assert len(folded(chain.events)[ALERTS.name]) == 2


def test_one_confirmed_hearing_confirms_the_message() -> None:
    """A reception in doubt stays one; a better one counts for the message, and is not taken back."""
    chain = Chain()
    chain.event("alert.received", "mic", **received("h-1", confirmed=False, confidence=0.4))
    assert not one(chain.events).confirmed
    chain.event("alert.received", "mic", **received("h-2", confidence=0.9))
    chain.event("alert.received", "mic", **received("h-3", confirmed=False, confidence=0.5))
    row = one(chain.events)
    assert (row.confirmed, row.confidence) == (True, 0.9)
    assert [hearing["confirmed"] for hearing in row.hearings] == [False, True, False]


def test_an_end_without_a_message_is_none() -> None:
    """An end of nothing, or of a hearing that nobody knows, changes no row."""
    chain = Chain()
    chain.event("alert.ended", "mic", end=3.0)
    chain.event("alert.received", "mic", **received("h-1"))
    before = one(chain.events)
    chain.event("alert.ended", "mic", **received("h-9"))
    assert one(chain.events) == before


TOLD = st.lists(
    st.tuples(
        st.sampled_from(["alert.received", "alert.ended", "alert.burst"]),
        st.sampled_from(SOURCES),
        st.integers(1, 4),
    ),
    max_size=40,
)


@settings(deadline=None)
@given(TOLD)
def test_every_hearing_counts_once(told: list[tuple[str, str, int]]) -> None:
    """Whatever is told, how often and in which order: a row has as many hearings as were received."""
    chain = Chain()
    for type, source, number in told:
        chain.event(type, source, **received(f"{source}-{number}"))
    rows = folded(chain.events)[ALERTS.name].values()
    for source in SOURCES:
        hearings = {number for type, by, number in told if (type, by) == ("alert.received", source)}
        assert [row.heard for row in rows if row.source == source] == ([len(hearings)] if hearings else [])
    for row in rows:
        times = [hearing["at"] for hearing in row.hearings]
        assert times == sorted(times)
        assert row.alert == alert_id(row.header, row.issued_at)


def test_a_row_does_not_grow_without_end() -> None:
    """Of a recording that plays for ever the latest hearings are kept, and all are counted."""
    chain = Chain()
    for number in range(HEARINGS + 5):
        chain.event("alert.received", "mic", **received(f"h-{number}"))
    row = one(chain.events)
    assert (row.heard, len(row.hearings)) == (HEARINGS + 5, HEARINGS)
    assert row.hearings[-1]["id"] == f"h-{HEARINGS + 4}"


# What a decoder has heard.


def test_a_decoder_counts_what_it_heard() -> None:
    """Bursts and confirmed messages, the times of the last of them, and since when it should hear any."""
    chain = Chain()
    chain.event("source.added", "mic", settings={"kind": "file"}, desired="stopped")
    assert decoder(chain.events) == DecoderRow(
        id="mic", since=None, bursts=0, last_burst_at=None, last_test_at=None, alerts={}
    )
    started = chain.event("source.starting", "mic", desired="running")
    chain.event("source.starting", "mic", reason="reconciled")
    burst = chain.event("alert.burst", "mic", text="ZCZC", confidence=1.0, start=0.0, end=1.0)
    test = chain.event("alert.received", "mic", **received("h-1"))
    chain.event("alert.received", "mic", **received("h-2", event="TOR", event_name="Tornado Warning"))
    chain.event("alert.received", "mic", **received("h-3", confirmed=False))
    row = decoder(chain.events)
    assert row is not None
    assert (row.since, row.bursts, row.last_burst_at) == (started.event.at, 1, burst.event.at)
    assert (row.last_test_at, row.alerts) == (test.event.at, {"RWT": 1, "TOR": 1})
    chain.event("source.stopped", "mic", desired="stopped")
    stopped = decoder(chain.events)
    assert stopped is not None
    assert stopped.since is None
    chain.event("source.removed", "mic")
    assert decoder(chain.events) is None


def test_events_without_a_name_are_counted_together() -> None:
    """What somebody sends makes no new series: only events that have a name are counted by their code."""
    chain = Chain()
    chain.event("source.added", "mic", settings={"kind": "file"}, desired="stopped")
    strange: list[dict[str, Any]] = [{"event": code, "event_name": None} for code in ("QQQ", "QQR", None)]
    for number, changed in enumerate(strange):
        chain.event("alert.received", "mic", **{**received(f"h-{number}"), **changed})
    row = decoder(chain.events)
    assert row is not None
    assert row.alerts == {OTHER: 3}
