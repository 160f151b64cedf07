"""Where wishes become commands: the lane found, the command signed, submitted, its outcome awaited."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from queue import Empty, LifoQueue
from typing import Any, TypeVar

import msgspec

from control.outbox import Outbox
from streams.connection import Link, Unreachable, connect
from streams.durability import Prover
from streams.messages import DEFAULT_VALIDITY, Answer, Durability, new_command
from streams.names import StationKeys, lane_for, source_id
from streams.sentinel import NoPrimary
from streams.settings import Settings
from streams.signing import Key, load_key
from streams.submit import InDoubt, NoAnswer, Refused, Signed, Submitter, signed

Found = TypeVar("Found")

AGAIN = 0.25
"""Seconds between two tries while a failover is in progress."""


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody wants done with a source. `id` is given to ask again; None makes a new one."""

    type: str
    source: str
    params: dict[str, Any] = {}
    validity: timedelta = DEFAULT_VALIDITY
    id: str | None = None
    durability: Durability | None = None
    if_sequence: int | None = None
    cause: str | None = None
    """The id of the command in whose place this one stands."""


class Desk:
    """Signs and submits for one process, from any of its threads."""

    def __init__(self, settings: Settings, directory: Path) -> None:
        self.settings = settings
        self._station = StationKeys(settings.station.id)
        self._outbox = Outbox(directory / "outbox")
        self._prover = Prover(settings.redis)
        self._idle: LifoQueue[tuple[Link, Submitter]] = LifoQueue()
        self._key: Key | None = None

    def lane_of(self, source: str, *, timeout: float = 10.0) -> str:
        """The lane that the source lives in; raises Refused (unknown_source), Unreachable."""

        def look(link: Link, _: Submitter) -> bytes | None:
            found: bytes | None = link.call("HGET", self._station.sources, source)
            return found

        lane = self._persist(look, time.monotonic() + timeout)
        if lane is None:
            raise Refused("unknown_source", f"there is no source {source!r}", "source")
        return lane.decode()

    def sources(self) -> dict[str, str]:
        """All sources known, with their lanes; raises Unreachable."""

        def look(link: Link, _: Submitter) -> list[bytes]:
            found: list[bytes] = link.call("HGETALL", self._station.sources)
            return found

        flat = [text.decode() for text in self._persist(look, time.monotonic())]
        return dict(zip(flat[::2], flat[1::2], strict=True))

    def add(self, wish: Wish, *, kind: str, node: str | None = None, timeout: float = 10.0) -> Answer:
        """Claim the source's id for the one lane it will live in, and submit its `source.add`.

        Raises Refused (`exists`) when the id is claimed in another lane, and what `submit` raises.
        """
        lane = lane_for(
            kind,
            source_id(wish.source),
            node=node or self.settings.ingest.node,
            lane_count=self.settings.station.lanes,
        )
        deadline = time.monotonic() + timeout

        def claim(link: Link, _: Submitter) -> bytes:
            link.call("HSETNX", self._station.sources, wish.source, lane)
            found: bytes = link.call("HGET", self._station.sources, wish.source)
            return found

        claimed = self._persist(claim, deadline).decode()
        if claimed != lane:
            raise Refused(
                "exists", f"the id {wish.source!r} belongs to lane {claimed!r}; choose another", "source"
            )
        try:
            return self.submit(wish, lane, timeout=max(deadline - time.monotonic(), 0.1))
        except NoAnswer as error:
            raise NoAnswer(error.id, timeout) from None

    def submit(self, wish: Wish, lane: str, *, timeout: float = 10.0) -> Answer:
        """Sign and submit; return the outcome. Raises Refused, NoAnswer, InDoubt, Unreachable, InvalidKey.

        While the Sentinels choose another primary it is tried again, with the same bytes, until `timeout`.
        """
        return self.send(self.sign(wish, lane), timeout=timeout)

    def send(self, command: Signed, *, timeout: float = 10.0) -> Answer:
        """Submit what was signed; as `submit`."""
        deadline = time.monotonic() + timeout

        def send(_: Link, submitter: Submitter) -> Answer:
            return submitter.submit(command, timeout=max(deadline - time.monotonic(), 0.1))

        try:
            return self._persist(send, deadline)
        except Unreachable as error:
            self._outbox.keep(command)
            if error.sent:
                raise InDoubt(command.command.id, error.detail) from error
            raise
        except InDoubt:
            self._outbox.keep(command)
            raise
        except NoAnswer:
            self._outbox.keep(command)
            raise NoAnswer(command.command.id, timeout) from None

    def sign(self, wish: Wish, lane: str) -> Signed:
        """The wish as a signed command for the lane: under an id that was given, the same bytes again.

        Raises Refused (`conflict`) where the id was used for another wish, InvalidKey.
        """
        kept = self._outbox.recall(wish.id) if wish.id is not None else None
        if kept is not None:
            was = kept.command
            asked = (wish.type, wish.source, lane, wish.params, wish.cause)
            if (was.type, was.source, was.lane, was.params, was.cause) != asked:
                raise Refused("conflict", f"id {wish.id} was used for another command; use a new id", "id")
            return kept
        if self._key is None:
            self._key = load_key(Path(self.settings.keys.directory), self.settings.keys.sign_with)
        command = new_command(
            station=self.settings.station.id,
            lane=lane,
            source=wish.source,
            type=wish.type,
            params=wish.params,
            key=self._key.id,
            validity=wish.validity,
            id=wish.id,
            durability=wish.durability,
            if_sequence=wish.if_sequence,
            cause=wish.cause,
        )
        made = signed(command, self._key)
        if wish.id is not None:
            self._outbox.keep(made)
        return made

    def _persist(self, action: Callable[[Link, Submitter], Found], deadline: float) -> Found:
        """Do it; again while a failover is in progress (and only then: what is down is told at once)."""
        while True:
            try:
                with self._at_hand() as (link, submitter):
                    return action(link, submitter)
            except (Unreachable, InDoubt) as error:
                if time.monotonic() + AGAIN > deadline or not self._passing(error):
                    raise
            time.sleep(AGAIN)

    def _passing(self, error: Exception) -> bool:
        cause = error.__cause__ if isinstance(error, InDoubt) else error
        return bool(self.settings.redis.sentinels) and not isinstance(
            cause.__cause__ if cause else None, NoPrimary
        )

    @contextmanager
    def _at_hand(self) -> Iterator[tuple[Link, Submitter]]:
        try:
            pair = self._idle.get_nowait()
        except Empty:
            link = connect(self.settings.redis, "control")
            pair = link, Submitter(self.settings, link, self._prover)
        try:
            yield pair
        finally:
            self._idle.put(pair)

    def close(self) -> None:
        """Close the connections that are idle."""
        while not self._idle.empty():
            self._idle.get_nowait()[0].close()
