"""Names of stations, lanes, sources and Redis keys (one place, so that nobody spells a key)."""

from __future__ import annotations

import re
from zlib import crc32

import msgspec

STATION_ID = re.compile(r"[a-z0-9-]{1,32}")
SOURCE_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
PIPE_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
NODE_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")

STATION_LANE = "station"
FLOATING_KINDS = frozenset({"stream"})


class InvalidName(ValueError):
    """Raised when a station, source or node name breaks its pattern."""

    def __init__(self, field: str, value: str, pattern: re.Pattern[str]) -> None:
        super().__init__(f"{field} {value!r} is not a valid name: it must match {pattern.pattern}")
        self.field = field
        self.value = value


def _checked(field: str, value: str, pattern: re.Pattern[str]) -> str:
    if not pattern.fullmatch(value):
        raise InvalidName(field, value, pattern)
    return value


def station_id(value: str) -> str:
    """Return `value` if it is a station id; raise InvalidName otherwise."""
    return _checked("station", value, STATION_ID)


def source_id(value: str) -> str:
    """Return `value` if it is a source id; raise InvalidName otherwise."""
    return _checked("source", value, SOURCE_ID)


def node_name(value: str) -> str:
    """Return `value` if it is a node name; raise InvalidName otherwise."""
    return _checked("node", value, NODE_NAME)


def node_lane(node: str) -> str:
    """The lane of the sources wired to `node`; it never moves to another machine."""
    return f"node.{node}"


def floating_lanes(count: int) -> list[str]:
    """The lanes that move between nodes: p0 … p(count-1)."""
    return [f"p{index}" for index in range(count)]


def lane_for(kind: str, source: str, *, node: str, lane_count: int) -> str:
    """The lane in which a source of this kind lives for life.

    `stream` sources can be captured anywhere and are spread over the floating lanes by
    CRC-32 of their id; the others are wired to `node`.
    """
    if kind in FLOATING_KINDS:
        return f"p{crc32(source.encode()) % lane_count}"
    return node_lane(node)


class LaneKeys(msgspec.Struct, frozen=True):
    """The Redis keys of one lane; the braces make them share a Cluster slot."""

    prefix: str

    def _key(self, name: str) -> str:
        return f"{self.prefix}:{name}"

    @property
    def lane(self) -> str:
        """The lane's own name."""
        return self.prefix[self.prefix.index("{") + 1 : -1]

    @property
    def commands(self) -> str:
        return self._key("commands")

    @property
    def events(self) -> str:
        return self._key("events")

    @property
    def head(self) -> str:
        return self._key("head")

    @property
    def lease(self) -> str:
        return self._key("lease")

    @property
    def ids(self) -> str:
        return self._key("ids")

    @property
    def id_expiry(self) -> str:
        return self._key("ids:expiry")

    @property
    def sequence(self) -> str:
        return self._key("sequence")

    @property
    def parked(self) -> str:
        return self._key("parked")

    @property
    def archived(self) -> str:
        """How far the archive is: told by the projections, who write nothing of the head."""
        return self._key("archived")

    @property
    def state(self) -> str:
        """What the owner needs to know of the events that were trimmed."""
        return self._key("state")

    @property
    def telemetry(self) -> str:
        return self._key("telemetry")


class StationKeys(msgspec.Struct, frozen=True):
    """The Redis keys of one station."""

    station: str

    def _key(self, name: str) -> str:
        return f"tocsin:{self.station}:{name}"

    @property
    def meta(self) -> str:
        return self._key("meta")

    @property
    def sources(self) -> str:
        return self._key("sources")

    def lane(self, lane: str) -> LaneKeys:
        return LaneKeys(self._key(f"{{{lane}}}"))

    def replies(self, client: str) -> str:
        return self._key(f"replies:{client}")

    def node(self, name: str) -> str:
        return self._key(f"node:{name}")

    @property
    def looking(self) -> str:
        """Sorted set: the sources whose spectrum somebody looks at, by the Unix time until when."""
        return self._key("looking")

    def source_snapshot(self, source: str) -> str:
        return self._key(f"snapshot:source:{source}")

    @property
    def source_index(self) -> str:
        return self._key("snapshot:sources")
