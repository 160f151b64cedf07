"""What single screens are told: failovers, clocks, the station log, counties, how things were."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import msgspec
import pytest

from projections.alerts import covering
from projections.screens.nodes import FIELDS, node
from projections.screens.redis_standing import Moved, RedisStanding, standing
from projections.screens.station_log import FIELDS as COLUMNS
from projections.screens.station_log import Reception, as_csv
from projections.tables import levels
from streams.messages import now
from streams.sentinel import Address, Opinion
from streams.settings import RedisSection
from tests.fix_alerts import received
from tests.fix_projections import LANE, Yard
from tests.fix_servers import eventually
from tests.test_dashboard import asking

AT = datetime(2026, 5, 1, 12, tzinfo=UTC)
OLD, NEW = Address("10.0.0.1", 6379), Address("10.0.0.2", 6379)


def opinion(address: Address = OLD, *flags: str) -> Opinion:
    return Opinion(address=address, epoch=1, flags=frozenset({"master", *flags}))


@pytest.mark.parametrize(
    ("said", "away", "state", "words"),
    [
        ([opinion(), opinion(), opinion()], False, "up", "3 of 3 Sentinels answer"),
        ([opinion(), None, None], False, "up", "1 of 3 Sentinels answer"),
        ([opinion(OLD, "s_down"), opinion(), opinion()], True, "away", "The Sentinels see no fault yet"),
        ([opinion(OLD, "s_down"), opinion(OLD, "o_down"), None], True, "failover", "2 of 3 Sentinels see to"),
        ([opinion(OLD, "failover_in_progress")] * 3, False, "failover", "10.0.0.1:6379 is down"),
        ([None, None, None], True, "away", "only 0 of 3 Sentinels do"),
        ([], True, "away", "Redis does not answer."),
        ([], False, "up", "Redis answers."),
    ],
)
def test_a_failover_is_what_a_majority_of_sentinels_sees(
    said: list[Opinion | None], away: bool, state: str, words: str
) -> None:
    """One Sentinel's fear is none, and a server that does not answer us may only be away from us."""
    by_address = {f"s{number}:26379": one for number, one in enumerate(said)}
    found = standing(by_address, 2, "10.0.0.1:6379", None, away=away)
    assert found.state == state
    assert words in found.message
    assert [one.primary is None for one in found.sentinels] == [one is None for one in said]


def test_another_primary_is_remembered_with_when(monkeypatch: pytest.MonkeyPatch) -> None:
    """From which server to which, when it was noticed; no answer in between is no move."""
    answers = [[opinion()] * 3, [None] * 3, [opinion(NEW)] * 3, [opinion(NEW)] * 3]
    monkeypatch.setattr(
        "projections.screens.redis_standing.ask_each",
        lambda redis: dict(zip(redis.sentinels, answers.pop(0), strict=True)),
    )
    redis = RedisStanding(RedisSection(sentinels=("a:1", "b:1", "c:1")))
    moved = [redis.look(away=False).moved for _ in range(4)]
    assert moved[:2] == [None, None]
    assert isinstance(moved[2], Moved)
    assert (moved[2].before, moved[2].after) == ("10.0.0.1:6379", "10.0.0.2:6379")
    assert moved[3] == moved[2]


def beat(**given: Any) -> list[bytes | None]:
    told = {"time": msgspec.to_builtins(AT).encode(), "address": b"rx", "version": b"1", **given}
    return [told.get(name) for name in FIELDS]


def test_a_clock_is_measured_against_when_redis_had_the_heartbeat() -> None:
    """It has 57 s left to live, so it came 3 s ago: what its own clock said then was 7 s ahead."""
    found = node("rx", beat(), 57_000, AT - timedelta(seconds=4))
    assert (found.age_seconds, found.clock_offset) == (3.0, 7.0)
    assert node("rx", beat(), 57_000, AT + timedelta(seconds=3)).clock_offset == 0.0


def test_a_clock_is_as_its_node_measured_it() -> None:
    """What the heartbeat says of it goes before what its time looks like; nonsense does not."""
    assert node("rx", beat(clock=b"-2.250"), 57_000, AT).clock_offset == -2.25
    assert node("rx", beat(clock=b"noon"), 57_000, AT - timedelta(seconds=4)).clock_offset == 7.0


@pytest.mark.parametrize("left", [None, -1, -2, 99_999, b"x"])
def test_without_knowing_when_it_came_no_clock_is_off(left: Any) -> None:
    """A heartbeat that never expires, or is gone, says nothing of its clock; nor does one of nonsense."""
    assert node("rx", beat(), left, AT).clock_offset is None
    assert node("rx", [None] * len(FIELDS), left, AT).beat is None
    odd = node("rx", beat(lanes=b"{", sources=b"[1]", disk=b"7", breakers=b"\xff"), left, AT)
    assert (odd.lanes, odd.sources, odd.disk, odd.breakers) == (None, None, None, None)


def reception(**given: Any) -> Reception:
    told = {"received_at": AT, "source": "mic", "event": "RWT", "event_name": "Required Weekly Test"}
    empty: dict[str, Any] = dict.fromkeys(COLUMNS)
    rest = {"places": [], "locations": [], "confirmed": True, "heard": 1, "problems": [], "header": "ZCZC"}
    return Reception(**{**empty, **told, **rest, **given})


def test_the_log_is_csv_that_a_spreadsheet_does_not_run() -> None:
    """A line for each reception, times in UTC; what came over the air is no formula."""
    evil = '=HYPERLINK("http://x")'
    text = as_csv([reception(station=evil, places=["A, KS", "B, MO"]), reception(confirmed=False)])
    first, second = csv.DictReader(io.StringIO(text))
    assert tuple(first) == COLUMNS
    assert first["received_at"] == "2026-05-01T12:00:00Z"
    assert (first["station"], first["places"], first["confirmed"]) == (f"'{evil}", "A, KS; B, MO", "yes")
    assert (second["confirmed"], second["expires_at"]) == ("no", "")


def test_a_county_is_concerned_by_its_parts_its_state_and_the_country() -> None:
    """All codes that may stand in a header for Leavenworth County, KS."""
    codes = covering("20103")
    assert {"020103", "720103", "020000", "000000"} <= set(codes)
    assert not {"020209", "029000"} & set(codes)


def test_the_past_of_a_source_and_of_the_station(yard: Yard) -> None:
    """Levels by minute, states and conditions, receptions, verdicts, and how it was: each from its table."""
    scribe = yard.scribe()
    scribe.add("mic", running=True)
    scribe.write("condition.opened", "mic", episode="e-1", kind="silence", detail="no sound")
    scribe.write("alert.received", "mic", **received("h-1"))
    yard.link.call("HSET", yard.keys.sources, "mic", LANE)
    minute = now().replace(second=0, microsecond=0) - timedelta(minutes=2)
    row = {"source": "mic", "span": 60, "at": minute, "lane": LANE, "count": 3, "power": 0.03, "silent": 1}
    row |= {"loudness": 0.01, "loud": 2, "momentary_most": -21.0, "true_peak": -8.5}
    with yard.engine.begin() as connection:
        connection.execute(levels.insert(), [{**row, "rms_least": None, "rms_most": -19.0, "peak": -9.0}])
    with yard.projections(), asking(yard.settings) as client:

        def get(path: str) -> Any:
            answer: httpx.Response = client.get(path)
            return answer.json()["data"] if answer.status_code == 200 else {}

        eventually(lambda: get("/api/audio/log?days=3000"), "the alert is folded")
        eventually(lambda: any(lane["verified"] == 5 for lane in get("/api/audit/lanes")), "verified", 40)
        (level,) = get("/api/audio/sources/mic/levels?hours=1")["levels"]
        assert (level["rms_dbfs"], level["peak_dbfs"], level["silent"]) == (-20.0, -9.0, 0.3333)
        assert (level["loudness_lufs"], level["momentary_lufs"]) == (-23.01, -21.0)
        assert level["true_peak_dbtp"] == -8.5
        past = get("/api/audio/sources/mic/history?hours=8000")
        assert [state["state"] for state in past["states"]][:2] == ["running", "starting"]
        assert [one["condition"] for one in past["conditions"]] == ["silence"]
        assert get("/api/audio/log?days=3000")[0]["event"] == "RWT"
        assert "Required Weekly Test" in client.get("/api/audio/log.csv?days=3000").text
        state = get("/api/audit/state?at=2026-05-01T12:00:01Z")
        assert [(one["id"], one["state"]) for one in state["sources"]] == [("mic", "starting")]
        assert get("/api/audit/state?at=2020-01-01T00:00:00Z")["sources"] == []
        assert client.get("/api/audit/state?at=2026-13-01T00:00:00Z").status_code == 400
        system = get("/api/audio/system")
        assert (system["postgres"], system["redis"]["state"]) == ("up", "up")
        for query, heard in (("county=20103", 1), ("county=29095", 0), ("active=true", 0), ("event=TOR", 0)):
            assert len(get(f"/api/audio/alerts?{query}")) == heard, query
