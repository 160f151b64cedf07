"""Whom an append may be told to, and the commands that tell them: one entry of replies for each client."""

from __future__ import annotations

from typing import Any

from streams.connection import Link
from streams.drafts import Append
from streams.messages import Durability, canonical
from streams.names import StationKeys

Levels = tuple[Durability, ...]
REPLY_KEEP = 120
"""Seconds a client's reply stream outlives its last reply."""
REPLY_LENGTH = 10_000
"""Replies kept for a client that does not read them."""


def by_client(
    link: Link, station: StationKeys, append: Append, *levels: Durability
) -> dict[str, list[bytes]]:
    """The answers that are given at these levels, by the key of the replies, where that is here."""
    told: dict[str, list[bytes]] = {}
    for settlement, answer in append.answers:
        key = station.replies(settlement.client)
        if settlement.client and settlement.durability in levels and link.serves(key):
            told.setdefault(key, []).append(canonical(answer))
    return told


def replies_to(told: dict[str, list[bytes]]) -> list[tuple[Any, ...]]:
    """The commands that give these answers, by the key of the replies."""
    commands: list[tuple[Any, ...]] = []
    for key, answers in told.items():
        fields = [field for answer in answers for field in ("a", answer)]
        commands.append(("XADD", key, "MAXLEN", "~", REPLY_LENGTH, "*", *fields))
        commands.append(("EXPIRE", key, REPLY_KEEP))
    return commands
