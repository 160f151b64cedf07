"""Names of stations, lanes, sources and keys."""

from __future__ import annotations

from collections import Counter
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams import names
from streams.names import InvalidName, LaneKeys, StationKeys


def test_keys_are_those_of_the_contract() -> None:
    """Every key begins with the station and has the name that CONTRACT gives it."""
    station = StationKeys("north")
    lane = station.lane("p3")
    assert station.meta == "tocsin:north:meta"
    assert station.sources == "tocsin:north:sources"
    assert station.replies("c1") == "tocsin:north:replies:c1"
    assert station.node("local") == "tocsin:north:node:local"
    assert station.source_snapshot("kwfm") == "tocsin:north:snapshot:source:kwfm"
    found = {name: getattr(lane, name) for name in dir(LaneKeys) if isinstance(getattr(lane, name), str)}
    found = {name: key for name, key in found.items() if key.startswith("tocsin") and name != "prefix"}
    assert found == {
        "commands": "tocsin:north:{p3}:commands",
        "events": "tocsin:north:{p3}:events",
        "head": "tocsin:north:{p3}:head",
        "lease": "tocsin:north:{p3}:lease",
        "ids": "tocsin:north:{p3}:ids",
        "id_expiry": "tocsin:north:{p3}:ids:expiry",
        "sequence": "tocsin:north:{p3}:sequence",
        "parked": "tocsin:north:{p3}:parked",
        "state": "tocsin:north:{p3}:state",
        "archived": "tocsin:north:{p3}:archived",
        "telemetry": "tocsin:north:{p3}:telemetry",
    }


@pytest.mark.parametrize("kind", ["file", "device", "pipe"])
def test_wired_sources_live_in_their_nodes_lane(kind: str) -> None:
    """What is wired to a machine never moves away from it."""
    assert names.lane_for(kind, "kwfm", node="roof", lane_count=8) == "node.roof"


def test_streams_are_spread_by_the_crc_of_their_id() -> None:
    """A stream's lane follows from its id and the lane count alone, and all lanes get some."""
    ids = [f"stream-{n}" for n in range(800)]
    lanes = [names.lane_for("stream", id, node="roof", lane_count=8) for id in ids]
    assert lanes == [f"p{crc32(id.encode()) % 8}" for id in ids]
    assert set(lanes) == set(names.floating_lanes(8))
    assert min(Counter(lanes).values()) > 50


@given(st.text())
def test_names_are_checked_to_their_last_character(text: str) -> None:
    """What is accepted is made of the allowed characters only; the rest is refused with field and value."""
    allowed = set("abcdefghijklmnopqrstuvwxyz0123456789-")
    for check, extra, longest in (
        (names.station_id, set(), 32),
        (names.node_name, set(), 32),
        (names.source_id, set("._"), 64),
    ):
        fits = 0 < len(text) <= longest and set(text) <= allowed | extra
        try:
            accepted = check(text)
        except InvalidName as refused:
            accepted = None
            told = str(refused)
        if accepted is None:
            assert repr(text) in told
            assert not fits or text[0] in "-._"
        else:
            assert accepted == text
            assert fits


@pytest.mark.parametrize("text", ["", "A", "-a", "a\n", "a b", "a" * 65, "é", "a:b", "{a}"])
def test_a_source_id_that_breaks_its_pattern_is_refused(text: str) -> None:
    """Ids go into keys and URLs: nothing that could change their meaning gets through."""
    with pytest.raises(InvalidName, match="source"):
        names.source_id(text)
