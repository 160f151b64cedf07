"""Headers of alerts: what they say, and what is wrong with them."""

from __future__ import annotations

import importlib.metadata
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.same import names
from ingest.same.header import MOST_LOCATIONS, parse
from ingest.weekly_test import header as weekly_header

NOW = datetime(2026, 11, 25, 14, 0, tzinfo=UTC)
VALID = [15, 30, 45, 60, *range(90, 100 * 60, 30)]
CODES = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ", min_size=3, max_size=3)
PLACES = st.lists(st.from_regex(r"[0-9]{6}", fullmatch=True), min_size=1, max_size=MOST_LOCATIONS)
STATIONS = st.from_regex(r"[A-Z0-9/]([A-Z0-9/ ]{6}[A-Z0-9/]|[A-Z0-9/]{3} {4})", fullmatch=True)
MOMENTS = st.integers(0, 334 * 24 * 60).map(
    lambda minutes: datetime(2026, 6, 1, tzinfo=UTC) + timedelta(minutes=minutes)
)
"""What lies within half a year of NOW: there the day of the year tells the year."""


def text_of(
    originator: str, event: str, locations: list[str], minutes: int, issued: datetime, station: str
) -> str:
    """The header that says this."""
    validity = f"{minutes // 60:02}{minutes % 60:02}"
    return f"ZCZC-{originator}-{event}-{'-'.join(locations)}+{validity}-{issued:%j%H%M}-{station}-"


@given(CODES, CODES, PLACES, st.sampled_from(VALID), MOMENTS, STATIONS)
def test_what_a_header_says_is_what_is_read(
    originator: str, event: str, locations: list[str], minutes: int, issued: datetime, station: str
) -> None:
    """Any header by the rules, with up to 31 locations, gives back its parts and has no problem."""
    issued = issued.replace(second=0, microsecond=0)
    text = text_of(originator, event, locations, minutes, issued, station)
    read = parse(text, NOW)
    assert read.problems == ()
    assert (read.header, read.originator, read.event) == (text, originator, event)
    assert (read.locations, read.valid_minutes) == (tuple(locations), minutes)
    assert (read.issued_at, read.expires_at) == (issued, issued + timedelta(minutes=minutes))
    assert read.station == station.strip()
    assert len(read.places) == len(locations)


WHOLE = text_of("WXR", "TOR", ["020103", "048201"], 30, NOW, "KEAX/NWS")


@given(st.one_of(st.text(), st.text("ZCQN-+0123456789ABC "), st.text().map(lambda text: WHOLE + text)))
def test_whatever_was_heard_can_be_read(text: str) -> None:
    """No text makes the reader fail, and one that is no header has a problem that says so."""
    read = parse(text, NOW)
    assert read.header == text
    assert read.problems or (read.issued_at and read.expires_at and read.locations)


@given(st.integers(0, len(WHOLE) - 1), st.text(min_size=0, max_size=2))
def test_a_damaged_header_is_read_as_far_as_it_can_be(at: int, other: str) -> None:
    """One character that was cut out or is another one never hides what stands elsewhere."""
    read = parse(WHOLE[:at] + other + WHOLE[at + 1 :], NOW)
    assert "problems" in read.__struct_fields__
    if at > WHOLE.index("+") and "+" not in other:
        assert (read.originator, read.event) == ("WXR", "TOR")
        assert read.locations == ("020103", "048201")


def test_names_are_those_of_the_tables() -> None:
    """Event, originator, and places: a county, a part of one, a whole state, the whole country."""
    text = text_of("WXR", "TOR", ["020103", "348201", "048000", "000000"], 45, NOW, "KEAX/NWS")
    read = parse(text, NOW)
    assert (read.event_name, read.originator_name) == ("Tornado Warning", "National Weather Service")
    assert read.places == (
        "Leavenworth County, KS",
        "Northeast Harris County, TX",
        "State of Texas",
        "All of The United States",
    )


def test_a_code_that_is_not_in_the_tables_is_unknown_and_no_problem() -> None:
    """A new event, a strange originator, a place with a number that nobody has: unknown, and that is all."""
    read = parse(text_of("XYZ", "QQQ", ["099998", "075610"], 15, NOW, "KEAX/NWS"), NOW)
    assert (read.originator_name, read.event_name, read.places[0]) == (None, None, None)
    assert read.places[1] == "Lake Okeechobee, AM"
    assert read.problems == ()


@pytest.mark.parametrize(
    ("day", "now", "year"),
    [
        ("0010005", datetime(2026, 12, 31, 23, 59, tzinfo=UTC), 2027),
        ("3652355", datetime(2027, 1, 1, 0, 5, tzinfo=UTC), 2026),
        ("3661200", datetime(2025, 1, 1, 0, 0, tzinfo=UTC), 2024),
        ("0601200", datetime(2024, 3, 1, 0, 0, tzinfo=UTC), 2024),
    ],
)
def test_the_year_is_the_one_nearest_to_now(day: str, now: datetime, year: int) -> None:
    """Around New Year, and in leap years, the day of the year means the one that is nearest."""
    issued = parse(f"ZCZC-WXR-RWT-020103+0015-{day}-KEAX/NWS-", now).issued_at
    assert issued is not None
    assert issued.year == year
    assert issued.strftime("%j%H%M") == day


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("ZCZC-WXR-RWT-020103+0015-3291300-KEAX/NWS", "it does not end with a dash"),
        ("WXR-RWT-020103+0015-3291300-KEAX/NWS-", "it does not begin with ZCZC-"),
        ("ZCZC-WXR-RWT-020103-0015-3291300-KEAX/NWS-", "there is no + before the validity"),
        ("ZCZC-WX-RWT-020103+0015-3291300-KEAX/NWS-", "the originator 'WX' is not three capital letters"),
        ("ZCZC-WXR-R2T-020103+0015-3291300-KEAX/NWS-", "the event 'R2T' is not three capital letters"),
        ("ZCZC-WXR-RWT-20103+0015-3291300-KEAX/NWS-", "the location '20103' is not six digits"),
        ("ZCZC-WXR-RWT+0015-3291300-KEAX/NWS-", "there is no location"),
        ("ZCZC-WXR-RWT-020103+0020-3291300-KEAX/NWS-", "the validity '0020' is not in steps"),
        ("ZCZC-WXR-RWT-020103+0115-3291300-KEAX/NWS-", "the validity '0115' is not in steps"),
        ("ZCZC-WXR-RWT-020103+0000-3291300-KEAX/NWS-", "it is valid for no time at all"),
        ("ZCZC-WXR-RWT-020103+0015-3292400-KEAX/NWS-", "the time of issue '3292400' is not"),
        ("ZCZC-WXR-RWT-020103+0015-3671300-KEAX/NWS-", "there is no day 367"),
        ("ZCZC-WXR-RWT-020103+0015-3661300-KEAX/NWS-", "there is no day 366"),
        ("ZCZC-WXR-RWT-020103+0015-3291300-KEAX-", "the station 'KEAX' is not eight characters"),
        (
            "ZCZC-WXR-RWT-" + "-".join(["020103"] * 32) + "+0015-3291300-KEAX/NWS-",
            "there are 32 locations; at most 31 are allowed",
        ),
    ],
)
def test_what_breaks_the_format_is_told(text: str, problem: str) -> None:
    """Each fault by itself is told in words, and it is the only one that is told."""
    problems = parse(text, NOW).problems
    assert [told for told in problems if told.startswith(problem)], problems
    assert len(problems) == 1, problems


def test_the_demo_plays_a_header_by_the_rules() -> None:
    """The generated weekly test is one that nobody can find fault with."""
    read = parse(weekly_header(NOW), NOW)
    assert (read.event, read.places, read.issued_at) == ("RWT", ("Leavenworth County, KS",), NOW)
    assert read.problems == ()


def test_names_are_read_without_importing_their_package() -> None:
    """The package would fetch from the network when it is imported."""
    assert names.event_name("RWT") == "Required Weekly Test"
    assert "EAS2Text" not in sys.modules


def test_an_alert_is_read_without_names_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the tables are gone, every code is unknown, and nothing else is missing."""

    def gone(name: str) -> Any:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(names, "distribution", gone)
    names.tables.cache_clear()
    try:
        read = parse(weekly_header(NOW), NOW)
    finally:
        names.tables.cache_clear()
    assert (read.event, read.event_name, read.places, read.problems) == ("RWT", None, (None,), ())
