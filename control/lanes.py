"""Which lanes a station has, and who owns them."""

from __future__ import annotations

from collections.abc import Mapping

from streams.connection import Link
from streams.names import STATION_LANE, LaneKeys, floating_lanes, node_lane
from streams.settings import Settings


def all_lanes(settings: Settings, claimed: Mapping[str, str]) -> list[str]:
    """The floating lanes, this node's, those of the sources claimed (source → lane), and the station's."""
    wired = {node_lane(settings.ingest.node), *claimed.values()}
    floating = floating_lanes(settings.station.lanes)
    return [*floating, *sorted(wired - set(floating) - {STATION_LANE}), STATION_LANE]


def owner_of(link: Link, keys: LaneKeys) -> str | None:
    """The node that holds the lane's lease; None where nobody does. Raises Unreachable."""
    fence: bytes | None = link.call("GET", keys.lease)
    return fence.decode().split(" ")[0] if fence else None
