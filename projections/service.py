"""The projections process: a thread per lane, one for levels, one for snapshots, and the pulse."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType

import structlog
from redis.exceptions import ResponseError
from sqlalchemy.exc import SQLAlchemyError

from projections import pulse
from projections.archive import Archiver
from projections.backoff import Backoff
from projections.database import is_away, open_engine
from projections.lanes import claimed_lanes, folded_lanes, settled_lanes
from projections.levels import Levels
from projections.runner import Runner
from projections.schema import migrate
from projections.snapshots import LaneState, Snapshots
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

    def __init__(self, settings: Settings, stopping: threading.Event | None = None) -> None:
        self.stopping = stopping or threading.Event()
        self.runners: dict[str, Runner] = {}
        self._settings = settings
        self._keys = StationKeys(settings.station.id)
        self._engine = open_engine(settings.postgres, name="projections")
        # Its own connections: a commit that waits for a standby must not keep folds waiting for one.
        self._archive_engine = open_engine(settings.postgres, name="archive")
        self._link = connect(settings.redis, "projections")
        self._changed = threading.Event()
        self._threads: list[threading.Thread] = []
        self._folded_before: list[str] = []
        self._log = structlog.get_logger("projections.service")

    def run(self) -> None:
        """Prepare the servers, then fold, measure and write until told to stop; waits for servers."""
        try:
            self._until_done("migrate", lambda: migrate(self._engine))
            self._until_done("read the positions", self._read_lanes)
            self._until_done("load the functions", lambda: load_library(self._link))
            if not self.stopping.is_set():
                self._begin()
                self._watch()
        finally:
            self.stopping.set()
            self._end()

    def _until_done(self, what: str, attempt: Callable[[], None]) -> None:
        backoff = Backoff(self.stopping)
        while not self.stopping.is_set():
            try:
                attempt()
                return
            except (Unreachable, ResponseError, SQLAlchemyError) as error:
                if isinstance(error, SQLAlchemyError) and not is_away(error):
                    raise
                if backoff.failures == 0:
                    self._log.warning("waiting for a server", to=what, detail=str(error).splitlines()[0])
                backoff.wait()

    def _read_lanes(self) -> None:
        with self._engine.connect() as connection:
            self._folded_before = folded_lanes(connection)

    def _begin(self) -> None:
        for lane in sorted({*settled_lanes(self._settings), *self._folded_before}):
            self._follow(lane)
        levels = Levels(self._linked("levels"), self._keys, lambda: tuple(self.runners), self.stopping)
        snapshots = Snapshots(
            self._engine,
            self._linked("snapshots"),
            self._keys,
            levels=levels.take,
            lanes=self.lane_states,
            changed=self._changed,
            stopping=self.stopping,
        )
        self._start("levels", levels.run)
        self._start("snapshots", snapshots.run)
        self._log.info("projections run", lanes=len(self.runners))

    def _follow(self, lane: str) -> None:
        runner = Runner(
            self._engine,
            self._linked(f"lane-{lane}"),
            lane,
            self._keys.lane(lane),
            self.stopping,
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
        )
        self._start(f"archive-{lane}", archiver.run)

    def lane_states(self) -> dict[str, LaneState]:
        """How far each lane is."""
        return {lane: LaneState(runner.checked_at, runner.trouble) for lane, runner in self.runners.items()}

    def _watch(self) -> None:
        """Look for new lanes and keep the pulse; what fails is tried again at the next look."""
        next_beat, told = 0.0, False
        while not self.stopping.wait(LOOK_EVERY):
            try:
                for lane in claimed_lanes(self._link, self._keys):
                    if lane not in self.runners:
                        self._log.info("new lane", lane=lane)
                        self._follow(lane)
                if time.monotonic() >= next_beat:
                    checked = {lane: runner.checked_at for lane, runner in self.runners.items()}
                    pulse.beat(self._engine, self._link, self._keys, checked, [self._settings.ingest.node])
                    next_beat = time.monotonic() + pulse.EVERY - LOOK_EVERY / 2
                told = False
            except (Unreachable, ResponseError, SQLAlchemyError) as error:
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
        self._log.info("projections stopped")


def serve(settings: Settings) -> None:
    """Run the projections until SIGTERM or SIGINT. Call it from the main thread."""
    service = Service(settings)

    def stop(number: int, frame: FrameType | None) -> None:
        service.stopping.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    service.run()
