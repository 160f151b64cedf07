"""Delivers what the outbox holds for one target. Each has a thread, so that none waits for another."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from threading import Event

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from projections.database import is_away
from projections.lasting import NotLasting, lasting
from projections.notify import outbox
from projections.notify.address import Unusable, read_address
from projections.notify.delivery import Undelivered, deliver
from projections.notify.outbox import Notification
from projections.notify.wording import words
from streams.backoff import JITTER, Backoff, Waits
from streams.messages import now
from streams.notices import Target

PERIOD = 0.5
"""Seconds between two looks into the outbox."""
WAITS = Waits(first=1.0, longest=60.0)
"""Between attempts at a target that takes nothing."""
LEASE = 120.0
"""Seconds after which somebody who took a notification and has not said what became of it is gone."""


class Sender:
    """Sends to one target. `run` is the body of a thread."""

    def __init__(
        self,
        engine: Engine,
        station: str,
        target: Target,
        stopping: Event,
        *,
        standbys: int = 0,
        lease: float = LEASE,
    ) -> None:
        self.news = Event()
        self._engine = engine
        self._station = station
        self._target = target
        self._stopping = stopping
        self._standbys = standbys
        self._lease = timedelta(seconds=lease)
        self._failures = 0
        self._unsent: Notification | None = None
        self._log = structlog.get_logger("projections.notify").bind(target=target.name)

    def run(self) -> None:
        """Send what is due until told to stop; a target that is away is tried again for ever."""
        backoff = Backoff(self._stopping)
        while not self._stopping.is_set():
            try:
                self._give_back()
                self._settle_doubts()
                while not self._stopping.is_set() and self.send_one():
                    continue
                backoff.reset()
                self._pause()
                continue
            except NotLasting as error:
                self._log.warning("nothing is sent before it is kept", detail=str(error))
            except SQLAlchemyError as error:
                if not is_away(error):
                    self._log.exception("the outbox cannot be used")
                elif backoff.failures == 0:
                    self._log.warning("postgres away", detail=str(error).splitlines()[0])
            except Exception:  # the sender never dies: it says what is wrong and tries again
                self._log.exception("sending failed")
            backoff.wait()
        with suppress(SQLAlchemyError):
            self._give_back()

    def send_one(self) -> bool:
        """Take the one that is due first and send it; False where none is due or it was not taken."""
        # Until it lasts it is not sent, whatever became of the commit; it is given back then.
        with lasting(self._engine, self._standbys) as connection:
            self._unsent = taken = outbox.claim(connection, self._target.name, now())
        self._unsent = None
        if taken is None:
            return False
        try:
            address = read_address(self._target.url_file, f"url_file of notify target {self._target.name!r}")
            deliver(address, *words(taken, self._station), f"{self._station}-{taken.id}")
        except (Undelivered, Unusable) as error:
            self._not_taken(taken, str(error))
            return False
        with self._engine.begin() as connection:
            outbox.sent(connection, taken, now())
            if self._failures:
                outbox.hurry(connection, self._target.name, now())
        self._failures = 0
        self._log.info(
            "notification sent", rule=taken.rule, subject=taken.subject, id=taken.id, attempts=taken.attempts
        )
        return True

    def _not_taken(self, taken: Notification, why: str) -> None:
        self._failures += 1
        with self._engine.begin() as connection:
            next_try = now() + timedelta(seconds=_drawn(taken.attempts))
            kept = outbox.failed(connection, taken, why, next_try)
        told = {"rule": taken.rule, "subject": taken.subject, "id": taken.id, "detail": why}
        if not kept:
            self._log.error("notification given up", attempts=taken.attempts, **told)
        elif self._failures in (1, WAITS.retries):
            self._log.warning("notification not delivered, it is tried again", **told)
        # All for this target wait: what refuses one refuses the next.
        self._stopping.wait(_drawn(self._failures))

    def _give_back(self) -> None:
        if self._unsent is not None:
            with self._engine.begin() as connection:
                outbox.release(connection, self._unsent)
            self._unsent = None

    def _settle_doubts(self) -> None:
        with self._engine.begin() as connection:
            before = now() - self._lease
            left = outbox.doubt(connection, self._target.name, before, dedups=self._target.dedups)
        if left:
            self._log.error("nobody knows whether notifications went out", count=left)

    def _pause(self) -> None:
        self.news.wait(PERIOD)
        self.news.clear()


def _drawn(failures: int) -> float:
    ceiling = WAITS.ceiling(failures)
    return JITTER.uniform(ceiling / 2, ceiling)
