"""Where wishes become commands: the lane found, the command signed, submitted, its outcome awaited."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from queue import Empty, LifoQueue
from typing import Any, TypeVar

import msgspec

from control.deadline import within
from control.outbox import Outbox
from control.ownkeys import OwnKey
from streams.backoff import Backoff
from streams.breaker import Breaker, BreakerOpen, is_unreachable
from streams.breaker_notes import heed
from streams.claim import claim
from streams.cluster import Electing
from streams.connection import Link, Unreachable, connect
from streams.durability import Prover
from streams.messages import DEFAULT_VALIDITY, Answer, Durability, new_command
from streams.names import NODE_NAME, STATION_LANE, StationKeys, floating_lanes, lane_for, source_id
from streams.sentinel import NoPrimary
from streams.settings import Settings
from streams.signing import Key
from streams.submit import InDoubt, NoAnswer, Refused, Signed, Submitter, signed

Found = TypeVar("Found")

AGAIN = 0.25
"""Seconds that must be left for another try while a failover is in progress."""


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
    key: Key | None = None
    """Who signs; None: whoever does here."""


class Desk:
    """Signs and submits for one process, from any of its threads.

    `breaker` is the process's around Redis. A process that lives too short to have one heeds what the
    others of its station have noted in `directory`.
    """

    def __init__(self, settings: Settings, directory: Path, breaker: Breaker | None = None) -> None:
        self.settings = settings
        self._directory = directory
        self._breaker = breaker
        self._station = StationKeys(settings.station.id)
        self._outbox = Outbox(directory / "outbox")
        self._prover = Prover(settings.redis)
        self._idle: LifoQueue[tuple[Link, Submitter]] = LifoQueue()
        self._key = OwnKey(settings)

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

    def sequences(self, lanes: Mapping[str, str], *, timeout: float = 10.0) -> dict[str, int]:
        """The last sequence of each source in the lane that it is mapped to. Raises Unreachable."""

        def look(link: Link, _: Submitter) -> dict[str, int]:
            return {
                source: int(link.call("HGET", self._station.lane(lane).sequence, source) or 0)
                for source, lane in lanes.items()
            }

        return self._persist(look, time.monotonic() + timeout)

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

        with within(timeout) as left:
            claimed = self.claim(wish.source, lane, timeout=left())
            if claimed != lane:
                raise Refused(
                    "exists", f"the id {wish.source!r} belongs to lane {claimed!r}; choose another", "source"
                )
            return self.submit(wish, lane, timeout=left())

    def claim(self, source: str, lane: str, *, timeout: float = 10.0) -> str:
        """Claim the source's id for the lane; the lane that has it, for life. Raises Unreachable."""
        return self._persist(
            lambda link, _: claim(link, self._station, source, lane), time.monotonic() + timeout
        )

    def address(self, wish: Wish, *, timeout: float = 10.0) -> Answer:
        """Submit the wish to the lane that its source lives in; raises what `lane_of` and `submit` raise."""
        with within(timeout) as left:
            lane = self.lane_of(source_id(wish.source), timeout=left())
            return self.submit(wish, lane, timeout=left())

    def submit(self, wish: Wish, lane: str, *, timeout: float = 10.0) -> Answer:
        """Sign and submit; return the outcome. Raises Refused, NoAnswer, InDoubt, Unreachable, InvalidKey.

        While the Sentinels choose another primary it is tried again, with the same bytes, until `timeout`.
        """
        return self.send(self.sign(wish, lane), timeout=timeout)

    def send(self, command: Signed, *, timeout: float = 10.0) -> Answer:
        """Submit what was signed; as `submit`."""
        with within(timeout) as left:

            def send(_: Link, submitter: Submitter) -> Answer:
                return submitter.submit(command, timeout=left())

            try:
                return self._persist(send, time.monotonic() + left())
            except BreakerOpen:
                raise  # nothing was tried, so there is nothing to try again with the same bytes
            except Unreachable as error:
                self._outbox.keep(command)
                if error.sent:
                    raise InDoubt(command.command.id, error.detail) from error
                raise
            except (InDoubt, NoAnswer):
                self._outbox.keep(command)
                raise

    def forward(self, command: Signed, *, timeout: float = 10.0) -> Answer:
        """Submit what was signed elsewhere, to the lane it names; as `submit`.

        The id of a source that it adds is claimed first. Raises Refused where it is for another station,
        or for a lane that this one does not have.
        """
        asked = command.command
        if asked.station != self.settings.station.id:
            told = f"it was signed for station {asked.station!r}, this is {self.settings.station.id!r}"
            raise Refused("replayed", told, "station")
        with within(timeout) as left:
            if asked.lane != STATION_LANE:
                source_id(asked.source)
                self._at_home(asked.type, asked.source, asked.lane, left())
            return self.send(command, timeout=left())

    def _at_home(self, type: str, source: str, lane: str, timeout: float) -> None:
        """Raise Refused unless the source lives in the lane, or is to."""
        wired = lane.removeprefix("node.")
        if lane not in floating_lanes(self.settings.station.lanes) and not (
            lane.startswith("node.") and NODE_NAME.fullmatch(wired)
        ):
            raise Refused("replayed", f"there is no lane {lane!r} here", "lane")
        if type == "source.add":
            home = self.claim(source, lane, timeout=timeout)
        else:
            home = self.lane_of(source, timeout=timeout)
        if home != lane:
            raise Refused("replayed", f"{source!r} lives in lane {home!r}, not {lane!r}", "lane")

    def sign(self, wish: Wish, lane: str) -> Signed:
        """The wish as a signed command for the lane: under an id that was given, the same bytes again.

        Raises Refused (`conflict`) where the id was used for another wish, InvalidKey.
        """
        kept = self._outbox.recall(wish.id) if wish.id is not None else None
        if kept is not None:
            was = kept.command
            asked = (wish.type, wish.source, lane, wish.params, wish.cause)
            other = wish.key is not None and wish.key.id != was.key
            if (was.type, was.source, was.lane, was.params, was.cause) != asked or other:
                raise Refused("conflict", f"id {wish.id} was used for another command; use a new id", "id")
            return kept
        key = wish.key or self._key()
        command = new_command(
            station=self.settings.station.id,
            lane=lane,
            source=wish.source,
            type=wish.type,
            params=wish.params,
            key=key.id,
            validity=wish.validity,
            id=wish.id,
            durability=wish.durability,
            if_sequence=wish.if_sequence,
            cause=wish.cause,
        )
        made = signed(command, key)
        if wish.id is not None:
            self._outbox.keep(made)
        return made

    def _persist(self, action: Callable[[Link, Submitter], Found], deadline: float) -> Found:
        """Do it; again while a failover is in progress (and only then: what is down is told at once).

        All tries together count as one for the breaker: a failover that they outlast is no failure.
        """
        if self._breaker is None:
            heed(self._directory)
        with self._breaker.guard(_is_failure) if self._breaker else nullcontext():
            backoff = Backoff()
            while True:
                try:
                    return self._try(action)
                except (Unreachable, InDoubt) as error:
                    left = deadline - time.monotonic()
                    if left < AGAIN or not self._passing(error):
                        raise
                backoff.wait(within=left - AGAIN)

    def _try(self, action: Callable[[Link, Submitter], Found]) -> Found:
        """Do it once; that a connection broke while it was idle says nothing of the server, and is no try."""
        with self._at_hand() as (link, submitter):
            connections = link.generation
            try:
                return action(link, submitter)
            except (Unreachable, InDoubt) as error:
                fresh = link.generation > connections or not connections
                if fresh or not _is_broken(error):
                    raise
            return action(link, submitter)

    def _passing(self, error: Exception) -> bool:
        """Whether another try may find it better: not where nothing passes before somebody does something."""
        cause = _cause(error)
        fault = getattr(cause, "fault", None)
        if fault is not None and fault.remedy == "person":
            return False
        why = cause.__cause__ if cause else None
        redis = self.settings.redis
        return bool(redis.sentinels or redis.cluster) and (
            isinstance(why, Electing) or not isinstance(why, NoPrimary)
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


def _is_failure(error: BaseException) -> bool:
    cause = _cause(error)
    return cause is not None and is_unreachable(cause)


def _is_broken(error: BaseException) -> bool:
    """Whether `error` is that of a connection that broke, or was given up for another primary's."""
    fault = getattr(_cause(error), "fault", None)
    return fault is not None and fault.code in ("RESET", "SWITCHED")


def _cause(error: BaseException) -> BaseException | None:
    return error.__cause__ if isinstance(error, InDoubt) else error
