"""The projections process: a thread per lane, others for levels, snapshots, verifying and telling people."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from datetime import UTC, date, datetime
from types import FrameType

import structlog
from redis.exceptions import ResponseError
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from projections import partitions, pulse
from projections.archive import Archiver
from projections.archive_reader import ArchiveReader
from projections.backoff import postgres_waits
from projections.database import QUEUE_WITHIN, is_away, open_engine
from projections.fold_snapshots import SnapshotMaker
from projections.lanes import claimed_lanes, folded_lanes, settled_lanes
from projections.lasting import WITHIN, history
from projections.levels import Levels
from projections.notify import threads as notify
from projections.rebuild import Rebuilder
from projections.rollups import RollUps
from projections.runner import Runner
from projections.schema import migrate
from projections.snapshots import LaneState, Snapshots
from projections.standby import ANSWER_WITHIN
from projections.verifier import Verifier
from streams.backoff import Backoff
from streams.breaker import Breakers, is_unreachable
from streams.connection import Link, Unreachable, connect
from streams.library import load_library
from streams.names import StationKeys
from streams.settings import Settings

LOOK_EVERY = 2.0
"""Seconds between two looks for new lanes."""
STOP_WITHIN = 2.0
"""Seconds that the threads have to end."""


class Service:
    """All projections of a station. `run` blocks until `stopping` is set."""

    def __init__(
        self,
        settings: Settings,
        stopping: threading.Event | None = None,
        breakers: Breakers | None = None,
    ) -> None:
        self.breakers = breakers or Breakers(settings.breaker)
        self.stopping = stopping or threading.Event()
        self.runners: dict[str, Runner] = {}
        self._settings = settings
        self._keys = StationKeys(settings.station.id)
        self._engine = open_engine(settings.postgres, name="projections")
        # Its own connections: a commit that waits for a standby must not keep folds waiting for one.
        self._archive_engine = open_engine(
            settings.postgres, name="archive", queue_within=WITHIN + QUEUE_WITHIN
        )
        self._snapshot_engine = open_engine(
            settings.postgres, name="snapshots", connections=1, answer_within=ANSWER_WITHIN
        )
        self._verify_engine = open_engine(settings.postgres, name="verify", connections=2)
        # A rebuild holds one connection for as long as it takes; roll-ups need one now and then.
        self._rebuild_engine = open_engine(settings.postgres, name="rebuild", connections=2)
        self._notify_engine: Engine | None = None
        self._waits = postgres_waits(settings.postgres)
        self._archive = ArchiveReader(settings.postgres, self.breakers.postgres)
        self._link = connect(settings.redis, "projections")
        self._changed = threading.Event()
        self._threads: list[threading.Thread] = []
        self._archivers: list[Archiver] = []
        self._folded_before: list[str] = []
        self._history = ""
        self._months: list[date] = []
        self._log = structlog.get_logger("projections.service")

    def run(self) -> None:
        """Prepare the servers, then fold, measure and write until told to stop; waits for servers."""
        try:
            self._until_done("migrate", lambda: migrate(self._engine))
            self._until_done("make partitions", self._look_at_months)
            self._until_done("read the positions", self._read_lanes)
            self._until_done("load the functions", lambda: load_library(self._link))
            if not self.stopping.is_set():
                self._begin()
                self._watch()
        finally:
            self.stopping.set()
            self._end()

    def _until_done(self, what: str, attempt: Callable[[], None]) -> None:
        backoff = Backoff(self.stopping, self._waits)
        while not self.stopping.is_set():
            try:
                attempt()
                return
            except (Unreachable, ResponseError, SQLAlchemyError) as error:
                if isinstance(error, SQLAlchemyError) and not is_away(error):
                    raise
                detail = str(error).splitlines()[0]
                if backoff.failures == 0:
                    self._log.warning("waiting for a server", to=what, detail=detail)
                elif backoff.exhausted:
                    tries = backoff.failures + 1
                    self._log.error(
                        "still no server, it is tried for ever", to=what, tries=tries, detail=detail
                    )
                backoff.wait()

    def _read_lanes(self) -> None:
        with self._engine.connect() as connection:
            # Before any position is: what is read from another history is noticed later.
            self._history = history(connection)
            self._folded_before = folded_lanes(connection)

    def _look_at_history(self) -> None:
        """Have all positions read again where Postgres goes on from another history. Raises DBAPIError.

        A server that was promoted may lack the latest commits: of the folds and, where nothing makes
        them wait for it, of the archive, which it was told then. What it lacks is read from the log.
        """
        with self._engine.connect() as connection:
            found = history(connection)
        if found == self._history:
            return
        self._log.warning(
            "Postgres has another history: positions are read again", was=self._history, now=found
        )
        migrate(self._engine)
        self._months = []
        for runner in (*self.runners.values(), *self._archivers):
            runner.read_again()
        self._history = found

    def _look_at_months(self) -> None:
        """Make the archive's partitions ahead of time, as soon as a month begins. Raises DBAPIError."""
        months = partitions.wanted(datetime.now(UTC).date())
        if months != self._months:
            with self._engine.begin() as connection:
                partitions.make_ahead(connection, months)
            self._months = months

    def _begin(self) -> None:
        for lane in sorted({*settled_lanes(self._settings), *self._folded_before}):
            self._follow(lane)
        levels = Levels(self._linked("levels"), self._keys, lambda: tuple(self.runners), self.stopping)
        snapshots = Snapshots(
            self._snapshot_engine,
            self._linked("snapshots"),
            self._keys,
            levels=levels.take,
            lanes=self.lane_states,
            changed=self._changed,
            stopping=self.stopping,
        )
        rebuilder = Rebuilder(
            self._rebuild_engine,
            self.stopping,
            on_error=self._settings.projections.on_error_rebuild,
            waits=self._waits,
            rebuilt=self._read_positions_again,
        )
        rollups = RollUps(
            self._rebuild_engine,
            self._linked("rollups"),
            self._keys,
            lambda: tuple(self.runners),
            self.stopping,
        )
        self._start("rebuild", rebuilder.run)
        self._start("rollups", rollups.run)
        self._start("levels", levels.run)
        self._start("snapshots", snapshots.run)
        verifier = Verifier(
            self._verify_engine,
            self._linked("verify"),
            self._linked("verify-whole"),
            self._keys,
            self.stopping,
        )
        self._start("verify", verifier.run)
        self._start("verify-whole", verifier.run_whole)
        self._start("fold-snapshots", SnapshotMaker(self._settings.postgres, self.stopping).run)
        for name, body in self._notifying():
            self._start(name, body)
        self._log.info("projections run", lanes=len(self.runners))

    def _notifying(self) -> notify.Bodies:
        if not notify.wanted(self._settings):
            return []
        self._notify_engine = open_engine(
            self._settings.postgres,
            name="notify",
            connections=notify.connections(self._settings),
            queue_within=WITHIN + QUEUE_WITHIN,
        )
        return notify.bodies(
            self._settings, self._notify_engine, self._linked, self.lane_states, self.stopping
        )

    def _follow(self, lane: str) -> None:
        runner = Runner(
            self._engine,
            self._linked(f"lane-{lane}"),
            lane,
            self._keys.lane(lane),
            self.stopping,
            archive=self._archive,
            waits=self._waits,
            on_error=self._settings.projections.on_error_live,
            changed=self._changed.set,
        )
        # Replaced, not changed: other threads go over it.
        self.runners = {**self.runners, lane: runner}
        self._start(lane, runner.run)
        archiver = Archiver(
            self._archive_engine,
            self._linked(f"archive-{lane}"),
            lane,
            self._keys.lane(lane),
            self.stopping,
            standbys=self._settings.postgres.standbys,
            waits=self._waits,
        )
        self._archivers.append(archiver)
        self._start(f"archive-{lane}", archiver.run)

    def _read_positions_again(self) -> None:
        for runner in self.runners.values():
            runner.read_again()
        self._changed.set()

    def lane_states(self) -> dict[str, LaneState]:
        """How far each lane is."""
        return {lane: LaneState(runner.checked_at, runner.trouble) for lane, runner in self.runners.items()}

    def _watch(self) -> None:
        """Look for new lanes and keep the pulse; what fails is tried again at the next look."""
        next_beat, told = 0.0, False
        while not self.stopping.wait(LOOK_EVERY):
            try:
                lanes = claimed_lanes(self._link, self._keys)
                self.breakers.redis.succeeded()
                for lane in lanes:
                    if lane not in self.runners:
                        self._log.info("new lane", lane=lane)
                        self._follow(lane)
                self._look_at_history()
                self._look_at_months()
                if time.monotonic() >= next_beat:
                    checked = {lane: runner.checked_at for lane, runner in self.runners.items()}
                    pulse.beat(self._engine, self._link, self._keys, checked, [self._settings.ingest.node])
                    self.breakers.postgres.succeeded()
                    next_beat = time.monotonic() + pulse.EVERY - LOOK_EVERY / 2
                told = False
            except (Unreachable, ResponseError, SQLAlchemyError) as error:
                # This loop tries again by itself: it tells the breakers what it finds and heeds none.
                if is_unreachable(error):
                    self.breakers.redis.failed(str(error))
                elif is_away(error):
                    self.breakers.postgres.failed(str(error))
                if not told:
                    self._log.warning("no pulse", detail=str(error).splitlines()[0])
                told = True

    def _linked(self, name: str) -> Link:
        return connect(self._settings.redis, f"projections-{name}")

    def _start(self, name: str, body: Callable[[], None]) -> None:
        # Daemons, so that a thread held up by a frozen server does not keep the process.
        thread = threading.Thread(target=body, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _end(self) -> None:
        deadline = time.monotonic() + STOP_WITHIN
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        late = [thread.name for thread in self._threads if thread.is_alive()]
        if late:
            self._log.warning("threads did not end in time", threads=late)
        self._link.close()
        self._engine.dispose()
        self._archive_engine.dispose()
        self._snapshot_engine.dispose()
        self._verify_engine.dispose()
        self._rebuild_engine.dispose()
        if self._notify_engine is not None:
            self._notify_engine.dispose()
        self._log.info("projections stopped")


def serve(settings: Settings, breakers: Breakers | None = None) -> None:
    """Run the projections until SIGTERM or SIGINT. Call it from the main thread."""
    service = Service(settings, breakers=breakers)

    def stop(number: int, frame: FrameType | None) -> None:
        service.stopping.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    service.run()
