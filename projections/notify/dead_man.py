"""The dead man's switch: an address is asked for while all is well; whoever is there misses it otherwise.

It is the notification that needs nothing of us to go out.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from datetime import datetime, timedelta
from threading import Event

import httpx
import structlog
from sqlalchemy import Engine, select
from sqlalchemy.exc import SQLAlchemyError

from projections.heartbeats import kept_heartbeats
from projections.notify.address import Unusable, read_address
from projections.notify.looks import expected_nodes
from projections.notify.outbox import backlogs
from projections.snapshots import LaneState
from projections.sources import all_sources
from projections.tables import positions
from projections.views import STALE_AFTER
from streams.messages import now

WITHIN = 10.0
"""Seconds that the address has to answer."""
LOOK_AGAIN = 2.0
"""Seconds between two looks while all is not well."""
UNDELIVERED = timedelta(minutes=10)
"""For so long a notification may wait for its target; then all is not well."""
FIELD = "notify.dead_man_file"


class DeadMan:
    """Asks for the address while all is well. `run` is the body of a thread."""

    def __init__(
        self,
        engine: Engine,
        file: str,
        every: float,
        *,
        node: str,
        targets: Collection[str] = (),
        lanes: Callable[[], Mapping[str, LaneState]],
        stopping: Event,
    ) -> None:
        self._engine = engine
        self._file = file
        self._every = every
        self._node = node
        self._targets = targets
        self._lanes = lanes
        self._stopping = stopping
        self._told: str | None = None
        self._log = structlog.get_logger("projections.dead_man")
        # It would write each address into the log.
        logging.getLogger("httpx").setLevel(logging.WARNING)
        logging.getLogger("httpcore").setLevel(logging.WARNING)

    def run(self) -> None:
        """Look and ask, until told to stop."""
        wait = min(self._every, LOOK_AGAIN)
        while not self._stopping.wait(wait):
            wait = self._every
            try:
                wrong = self.wrong()
                self._tell(wrong or self._ask(), asked=not wrong)
                if wrong:
                    wait = min(self._every, LOOK_AGAIN)
            except Exception:  # the switch never dies: that it says nothing is what it says
                self._log.exception("the dead man's switch failed")

    def wrong(self) -> str:
        """What is not well; empty where all is."""
        try:
            with self._engine.connect() as connection:
                trouble = connection.execute(
                    select(positions.c.lane, positions.c.trouble).where(positions.c.trouble.is_not(None))
                ).first()
                beats, waiting = kept_heartbeats(connection), backlogs(connection, self._targets)
                nodes = expected_nodes(all_sources(connection), self._node)
        except SQLAlchemyError as error:
            return f"Postgres: {str(error).splitlines()[0]}"
        if trouble:
            return f"lane {trouble.lane}: {trouble.trouble}"
        at = now()
        return (
            not_current(self._lanes(), at)
            or not_heard(beats, nodes, at)
            or next(
                (
                    f"notify target {one.target} takes nothing"
                    for one in waiting
                    if one.since and at - one.since > UNDELIVERED
                ),
                "",
            )
        )

    def _ask(self) -> str:
        """Ask for the address; what went wrong, without the address, or nothing."""
        try:
            answer = httpx.get(read_address(self._file, FIELD), timeout=WITHIN, follow_redirects=True)
        except Unusable as error:
            return str(error)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return f"{FIELD}: the address does not answer ({type(error).__name__})"
        return "" if answer.is_success else f"{FIELD}: the address answers {answer.status_code}"

    def _tell(self, wrong: str, *, asked: bool) -> None:
        if wrong and wrong != self._told:
            word = (
                "the dead man's address was not reached"
                if asked
                else "the dead man's address is not asked for"
            )
            self._log.warning(word, detail=wrong)
        elif self._told and not wrong:
            self._log.info("the dead man's address is asked for again")
        self._told = wrong


def not_current(lanes: Mapping[str, LaneState], at: datetime) -> str:
    """The first lane that is not followed now, in words; empty where all are."""
    if not lanes:
        return "no lane is followed"
    for lane, state in sorted(lanes.items()):
        if state.trouble:
            return f"lane {lane}: {state.trouble}"
        if state.checked_at is None or (at - state.checked_at).total_seconds() > STALE_AFTER:
            return f"lane {lane} has not been followed for {STALE_AFTER:.0f} s"
    return ""


def not_heard(beats: Mapping[str, datetime], nodes: set[str], at: datetime) -> str:
    """The first of `nodes` that is not heard now, in words; empty where all are."""
    for node in sorted(nodes):
        last = beats.get(node)
        if last is None or (at - last).total_seconds() > STALE_AFTER:
            return f"ingest node {node} is not heard"
    return ""
