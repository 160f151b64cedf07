"""How Redis stands, as its Sentinels see it: up, away, or in the middle of a failover."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from datetime import datetime
from typing import Literal

import msgspec

from streams.messages import now
from streams.sentinel import NoPrimary, Opinion, ask_each, chosen, majority
from streams.settings import RedisSection


class SentinelView(msgspec.Struct, frozen=True, kw_only=True):
    """What one Sentinel says; all but its own `address` is None where it does not answer."""

    address: str
    primary: str | None = None
    epoch: int | None = None
    flags: list[str] | None = None
    replicas: list[str] | None = None


class Moved(msgspec.Struct, frozen=True, kw_only=True):
    """A failover that this process has seen: from which server to which, and when it noticed (UTC)."""

    before: str
    after: str
    at: datetime


class RedisView(msgspec.Struct, frozen=True, kw_only=True):
    """How Redis stands. `message` says it in words.

    `failover`: a majority of the Sentinels sees the primary down or is electing another. Without
    Sentinels `sentinels` is empty, and all that is known is whether Redis answers.
    """

    state: Literal["up", "away", "failover"]
    message: str
    primary: str | None
    sentinels: list[SentinelView]
    moved: Moved | None


class RedisStanding:
    """Asks, and remembers when another server was promoted. Any number of threads may `look`."""

    def __init__(self, redis: RedisSection) -> None:
        self._redis = redis
        self._lock = threading.Lock()
        self._primary: str | None = None
        self._moved: Moved | None = None

    def look(self, *, away: bool) -> RedisView:
        """How it stands now; `away`: this process cannot read from it."""
        said = ask_each(self._redis)
        with self._lock:
            primary = _primary(said, self._redis)
            if primary and self._primary and primary != self._primary:
                self._moved = Moved(before=self._primary, after=primary, at=now())
            self._primary = primary or self._primary
            return standing(said, majority(self._redis), primary, self._moved, away=away)


def standing(
    said: Mapping[str, Opinion | None], needed: int, primary: str | None, moved: Moved | None, *, away: bool
) -> RedisView:
    """What the Sentinels' opinions (None: no answer) come to. Pure."""
    opinions = [one for one in said.values() if one is not None]
    failing = [one for one in opinions if one.failing]
    electing = bool(said) and len(failing) >= needed
    state: Literal["up", "away", "failover"] = "failover" if electing else "away" if away else "up"
    if electing:
        down = str(failing[0].address)
        message = (
            f"The Redis primary {down} is down; {len(failing)} of {len(said)} Sentinels see to a failover."
        )
    elif away and said and len(opinions) < needed:
        message = f"Redis does not answer, and only {len(opinions)} of {len(said)} Sentinels do."
    elif away:
        message = "Redis does not answer." + (" The Sentinels see no fault yet." if said else "")
    elif said:
        message = f"{primary or 'Nobody'} is the primary; {len(opinions)} of {len(said)} Sentinels answer."
    else:
        message = "Redis answers."
    return RedisView(
        state=state,
        message=message,
        primary=primary,
        sentinels=[_view(address, opinion) for address, opinion in said.items()],
        moved=moved,
    )


def _primary(said: Mapping[str, Opinion | None], redis: RedisSection) -> str | None:
    try:
        return str(chosen([one for one in said.values() if one is not None], redis)) if said else None
    except NoPrimary:
        return None


def _view(address: str, opinion: Opinion | None) -> SentinelView:
    if opinion is None:
        return SentinelView(address=address)
    return SentinelView(
        address=address,
        primary=str(opinion.address),
        epoch=opinion.epoch,
        flags=sorted(opinion.flags),
        replicas=None if opinion.replicas is None else sorted(map(str, opinion.replicas)),
    )
