"""Which of a set of Redis servers leads and which follow: decisions, each a pure function.

The same for the servers of a local station and for those that a deployment starts beside a guard.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

Address = tuple[str, int]
"""Host and port."""

PROMOTABLE = 100
HIDDEN = 0
"""The replica-priority of a server that the Sentinels must not promote."""
NOWHERE: Address = ("127.0.0.1", 1)
"""Whom a server follows while it is not known who leads: it answers questions and takes no writes."""
NOBODY = 1.0
"""Seconds without a primary and without anyone to promote, after which all start as at a cold start."""
NO_FAILOVER = 60.0
"""Seconds that the Sentinels may go on naming a primary that is gone, until the same is done."""

STRANDED = 5.0
"""Seconds that they may know no replica of a primary that is gone: nobody but itself tells them of any."""
LATE = 20.0
"""Seconds after which a cold start goes on without a server that does not answer, if a majority does."""
STRAY = 15.0
"""Seconds that a second primary gets to be turned into a replica by the Sentinels."""

Heads = Mapping[str, int]
"""Lane head key → the seq of its last event."""
Name = TypeVar("Name", str, Address)


@dataclass(frozen=True)
class Standing:
    """What a server says of itself: its role, whom it follows and whether that link is up."""

    role: Literal["master", "slave"]
    follows: Address | None
    linked: bool
    priority: int


def furthest(heads: Mapping[Name, Heads], last: Name) -> Name:
    """The server to lead after a cold start: the one whose lane heads are furthest.

    By the sum of all heads; of equals the `last` primary, else the first by name.
    """
    return min(heads, key=lambda name: (-sum(heads[name].values()), name != last, name))


def parted(heads: Mapping[Name, Heads], chosen: Name) -> dict[str, Name]:
    """Lanes that another server has further than `chosen`: key → that server. Such lanes forked."""
    ours = heads[chosen]
    return {
        key: name for name, theirs in heads.items() for key, seq in theirs.items() if seq > ours.get(key, 0)
    }


def guarded_priority(me: Address, said: Standing, named: Address | None) -> int | None:
    """The replica-priority that the server `me` must get now, None to leave it as it is.

    One that calls itself primary while a majority of the Sentinels names another is hidden, and
    shown again once its link to that one is up. A replica whose link is down because its primary
    died must stay as it is: it is the one to be promoted.
    """
    if named is None:
        return None
    wanted = said.priority
    if me == named or (said.follows == named and said.linked):
        wanted = PROMOTABLE
    elif said.role == "master":
        wanted = HIDDEN
    return None if said.priority == wanted else wanted


def must_start_cold(
    servers: Iterable[Name],
    running: Container[Name],
    hidden: Container[Name],
    primary: Name,
    *,
    barren: float,
    unled: float,
) -> bool:
    """Whether the `servers` must be started as if all had been off.

    The `primary` named last does not run: for `unled` seconds; and for `barren` seconds there has
    been nobody whom the Sentinels could promote: those that run are `hidden`, because they were
    started again and are not in sync yet.
    """
    if primary in running:
        return False
    promotable = any(name in running and name not in hidden for name in servers)
    return barren >= NOBODY if not promotable else unled >= NO_FAILOVER


def settled_heads(
    heads: Collection[Address], loading: Collection[Address], total: int, *, late: bool
) -> bool:
    """Whether so many of `total` servers have told their `heads` that it may be decided who leads.

    All; or, when it is `late`, a majority, with none that is still `loading` its data.
    """
    return len(heads) == total or (late and not loading and len(heads) * 2 > total)
