"""Events that have no place in the log yet, and what is settled together with them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec

from streams.messages import GENESIS, SCHEMA, Answer, Durability, Event, canonical, now
from streams.parking import Parked


class NotTaken(Exception):
    """Raised when the log takes no result of a command that was carried out: memory says more than it."""


class Draft(msgspec.Struct, frozen=True, kw_only=True):
    """An event that is still to get its place in the log. `at` is when it happened (default: now)."""

    type: str
    data: dict[str, Any]
    source: str = ""
    command: str | None = None
    at: datetime | None = None


def foreseen(draft: Draft) -> Event:
    """What is about to be logged, as folds will find it; its place and its writer are not known yet."""
    return Event(
        seq=0, prev=GENESIS, token=0, at=draft.at or now(), logged_at=now(), node="", type=draft.type,
        data=draft.data, schema=SCHEMA, source=draft.source,
    )  # fmt: skip


class Settlement(msgspec.Struct, frozen=True, kw_only=True):
    """What an append settles: a pending stream entry, its id's mark, and whom to reply to."""

    entry: str
    answer: Answer
    client: str
    durability: Durability
    forget_at: datetime
    marked: bool = True
    """Whether the id's mark is this entry's own; a replayed command's is not."""
    parked: Parked | None = None
    """The copy that is kept of it in the same append, where it is parked."""


class Unit(msgspec.Struct, frozen=True):
    """Events that belong together, the last being the result of what is settled, if anything is."""

    drafts: tuple[Draft, ...]
    settlements: tuple[Settlement, ...] = ()


def check(drafts: tuple[Draft, ...]) -> None:
    """Raise TypeError where the data of a draft cannot be written as JSON."""
    canonical([draft.data for draft in drafts])


Post = Callable[[Draft], None]


class Append(msgspec.Struct, frozen=True, kw_only=True):
    """An append as it is, was, or may have been made: where the head was and where it goes."""

    units: int
    entries: tuple[tuple[bytes, str], ...]
    answers: tuple[tuple[Settlement, Answer], ...]
    before: tuple[int, str]
    seq: int
    hash: str
    token: int

    @property
    def told_at_once(self) -> bool:
        """Whether anybody was told of it by the very append: who asked for `memory`."""
        return any(settlement.durability == "memory" for settlement, _ in self.answers)
