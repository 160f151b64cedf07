"""Seeing to what is spooled: put into the log by whoever owns the lane, deleted once it is archived.

What this node's own lanes have spooled enters their logs as it is kept, and again at each taking over. What
is of a lane that another node owns by now is reported to it, by a signed command.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any

import structlog
from redis.exceptions import ResponseError

from ingest.entered import FIELD
from ingest.spool import Spool, Spooled
from streams.backoff import Backoff
from streams.connection import Link, Unreachable, connect
from streams.durability import Prover
from streams.messages import decode_event, new_command, now
from streams.names import StationKeys
from streams.settings import InvalidSettings, Settings
from streams.signing import Key, Keyring
from streams.submit import InDoubt, NoAnswer, Refused, Submitter, signed
from streams.vocabulary import Reported, SourceReport, plain

EVERY = 2.0
"""Seconds between two rounds."""
OTHERS = timedelta(seconds=15)
"""After which what is spooled of a lane that is not ours is reported: a failover may give it back before."""
AGAIN = timedelta(minutes=5)
"""After which what was reported, and is not found in the log, is reported again."""
CLOCKS = timedelta(minutes=2)
"""By how much the clocks of two nodes may differ: how far before a fact its event is looked for."""
PAGE = 500
"""Events that are read at once, newest first."""
ANSWER_WITHIN = 8.0
"""Seconds to wait for the answer to a report."""
REPORT = "source.report"

log = structlog.get_logger(__name__)


def signer(keyring: Keyring) -> Key | None:
    """The key that a node signs its reports with: its own, else any that may; None where there is none."""
    able = [key for key in keyring.values() if key.secret and key.permits(REPORT)]
    return min(able, key=lambda key: (key.role != "node", key.id), default=None)


def reporter(settings: Settings, name: str, prover: Prover) -> Submitter | None:
    """What a node submits its reports by, as whoever submits commands; None where it has no such password.

    A node's own user in Redis may not put commands into lanes.
    """
    try:
        theirs = settings.as_role("submitter")
    except InvalidSettings as error:
        log.warning("this node cannot report what is spooled of lanes that have moved", detail=str(error))
        return None
    return Submitter(theirs, connect(theirs.redis, name), prover)


class Courier:
    """Sees to one node's spool. `run` is the body of a thread.

    `owned` tells which lanes are this node's.
    """

    def __init__(
        self,
        settings: Settings,
        link: Link,
        submitter: Submitter | None,
        spool: Spool,
        *,
        owned: Callable[[], Collection[str]],
        keyring: Callable[[], Keyring],
    ) -> None:
        self._station = settings.station.id
        self._has_archive = bool(settings.postgres.url)
        self._keys = StationKeys(settings.station.id)
        self._link, self._submitter, self._spool = link, submitter, spool
        self._owned, self._keyring = owned, keyring
        self._reported: dict[tuple[str, str], datetime] = {}
        self._seen: dict[str, int] = {}
        """How far each lane was archived at the last look."""
        self._warned = False

    def run(self, stop: threading.Event) -> None:
        """See to it until `stop` is set; what cannot be done now stays to be done."""
        backoff = Backoff(stop)
        while not stop.wait(EVERY):
            try:
                for lane in self._spool.lanes():
                    self.see_to(lane)
                backoff.reset()
            except (Unreachable, ResponseError, Refused, NoAnswer, InDoubt) as error:
                log.info("spooled facts wait", detail=str(error))
                backoff.wait()
            except Exception:  # what is spooled is seen to as long as the node runs
                log.exception("courier failed")
                backoff.wait()
        self._link.close()

    def see_to(self, lane: str) -> None:
        """Delete what is archived of a lane; report what another owner is to log. Raises what Redis does."""
        owned, safe = lane in self._owned(), self._safe(lane)
        if owned and safe == self._seen.get(lane):
            # Nothing more is archived than at the last look, so nothing can go.
            return
        self._seen[lane] = safe
        pending = self._spool.pending(lane)
        found, whole = self._found(lane, pending)
        missing = []
        for spooled in pending:
            seq = found.get(spooled.id)
            if seq is None and whole and (lane, spooled.id) in self._reported:
                # Its owner says that it stands in the log, and it does no more: only what is archived goes.
                seq = 0
            if seq is None:
                missing.append(spooled)
            elif seq <= safe:
                self._spool.forget(spooled)
                self._reported.pop((lane, spooled.id), None)
        if not owned:
            self._report(lane, missing)

    def _found(self, lane: str, pending: list[Spooled]) -> tuple[Mapping[str, int], bool]:
        """Where the facts stand in the log; and whether all of it was read that is in Redis."""
        wanted = {spooled.id for spooled in pending}
        since = min((spooled.kept_at for spooled in pending), default=now()) - CLOCKS
        found: dict[str, int] = {}
        end = "+"
        while entries := self._link.call("XREVRANGE", self._keys.lane(lane).events, end, "-", "COUNT", PAGE):
            for _, fields in entries:
                event = decode_event(fields[1])
                if event.data.get(FIELD) in wanted:
                    found[event.data[FIELD]] = event.seq
                if event.logged_at < since:
                    return found, False
            if len(found) == len(wanted):
                return found, False
            end = "(" + entries[-1][0].decode()
        return found, True

    def _safe(self, lane: str) -> int:
        """The last event that nothing can take back: archived, or durable where there is no archive."""
        keys = self._keys.lane(lane)
        key, field = (keys.archived, "seq") if self._has_archive else (keys.head, "wm_seq")
        return int(self._link.call("HGET", key, field) or 0)

    def _report(self, lane: str, missing: list[Spooled]) -> None:
        """Raises Unreachable, Refused, NoAnswer, InDoubt."""
        due = [one for one in missing if self._due(one)]
        if not due or self._submitter is None:
            return
        key = signer(self._keyring())
        if key is None:
            if not self._warned:
                log.error("no key here may sign reports: what is spooled waits for its lane", lane=lane)
            self._warned = True
            return
        for source, of_source in groupby(sorted(due, key=lambda one: one.source), lambda one: one.source):
            facts = sorted(of_source, key=lambda one: (one.kept_at, one.counter))[:50]
            params = SourceReport(facts=[_reported(one) for one in facts])
            command = new_command(
                station=self._station, lane=lane, source=source, type=REPORT, params=plain(params), key=key.id
            )
            answer = self._submitter.submit(signed(command, key), timeout=ANSWER_WITHIN)
            log.info("spooled facts reported", lane=lane, count=len(facts), outcome=answer.outcome)
            if answer.outcome == "completed":
                self._reported.update({(lane, one.id): now() for one in facts})

    def _due(self, spooled: Spooled) -> bool:
        reported = self._reported.get((spooled.lane, spooled.id))
        if reported is not None:
            return now() - reported > AGAIN
        return now() - spooled.kept_at > OTHERS


def _reported(spooled: Spooled) -> Reported:
    data: dict[str, Any] = spooled.data
    return Reported(spool=spooled.id, source=spooled.source, type=spooled.type, data=data, at=spooled.at)
