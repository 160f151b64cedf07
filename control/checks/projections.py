"""What the projections say of themselves: whether an archive or a fold stands still, and why."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from control.checks.finding import Finding, ok, trouble
from control.readapi import Away, ReadApi
from streams.connection import Link, Unreachable
from streams.messages import decode_event
from streams.names import StationKeys

RECENT = 1000
"""Events at the end of a log among which a fork is looked for."""

_NEXT = {
    "NotLasting": "mend the standbys of Postgres that commits wait for: until then nothing is archived",
    "PositionAhead": "the log lacks what was read of it: while a failover is mended this passes in seconds; "
    "if it lasts, start the ingest node of the lane: it puts back what the archive has",
    "LogBroken": "tocsin audit verify names the first event that does not join on; nothing is skipped",
    "NewerVersion": "run the same version of Tocsin everywhere: another one has written this lane's events",
    "DecodeError": "run the same version of Tocsin everywhere: another one has written this lane's events",
}
"""What stopped a projection, and what to do about it."""
_FORKED = "two histories exist, and both are kept: compare them before anybody decides (docs/operate.md)"


class Standing(msgspec.Struct, frozen=True):
    """Of what the web process says of a projection in a lane, what is read here."""

    projection: str
    lane: str
    trouble: str


def projections(url: str | None, link: Link, keys: StationKeys) -> Iterator[Finding]:
    """Where a projection or the archive stands still, by /readyz; nothing where that does not answer."""
    try:
        with ReadApi(url) as api:
            told: dict[str, Any] = api.readiness()
        found = msgspec.convert(told.get("troubled", []), list[Standing])
    except (Away, msgspec.ValidationError):
        return  # told by the check of the web process
    if not found and told.get("postgres") == "up":
        yield ok("projections", "none stands still")
    lanes: dict[tuple[str, str], list[str]] = {}
    for one in found:
        lanes.setdefault((one.lane, one.trouble), []).append(one.projection)
    for (lane, why), names in sorted(lanes.items()):
        kind = why.partition(":")[0]
        next = _NEXT.get(kind, "the log of the projections process says more")
        if kind == "PositionAhead" and _forked(link, keys, lane):
            why, next = f"the log is forked (log.forked): {why}", _FORKED
        yield trouble(f"lane {lane}: {', '.join(sorted(names))}", f"stands still: {why}", next)


def _forked(link: Link, keys: StationKeys, lane: str) -> bool:
    """Whether the end of the lane's log tells of a fork."""
    try:
        entries = link.call("XREVRANGE", keys.lane(lane).events, "+", "-", "COUNT", RECENT)
        return any(decode_event(fields[1]).type == "log.forked" for _, fields in entries)
    except (Unreachable, msgspec.MsgspecError):
        return False
