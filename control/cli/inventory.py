"""What a station has: its sources and groups, with all that its logs have now."""

from __future__ import annotations

import time

from control import outcomes
from control.cli import bulk, session
from control.cli.trouble import Trouble
from control.declared import DeclaredGroup
from control.desk import Desk
from control.plan import Found
from control.readapi import NotFound, ReadApi
from streams.audit import head_of
from streams.connection import connect
from streams.names import STATION_LANE, StationKeys

SOURCES = "/api/audio/sources"
FOLDED = 30
"""Seconds that the read model may take to show what was done."""
AGAIN = 0.2
"""Seconds between two tries to read what is stale."""


def sources(api: ReadApi, desk: Desk | None) -> dict[str, Found]:
    """The sources as they are, with all that the logs have now. Raises Trouble where that is not known.

    By address (without a desk) it is what the web process knows, which can be a second old.
    """
    after: dict[str, str | int] = {}
    for lane, seq in _heads(desk) if desk else ():
        after = {"after": f"{lane}:{seq}", "wait": FOLDED}
        if not api.await_folded(SOURCES, lane, seq, FOLDED):
            raise _unknown(f"the read model is behind event {seq} of lane {lane}")
    until = time.monotonic() + FOLDED
    while (envelope := api.get(SOURCES, **after))["stale"]:
        # A station that has just come up, or is changing its primary, knows in a moment.
        if time.monotonic() > until:
            age = envelope["age_seconds"]
            old = "nobody knows how old it is" if age is None else f"it is {age:.0f} s old"
            raise _unknown(f"the read model is stale: {old}")
        time.sleep(AGAIN)
    return {
        one["id"]: Found(lane=one["lane"], name=one["name"], wanted=one["desired"], settings=one["settings"])
        for one in envelope["data"]
    }


def groups(api: ReadApi, desk: Desk | None) -> dict[str, DeclaredGroup] | None:
    """The groups as they are, with all that the station's log has now; None where it knows of none."""
    try:
        if desk is not None and (seq := _head(desk, STATION_LANE)):
            api.await_folded(bulk.GROUPS, STATION_LANE, seq, FOLDED)
        data = api.get(bulk.GROUPS)["data"]
    except NotFound:
        return None
    return {
        one["id"]: DeclaredGroup(**{field: one[field] for field in DeclaredGroup.__struct_fields__})
        for one in data
    }


def _head(desk: Desk, lane: str) -> int:
    link = connect(desk.settings.as_role("reader").redis, "apply")
    try:
        return head_of(link, StationKeys(desk.settings.station.id).lane(lane)).seq
    finally:
        link.close()


def _heads(desk: Desk) -> list[tuple[str, int]]:
    """The last event of each lane that may hold sources. Raises Unreachable."""
    lanes = [lane for lane in session.lanes(desk, None) if lane != STATION_LANE]
    heads = [(lane, _head(desk, lane)) for lane in lanes]
    return [(lane, seq) for lane, seq in heads if seq]


def _unknown(why: str) -> Trouble:
    return Trouble(
        "what the station has is not known now; nothing was submitted",
        why=why,
        next="tocsin doctor says what is down",
        code=outcomes.UNREACHABLE,
    )
