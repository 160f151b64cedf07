"""Which of the station's Redis servers leads and which follow: the rules of DESIGN 9b."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from control.station.ask import NoAnswer, Refused, ask, ask_all, info
from control.station.ports import LOOPBACK

PROMOTABLE = 100
HIDDEN = 0

Heads = Mapping[str, int]
"""Lane head key → the seq of its last event."""


@dataclass(frozen=True)
class Standing:
    """What a server says of itself: its role, whom it follows and whether that link is up."""

    role: Literal["master", "slave"]
    follows: int | None
    linked: bool
    priority: int


def lane_heads(port: int, password: str) -> dict[str, int]:
    """The heads of all lanes in the server on `port`; raises NoAnswer or Refused."""
    keys: list[str] = []
    cursor = "0"
    while True:
        cursor, found = ask(
            port, password, "SCAN", cursor, "MATCH", "tocsin:*:{*}:head", "COUNT", 1000, timeout=2
        )
        keys += found
        if cursor == "0":
            break
    if not keys:
        return {}
    answers = ask_all(port, password, *(("HGET", key, "seq") for key in keys), timeout=2)
    return {key: int(seq or 0) for key, seq in zip(keys, answers, strict=True)}


def furthest(heads: Mapping[str, Heads], last: str = "") -> str:
    """The server to lead after a cold start: the one whose lane heads are furthest.

    By the sum of all heads; of equals the `last` primary, else the first by name.
    """
    return min(heads, key=lambda name: (-sum(heads[name].values()), name != last, name))


def parted(heads: Mapping[str, Heads], chosen: str) -> dict[str, str]:
    """Lanes that another server has further than `chosen`: key → that server. Such lanes forked."""
    ours = heads[chosen]
    return {
        key: name for name, theirs in heads.items() for key, seq in theirs.items() if seq > ours.get(key, 0)
    }


def follow(port: int, password: str, primary: int) -> None:
    """Make the server on `port` a replica of the one on `primary`; raises NoAnswer or Refused."""
    ask(port, password, "REPLICAOF", LOOPBACK, primary)


def standing(port: int, password: str) -> Standing | None:
    """What the server on `port` says of itself; None where it does not answer."""
    try:
        facts = info(port, password, "replication")
        priority = ask(port, password, "CONFIG", "GET", "replica-priority")[1]
    except (NoAnswer, Refused):
        return None
    if facts["role"] == "master":
        return Standing("master", None, linked=False, priority=int(priority))
    return Standing(
        "slave",
        int(facts["master_port"]),
        linked=facts["master_link_status"] == "up",
        priority=int(priority),
    )


def attached(port: int, password: str) -> int:
    """How many replicas in sync the server on `port` counts; 0 where it does not answer."""
    try:
        facts = info(port, password, "replication")
    except (NoAnswer, Refused):
        return 0
    return sum("state=online" in value for name, value in facts.items() if name.startswith("slave"))


def guarded_priority(port: int, said: Standing, named: int | None) -> int | None:
    """The replica-priority that the server on `port` must get now, None to leave it as it is.

    One that calls itself primary while a majority of the Sentinels names `named` is hidden, and
    shown again once its link to that one is up. A replica whose link is down because its primary
    died must stay as it is: it is the one to be promoted.
    """
    if named is None:
        return None
    wanted = said.priority
    if port == named or (said.follows == named and said.linked):
        wanted = PROMOTABLE
    elif said.role == "master":
        wanted = HIDDEN
    return None if said.priority == wanted else wanted


def set_priority(port: int, password: str, priority: int) -> None:
    """Set the server's replica-priority; raises NoAnswer or Refused."""
    ask(port, password, "CONFIG", "SET", "replica-priority", priority)
