"""The ingest process: a worker for each lane this node may own, telemetry, and the heartbeat."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType

import structlog

from ingest.claims import Claims
from ingest.heartbeat import Heartbeat
from ingest.lane import SourcesLane
from ingest.telemetry import TelemetryWriter
from streams.connection import connect
from streams.durability import Prover
from streams.healing import Archive
from streams.names import StationKeys, floating_lanes, node_lane
from streams.readiness import make_ready
from streams.settings import Settings
from streams.signing import Keyring, load_keyring
from streams.worker import LaneWorker

STOP_WITHIN = 3.0
"""Seconds that the lanes have to be released, all together."""
QUIET_WITHIN = 0.5
"""Seconds that whatever else runs has to end; what hangs then ends with the process."""

log = structlog.get_logger(__name__)


class Node:
    """One node's ingest. `run` blocks until `stopping` is set."""

    def __init__(self, settings: Settings, archive: Archive | None = None) -> None:
        self.stopping = threading.Event()
        self._settings = settings
        self._archive = archive
        self._keys = StationKeys(settings.station.id)
        self._name = settings.ingest.node
        self._prover = Prover(settings.redis)
        self._keyring = load_keyring(Path(settings.keys.directory))
        self._quiet = threading.Event()
        self._telemetry = TelemetryWriter(connect(settings.redis, f"{self._name}-telemetry"), self._keys)
        self._claims = Claims(connect(settings.redis, f"{self._name}-claims"), self._keys)
        self._handlers: dict[str, SourcesLane] = {}
        self._workers: dict[str, LaneWorker] = {}
        self._threads: list[threading.Thread] = []

    def run(self) -> None:
        """Own lanes until told to stop, then release them and stop telemetry and heartbeat."""
        make_ready(self._settings.redis, f"{self._name}-library", self.stopping)
        names = [node_lane(self._name), *floating_lanes(self._settings.station.lanes)]
        self._start("telemetry", self._telemetry.run, self._quiet)
        self._start("claims", self._claims.run, self._quiet)
        lanes = [self._start(f"lane-{lane}", self._add(lane).run, self.stopping) for lane in names]
        heartbeat = Heartbeat(
            connect(self._settings.redis, f"{self._name}-heartbeat"),
            self._keys,
            self._name,
            lanes=lambda: [lane for lane, worker in self._workers.items() if worker.owned.is_set()],
            sources=self._counts,
        )
        self._start("heartbeat", heartbeat.run, self._quiet)
        log.info("ingest runs", node=self._name, lanes=len(names))
        self.stopping.wait()
        _join(lanes, STOP_WITHIN)
        self._quiet.set()
        _join(self._threads, QUIET_WITHIN)
        log.info("ingest stopped", node=self._name)

    def _add(self, lane: str) -> LaneWorker:
        handler = self._handlers[lane] = SourcesLane(lane, self._telemetry.lane(lane), self._claims)
        worker = self._workers[lane] = LaneWorker(
            self._settings,
            lane,
            self._name,
            handler,
            keyring=self._keys_known,
            prover=self._prover,
            archive=self._archive,
        )
        return worker

    def _keys_known(self) -> Keyring:
        return self._keyring

    def _start(
        self, name: str, body: Callable[[threading.Event], None], stop: threading.Event
    ) -> threading.Thread:
        thread = threading.Thread(target=body, args=(stop,), name=name, daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread

    def _counts(self) -> dict[str, int]:
        total: Counter[str] = Counter()
        for handler in self._handlers.values():
            total.update(handler.counts())
        return dict(total)


def _join(threads: Iterable[threading.Thread], seconds: float) -> None:
    until = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(until - time.monotonic(), 0))


def serve(settings: Settings, archive: Archive | None = None) -> None:
    """Run this node's ingest until SIGTERM or SIGINT. Call it from the main thread.

    `archive` is asked for what a lane's log lost, whenever a lane is taken over.

    Raises WrongServer, InvalidKey.
    """
    node = Node(settings, archive)

    def stop(number: int, frame: FrameType | None) -> None:
        node.stopping.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    node.run()
