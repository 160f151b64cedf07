"""What one Redis server is asked and told by whoever guards it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from control.guard.rules import Address, Standing
from control.station.ask import NoAnswer, Refused

HEADS = "tocsin:*:{*}:head"


class Asked(Protocol):
    """A server that answers: text comes back as str. Both raise NoAnswer or Refused."""

    def call(self, *command: str | int) -> Any:
        """The answer to one command."""

    def batch(self, commands: Sequence[tuple[str | int, ...]]) -> list[Any]:
        """The answers to commands sent in one round trip; the first error answered is raised."""


def facts(server: Asked, section: str) -> dict[str, str]:
    """A section of the server's INFO."""
    return _pairs(server.call("INFO", section))


def _pairs(text: Any) -> dict[str, str]:
    return dict(line.split(":", 1) for line in str(text).splitlines() if ":" in line)


def lane_heads(server: Asked) -> dict[str, int]:
    """The heads of all lanes in the server; raises NoAnswer or Refused."""
    keys: list[str] = []
    cursor = "0"
    while True:
        cursor, found = server.call("SCAN", cursor, "MATCH", HEADS, "COUNT", 1000)
        keys += found
        if cursor == "0":
            break
    if not keys:
        return {}
    answers = server.batch([("HGET", key, "seq") for key in keys])
    return {key: int(seq or 0) for key, seq in zip(keys, answers, strict=True)}


def follow(server: Asked, primary: Address) -> None:
    """Make the server a replica of the one at `primary`; raises NoAnswer or Refused."""
    server.call("REPLICAOF", *primary)


def lead(server: Asked) -> None:
    """Make the server a primary; raises NoAnswer or Refused."""
    server.call("REPLICAOF", "NO", "ONE")


def set_priority(server: Asked, priority: int) -> None:
    """Set the server's replica-priority; raises NoAnswer or Refused."""
    server.call("CONFIG", "SET", "replica-priority", priority)


def standing(server: Asked) -> Standing | None:
    """What the server says of itself; None where it does not answer."""
    try:
        text, priorities = server.batch([("INFO", "replication"), ("CONFIG", "GET", "replica-priority")])
        said, priority = _pairs(text), int(priorities[1])
    except (NoAnswer, Refused):
        return None
    if said["role"] == "master":
        return Standing("master", None, linked=False, priority=priority)
    return Standing(
        "slave",
        (said["master_host"], int(said["master_port"])),
        linked=said["master_link_status"] == "up",
        priority=priority,
    )


def attached(server: Asked) -> int:
    """How many replicas in sync the server counts; 0 where it does not answer."""
    try:
        said = facts(server, "replication")
    except (NoAnswer, Refused):
        return 0
    return sum("state=online" in value for name, value in said.items() if name.startswith("slave"))
