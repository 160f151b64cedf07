"""Which lanes a station has: those its settings name, and those its sources were put into."""

from __future__ import annotations

import re

from sqlalchemy import Connection, select

from projections.tables import positions
from streams.connection import Link
from streams.names import STATION_LANE, StationKeys, floating_lanes, node_lane
from streams.settings import Settings

LANE = re.compile(r"station|p\d{1,2}|node\.[a-z0-9][a-z0-9-]{0,31}")


def settled_lanes(settings: Settings) -> list[str]:
    """The lanes that exist whatever sources there are."""
    return [STATION_LANE, *floating_lanes(settings.station.lanes), node_lane(settings.ingest.node)]


def claimed_lanes(link: Link, keys: StationKeys) -> list[str]:
    """The lanes that sources were put into, by any node. Raises Unreachable."""
    values: list[bytes] = link.call("HVALS", keys.sources)
    names = {value.decode("utf-8", "replace") for value in values}
    return sorted(name for name in names if LANE.fullmatch(name))


def nodes_of(lanes: list[str]) -> list[str]:
    """The nodes whose own lanes are among `lanes`."""
    return [lane.removeprefix("node.") for lane in lanes if lane.startswith("node.")]


def folded_lanes(connection: Connection) -> list[str]:
    """The lanes that were folded before, whether or not anything names them today."""
    return sorted(connection.scalars(select(positions.c.lane).distinct()))
