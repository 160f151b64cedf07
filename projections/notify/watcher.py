"""Finds episodes and puts what is to be told of them into the outbox.

It reads the archive, not the log: what is archived stays, with its seq, through every failover. Any
number of watchers may work: a lane's mark is locked while its events are read, and an episode is one row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from threading import Event

import structlog
from redis.exceptions import ResponseError
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from projections.database import is_away
from projections.heartbeats import kept_heartbeats, read_heartbeats
from projections.levels import Heard
from projections.notify import keeping, looks
from projections.notify.keeping import Key
from projections.notify.looks import Seen
from projections.snapshots import LaneState
from projections.sources import all_sources
from projections.views import STALE_AFTER, LevelView
from streams.backoff import Backoff
from streams.connection import Link, Unreachable
from streams.messages import now
from streams.names import StationKeys
from streams.notices import NotifySection

PERIOD = 0.5
"""Seconds between two looks."""
LOOKED_FOR = frozenset({"silence", "heartbeat", "trouble", "verify"})
"""What no event tells."""
FORGET_EVERY = 7200
"""Looks after which what is long over is deleted."""


class Watcher:
    """Looks for episodes. `run` is the body of a thread."""

    def __init__(
        self,
        engine: Engine,
        link: Link,
        keys: StationKeys,
        notify: NotifySection,
        *,
        node: str,
        lanes: Callable[[], Mapping[str, LaneState]],
        levels: Callable[[], Mapping[Heard, LevelView]],
        news: Callable[[], None],
        stopping: Event,
    ) -> None:
        self._engine = engine
        self._link = link
        self._keys = keys
        self._notify = notify
        self._node = node
        self._lanes = lanes
        self._levels = levels
        self._news = news
        self._stopping = stopping
        self._rules = {rule.name: rule for rule in notify.rules}
        self._watched = [rule for rule in notify.rules if rule.on in LOOKED_FOR]
        self._begun: dict[Key, datetime] = {}
        self._started = now()
        self._folded: dict[str, int] = {}
        self._looks = 0
        self._log = structlog.get_logger("projections.notify")

    def run(self) -> None:
        """Look twice a second until told to stop; what fails is tried again."""
        backoff = Backoff(self._stopping)
        while not self._stopping.is_set():
            try:
                self.look()
                backoff.reset()
                self._stopping.wait(PERIOD)
                continue
            except SQLAlchemyError as error:
                if not is_away(error):
                    self._log.exception("episodes cannot be kept")
                elif backoff.failures == 0:
                    self._log.warning("postgres away", detail=str(error).splitlines()[0])
            except Exception:  # the watcher never dies: it says what is wrong and tries again
                self._log.exception("the look for episodes failed")
            backoff.wait()
        self._link.close()

    def look(self) -> None:
        """Look once: read what was archived, see what is so now, put out what is to be told."""
        since = self._live_since()
        while not self._stopping.is_set() and self._read(since):
            continue
        states, at = self._lanes(), now()
        if self._watched:
            self._see(states, at)
        with self._engine.begin() as connection:
            current = [
                lane
                for lane in keeping.read_up_to(connection, self._folded)
                if lane in states and self._caught_up(states[lane])
            ]
            # For the next look: the archive may be a moment behind the folds.
            self._folded = keeping.folded(connection)
            keeping.looked(connection, at)
            told = keeping.put_out(connection, self._notify, current, now(), self._sure(at))
            if self._looks % FORGET_EVERY == 0:
                keeping.forget(connection, at)
        self._looks += 1
        if told:
            self._news()

    def _live_since(self) -> datetime:
        with self._engine.begin() as connection:
            return keeping.live_since(connection, self._started)

    def _read(self, since: datetime) -> bool:
        """Read what each lane's archive holds beyond what was read; whether there was any."""
        with self._engine.connect() as connection:
            lanes = keeping.unread(connection)
        for lane in lanes:
            with self._engine.begin() as connection:
                keeping.read_on(connection, self._rules, lane, since)
        return bool(lanes)

    def _sure(self, at: datetime) -> list[Key]:
        """What has been so, without a look that saw otherwise, for as long as its rule wants."""
        return [
            key
            for key, since in self._begun.items()
            if (at - since).total_seconds() >= self._rules[key[0]].holds_for
        ]

    def _caught_up(self, state: LaneState) -> bool:
        """Whether the lane's log was read to its end since this process started."""
        return state.checked_at is not None and state.checked_at > self._started

    def _see(self, states: Mapping[str, LaneState], at: datetime) -> None:
        with self._engine.connect() as connection:
            sources, kept = all_sources(connection), kept_heartbeats(connection)
        nodes = looks.expected_nodes(sources, self._node)
        beats = self._beats(nodes)
        seen: list[Seen] = looks.heartbeats({**kept, **beats}, nodes, at) if beats is not None else []
        fresh = {
            lane
            for lane, state in states.items()
            if state.checked_at and (at - state.checked_at).total_seconds() < STALE_AFTER
        }
        # Levels are the loudest since last asked: taken once for each look.
        seen += looks.silences([source for source in sources if source.lane in fresh], self._levels())
        with self._engine.begin() as connection:
            seen += [*looks.troubles(connection), *looks.unsound(connection)]
            open = keeping.open_subjects(connection, [rule.name for rule in self._watched])
            self._begun, begin, end = looks.found(self._watched, seen, self._begun, open, at)
            for rule, subject in end:
                keeping.close_found(connection, rule, subject, at)
            for opening in begin:
                keeping.open_episode(connection, opening, self._rules[opening.rule])

    def _beats(self, nodes: set[str]) -> dict[str, datetime] | None:
        """Each node's last heartbeat in Redis; None where Redis cannot say."""
        try:
            return read_heartbeats(self._link, self._keys, sorted(nodes))
        except (Unreachable, ResponseError):
            return None
