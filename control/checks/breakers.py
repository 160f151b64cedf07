"""Breakers: which processes have given up on a server, since when, and until when."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from control.checks.finding import Finding, ok, trouble
from streams.breaker import Dependency, Standing, described
from streams.breaker_notes import told
from streams.connection import Link
from streams.names import StationKeys

NEXT: Mapping[Dependency, str] = {
    "redis": "mend what is said of redis above; it closes by itself as soon as the primary answers",
    "postgres": "mend what is said of postgres above; it closes by itself as soon as the primary answers",
}


def noted(directory: Path) -> list[Finding]:
    """The open breakers of the processes of this machine, by their notes; none is one finding too."""
    found = [
        _finding(f"breaker {dependency} of {process}", dependency, standing)
        for process, standings in told(directory).items()
        for dependency, standing in standings.items()
        if standing.state != "closed"
    ]
    return found or [ok("breakers", "no process of this machine has given up on Redis or Postgres")]


def of_nodes(link: Link, keys: StationKeys, nodes: list[str]) -> Iterator[Finding]:
    """The open breakers of ingest nodes, by their heartbeats. Raises Unreachable."""
    for node in nodes:
        raw = link.call("HGET", keys.node(node), "breakers")
        try:
            standings = msgspec.json.decode(raw or b"{}", type=dict[Dependency, Standing])
        except msgspec.MsgspecError:
            continue  # another version's: it says nothing that can be read here
        for dependency, standing in standings.items():
            if standing.state != "closed":
                yield _finding(f"breaker {dependency} of node {node}", dependency, standing)


def _finding(part: str, dependency: Dependency, standing: Standing) -> Finding:
    return trouble(part, described(standing), NEXT[dependency])
